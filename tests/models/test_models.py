"""Models by name, and the paper's counts."""

import pytest
import torch
from paper import BUDGETS
from torch import nn

import neuralgraph as ng
from neuralgraph.analysis import block_counts, dead_nodes, degrees, longest_path
from neuralgraph.errors import InputError, NeuralGraphError, UnknownNameError
from neuralgraph.layers import densify
from neuralgraph.layers.sparse import sparse_layers


def test_tiny_static_has_the_papers_size():
    """43,058 parameters, 41,458 without norm scales and shifts in the graph: the paper's 41k."""
    model = ng.models.create("tiny-static")
    network, = model.networks
    assert network.wiring.num_edges == 325_760
    assert model.num_real_edges == 32_000 == network.selection().real.sum()
    others = sum(p.numel() for p in model.parameters()) - network.weight.numel()
    assert others + 32_000 == 43_058
    assert sum(p.numel() for p in model.stem.parameters()) == 1_248
    assert sum(p.numel() for p in model.head.parameters()) == 1_010
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", ["tiny-discrete", "tiny-continuous"])
def test_dynamic_models_have_the_same_budget(name):
    model = ng.models.create(name)
    network, = model.networks
    assert network.wiring.num_edges == 640_000 and model.num_real_edges == 32_000
    assert sum(p.numel() for p in model.parameters()) - 640_000 + 32_000 == 43_058
    assert network.weight.abs().max() < 800**-0.5


@pytest.mark.parametrize("width", BUDGETS)
def test_mobilenet_budgets_are_the_papers(width):
    """Edges per graph for each width of Table 3, to the last edge."""
    from neuralgraph.models.mobilenet import STAGES

    assert tuple(stage.budget(width) for stage in STAGES) == BUDGETS[width]


def test_mobilenet_structure():
    model = ng.models.create("mobilenet-dnw", width=0.225, image_size=32, num_classes=10)
    sizes = [(len(n.wiring.inputs), len(n.wiring.outputs), n.wiring.num_edges) for n in model.networks]
    assert sizes == [(32, 64, 2_048), (64, 128, 32_768), (128, 256, 131_072), (256, 512, 4_718_592),
                     (512, 1_024, 2_097_152)]
    assert [int(n.selection().real.sum()) for n in model.networks] == list(BUDGETS[0.225])
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1) + model.num_real_edges
    assert weights == 214_688  # methods 3.6
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    norms = sum(p.numel() for name, p in model.named_parameters()
                if p.dim() == 1 and (".functions." in name or "head.norm" in name))
    assert norms == 11_968


def test_mobilenet_small_and_wide():
    small = ng.models.create("mobilenet-dnw-small", width=0.225, num_classes=1000, image_size=224)
    assert small.networks[-1].selector.k == 230_400 and small.networks[-1].wiring.num_edges == 1_024_000
    assert small.networks[-1].weight.abs().max() < 1 / 32
    tiny = ng.models.create("mobilenet-dnw-small", width=0.15, num_classes=1000, image_size=32)
    assert tiny.networks[-1].selector.k == 153_600
    assert tiny.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
    from neuralgraph.models.mobilenet import MobileNetStage

    stages = (MobileNetStage(32, 64, 1, 1), MobileNetStage(64, 128, 2, 2))
    for width, k in ((0.225, 288), (1, 1280), (1.5, 1920), (2, 2560)):  # of 1280 times nodes
        model = ng.models.mobilenet_dnw(small=True, width=width, nodes=2, stages=stages, num_classes=10,
                                        image_size=32)
        assert (model.networks[-1].selector.k, model.networks[-1].wiring.num_edges) == (k, 2560)
    wide = ng.models.mobilenet_dnw(width=1, nodes=2, stages=stages, num_classes=10, head_edges=500,
                                   image_size=32)
    assert [n.selector.k for n in wide.networks] == [2_048, 24_576, 500]
    assert [len(n.wiring.inputs) for n in wide.networks] == [64, 128, 256]


def test_the_former_name_of_a_stage():
    from neuralgraph.models import mobilenet

    with pytest.warns(DeprecationWarning, match="now called MobileNetStage"):
        assert mobilenet.Stage is mobilenet.MobileNetStage
    assert not hasattr(mobilenet, "Stages")


@pytest.mark.parametrize("size, sides", [(16, (16, 8, 4)), (32, (32, 16, 8)), (64, (64, 32, 16)),
                                         (65, (33, 17, 9)), (224, (112, 56, 28))])
def test_mobilenet_image_sizes(size, sides):
    from neuralgraph.models.mobilenet import STAGES

    model = ng.models.mobilenet_dnw(width=0.225, image_size=size, num_classes=4, stages=STAGES[:3]).eval()
    x = model.stem(torch.zeros(1, 3, size, size))
    for network, side in zip(model.stages, sides):
        x = network(x)
        assert x.shape[2:] == (side, side)


class PlainMobileNetV1(nn.Module):
    """MobileNetV1 as everybody writes it."""

    def __init__(self, width, classes):
        super().__init__()
        layers, channels = [], int(32 * width)
        layers += [nn.Conv2d(3, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        for out, stride in [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5,
                            (1024, 2), (1024, 1)]:
            out = int(out * width)
            layers += [nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
                       nn.BatchNorm2d(channels), nn.ReLU(),
                       nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x):
        return self.linear(self.layers(x).mean((2, 3)))


def test_mobilenet_v1_is_a_wiring(float64):
    """The chain of blocks equals the plain module, in training and evaluation mode."""
    model = ng.models.create("mobilenet-v1", width=0.25, image_size=32, num_classes=10)
    plain = PlainMobileNetV1(0.25, 10)
    weights = sum(p.numel() for p in plain.parameters() if p.dim() > 1)
    assert weights == 210_160  # methods 3.6
    network, = model.networks
    groups = network.functions.groups
    of = {int(node): (group, row) for group in groups for row, node in enumerate(group.nodes)}
    convs = [layer for layer in plain.layers if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in plain.layers if isinstance(layer, nn.BatchNorm2d)]
    with torch.no_grad():
        convs[0].weight.copy_(model.stem[0].weight)
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5), norm.bias.uniform_(-0.5, 0.5)
        model.stem[1].load_state_dict(norms[0].state_dict())
        plain.linear.load_state_dict(model.head[1].state_dict())
        edge = 0
        for block in range(13):
            depthwise, pointwise, after_depthwise, after_pointwise = (
                convs[1 + 2 * block], convs[2 + 2 * block], norms[1 + 2 * block], norms[2 + 2 * block])
            count = pointwise.weight.numel()
            pointwise.weight.copy_(network.weight[edge:edge + count].view_as(pointwise.weight))
            edge += count
            for nodes, norm, phase in (((network.wiring.block == block).nonzero(), after_depthwise, "send"),
                                       ((network.wiring.block == block + 1).nonzero(), after_pointwise, "receive")):
                for channel, node in enumerate(nodes.flatten().tolist()):
                    group, row = of[node]
                    operation = group.send[1] if phase == "send" else group.receive[0]
                    for name in ("weight", "bias"):
                        getattr(operation, name)[row] = getattr(norm, name)[channel]
                    if phase == "send":
                        depthwise.weight[channel] = group.send[0].weight[row]
    x = torch.randn(3, 3, 32, 32)
    for mode in (True, False):
        model.train(mode), plain.train(mode)
        torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-5)


def test_stem_is_the_authors():
    model = ng.models.create("tiny-static")
    x = torch.randn(2, 3, 32, 32)
    conv1, norm1, conv2, conv3, norm2 = (model.stem[i] for i in (0, 1, 3, 4, 5))
    y = torch.relu(norm1(nn.functional.conv2d(x, conv1.weight, conv1.bias, stride=2, padding=1)))
    y = nn.functional.conv2d(y, conv2.weight, conv2.bias, stride=2, padding=1, groups=16)
    y = norm2(nn.functional.conv2d(y, conv3.weight, conv3.bias))
    torch.testing.assert_close(model.stem(x), y)
    assert y.shape == (2, 32, 8, 8)


@pytest.mark.parametrize("size, side", [(8, 8), (15, 15), (16, 8), (28, 14), (32, 8), (64, 16)])
def test_image_sizes(size, side):
    model = ng.models.create("tiny-static", image_size=size, in_channels=1, num_classes=4, k=4000)
    x = torch.zeros(2, 1, size, size)
    assert model.stem(x).shape == (2, 32, side, side) and model(x).shape == (2, 4)


def test_pools():
    x = torch.arange(128.0).view(1, 2, 8, 8)
    window = ng.models.tiny.CentrePool()(x)
    crop = x[:, :, 2:5, 2:5]  # the authors crop three rows and pool 2x2 with stride 2
    assert torch.equal(window, nn.functional.avg_pool2d(crop, 2).flatten(1))
    assert torch.equal(ng.models.tiny.GlobalPool()(x), x.flatten(2).mean(2))
    with pytest.raises(InputError, match="at least 4x4"):
        ng.models.tiny.CentrePool()(x[:, :, :3])


def test_seed_and_global_state():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    a, b = (ng.models.create("tiny-static", seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))
    # the default initial distributions of torch
    assert a.stem[0].weight.abs().max() <= 27**-0.5 and a.head[1].bias.abs().max() <= 0.1


@pytest.mark.parametrize("options, message", [
    ({"num_clases": 3}, "did you mean 'num_classes'"), ({"pool": "max"}, "unknown pool 'max'"),
    ({"selector": "topk"}, "unknown selector 'topk'"),
])
def test_unknown_options(options, message):
    with pytest.raises(UnknownNameError, match=message):
        ng.models.create("tiny-static", **options)
    with pytest.raises(UnknownNameError, match="did you mean 'tiny-static'"):
        ng.models.create("tiny-statc")


@pytest.mark.parametrize("options, message", [
    ({"width": 0}, "width must be above 0"), ({"width": 1.5}, "give more nodes"),
    ({"selector": "complete", "width": 0.5}, "takes no width"), ({"image_size": 8}, "at least 16"),
    ({"nodes": 0}, "nodes must be a positive integer"), ({"width": "a"}, "width must be a number"),
    ({"width": True}, "width must be a number"), ({"stages": ()}, "at least one stage"),
    ({"selector_options": [1]}, "selector_options must be a dict"),
])
def test_bad_mobilenets(options, message):
    with pytest.raises(InputError, match=message):
        ng.models.create("mobilenet-dnw", **options)


@pytest.mark.parametrize("width", ["a", True, 0.01, float("nan")])
def test_bad_width_of_mobilenet_v1(width):
    with pytest.raises(InputError, match="width must"):
        ng.models.create("mobilenet-v1", width=width)


def test_bad_values():
    with pytest.raises(InputError, match="image_size must be a positive integer"):
        ng.models.create("tiny-static", image_size=0)
    model = ng.models.create("tiny-static")
    with pytest.raises(InputError, match="images are torch.float64 but the model's weights torch.float32"):
        model(torch.zeros(2, 3, 32, 32, dtype=torch.float64))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(torch.zeros(2, 3, 32, 32, dtype=torch.bfloat16)).shape == (2, 10)
    for x in (torch.zeros(2, 1, 32, 32), torch.zeros(3, 32, 32),
              torch.zeros(2, 3, 32, 32, dtype=torch.uint8)):
        with pytest.raises(InputError, match="floating-point images"):
            model(x)


def test_structure_against_networkx():
    import networkx as nx

    network = ng.StaticNeuralGraph(ng.wirings.blocks([4, 6, 6, 3]), ng.RandomGraph(25))
    wiring = network.learned_wiring()
    graph = ng.to_networkx(network)
    inward, outward = degrees(wiring)
    assert inward.tolist() == [d for _, d in sorted(graph.in_degree(weight=None))]
    assert outward.tolist() == [d for _, d in sorted(graph.out_degree(weight=None))]
    assert longest_path(wiring) == nx.dag_longest_path_length(graph, weight=None)
    assert longest_path(ng.wirings.complete(4, inputs=1, outputs=1)) is None
    dead = dead_nodes(wiring)
    role = nx.get_node_attributes(graph, "role")
    assert dead.count == sum(
        (role[v] != "input" and not graph.in_degree(v)) or (role[v] != "output" and not graph.out_degree(v))
        for v in graph)
    assert sum(block_counts(wiring).values()) == 25
    assert all(torch.equal(a, b) for a, b in zip(degrees(network.wiring, network.selection().real),
                                                 (inward, outward)))


@pytest.mark.parametrize("options, real", [
    ({"k": 2000}, (466, 904, 630)), ({"k": 2000, "budget": "uniform"}, (395, 1578, 27)),
    ({"k": 93_440}, (18_432, 73_728, 1280)), ({"density": 0.25, "budget": "uniform"}, (4608, 18_432, 320)),
    ({"k": 1000, "granularity": "kernel"}, None), ({"k": 5000, "per": "model"}, None)])
def test_tiny_convnet_keeps_as_many_weights_as_asked(options, real):
    model = ng.models.create("tiny-convnet", in_channels=1, image_size=8, **options)
    layers = sparse_layers(model)
    counts = [int(layer.real().sum()) for layer in layers]
    assert sum(layer.weight.numel() for layer in layers) == 93_440
    assert sum(counts) == model.num_real_edges == sum(layer.k for layer in layers)
    if options.get("granularity") == "kernel":
        kernels = [int(layer.real().flatten(2).any(2).sum()) if layer.weight.dim() == 4 else int(layer.real().sum())
                   for layer in layers]
        assert sum(kernels) == 1000
    elif "k" in options:
        assert sum(counts) == options["k"]
    assert real is None or tuple(counts) == real
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_complete_tiny_convnet_is_the_dense_one():
    """The same layers without selectors, and costs by hand: 8x8, 4x4 and 2x2 maps."""
    model = ng.models.create("tiny-convnet", selector="complete", in_channels=1, image_size=8).eval()
    dense = densify(model)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(model(x), dense(x)) and model.num_real_edges == 93_440
    assert ng.analysis.cost(model).multiply_adds == 9 * 32 * 64 + 9 * 32 * 64 * 16 + 9 * 64 * 128 * 4 + 1280
    sparse = ng.models.create("tiny-convnet", k=2000, in_channels=1, image_size=8)
    assert ng.analysis.cost(sparse).multiply_adds == 9 * 32 * 64 + 466 * 16 + 904 * 4 + 630


@pytest.mark.parametrize("options, message", [
    ({"k": 93_441}, "at most the 93440"), ({"k": 2}, "leaves no weight"), ({"k": 5, "density": 0.1}, "give one of them"),
    ({"k": 500, "per": "node"}, "needs density"), ({"selector": "complete", "k": 5}, "leave k and density out"),
    ({"budget": "fair"}, "unknown budget"), ({"granularity": "block"}, "unknown granularity")])
def test_bad_tiny_convnets(options, message):
    with pytest.raises(NeuralGraphError, match=message):
        ng.models.create("tiny-convnet", **options)


def test_a_model_without_graphs_is_refused_by_name(tmp_path):
    model = ng.models.create("tiny-convnet", k=2000, in_channels=1, image_size=8)
    with pytest.raises(InputError, match="no neural graph: to compile"):
        ng.compile(model)
