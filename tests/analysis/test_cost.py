"""Multiply-adds and parameters: the paper's Table 3 to the last edge, and as really executed."""

import pytest
import torch
from paper import BUDGETS

import neuralgraph as ng
from neuralgraph.analysis import cost, executed_multiply_adds, micronet_score
from neuralgraph.errors import InputError

SIDES, OPS = (112, 56, 28, 14, 7), (32, 192, 384, 2816, 1536)
STEM, POOL, CLASSIFIER = 27 * 32 * 112**2, 49 * 1024, 1024 * 1000
# methods, table 3.4: parameters and multiply-adds in millions, no dead nodes
PRINTED = {0.225: (1.228, 56.62), 0.3: (1.352, 77.86), 0.49: (1.823, 158.84), 0.51: (1.886, 169.63)}


@pytest.fixture(scope="module")
def mobilenet():
    return ng.models.create("mobilenet-dnw", width=0.225)


@pytest.mark.parametrize("width", PRINTED)
def test_table_3(mobilenet, width):
    for network, k in zip(mobilenet.networks, BUDGETS[width]):
        network.selector.k = k
    price = cost(mobilenet, skip_dead=False)
    edges = sum(side**2 * k for side, k in zip(SIDES, BUDGETS[width]))
    nodes = sum(side**2 * 9 * ops for side, ops in zip(SIDES, OPS))
    assert price.multiply_adds == edges + nodes + STEM + POOL + CLASSIFIER
    assert price.parameters == sum(BUDGETS[width]) + 9 * sum(OPS) + 27 * 32 + CLASSIFIER
    assert price.norms_and_biases == 11_968 + 1_000
    params, adds = PRINTED[width]
    assert round(price.parameters / 1e6, 3) == params and round(price.multiply_adds / 1e6, 2) == adds
    live = cost(mobilenet)
    assert live.multiply_adds <= price.multiply_adds and live.parameters <= price.parameters
    # a random start leaves nodes dead only where edges are few
    assert (live.multiply_adds < price.multiply_adds) == (width == 0.225)


@pytest.mark.parametrize("width, params, adds", [(0.15, 0.270, 40.58), (0.225, 0.435, 55.82)])
def test_table_3_small(width, params, adds):
    price = cost(ng.models.create("mobilenet-dnw-small", width=width), skip_dead=False)
    assert round(price.parameters / 1e6, 3) == params and round(price.multiply_adds / 1e6, 2) == adds


@pytest.mark.parametrize("width, params, adds", [(0.25, 0.464, 41.03), (0.5, 1.320, 149.50)])
def test_mobilenet_v1(width, params, adds):
    model = ng.models.create("mobilenet-v1", width=width)
    price = cost(model)
    assert round(price.parameters / 1e6, 3) == params
    assert round(price.multiply_adds / 1e6, 2) == adds
    assert executed_multiply_adds(model, torch.zeros(1, 3, 224, 224)) == \
        price.multiply_adds


def test_cifar_variant():
    """Methods 3.6: 4.55 and 3.33 million multiply-adds at 32 pixels."""
    small = cost(ng.models.create("mobilenet-dnw", width=0.225, image_size=32, num_classes=10), skip_dead=False)
    plain = cost(ng.models.create("mobilenet-v1", width=0.25, image_size=32, num_classes=10))
    assert round(small.multiply_adds / 1e6, 2) == 4.55 and small.parameters == 214_688
    assert round(plain.multiply_adds / 1e6, 2) == 3.33 and plain.parameters == 210_160


@pytest.mark.parametrize("name, options", [
    ("tiny-static", {}), ("tiny-discrete", {"steps": 3}), ("mobilenet-dnw", {"image_size": 32, "num_classes": 10}),
    ("mobilenet-dnw-small", {"image_size": 32, "num_classes": 10})])
def test_counted_as_executed(name, options):
    """What the formulas say is what a forward does, edge by edge."""
    model = ng.models.create(name, **options).eval()
    images = torch.zeros(1, 3, model.image_size, model.image_size)
    pool = 4 * 1024 if name.startswith("mobilenet") else 0
    assert executed_multiply_adds(model, images) == cost(model, skip_dead=False).multiply_adds - pool


def test_dead_nodes_cost_nothing():
    """The kernel of a node without real out-edge is not counted, nor what only it needed at the ends."""
    network, = ng.models.create("tiny-static", k=100).networks
    real = network.selection().real
    sending = len(set(network.wiring.src[real].tolist()))
    price = cost(network, 8, 8)
    assert price.parameters == 100 + 9 * sending
    assert price.multiply_adds == 64 * (100 + 9 * sending)
    assert cost(network, 8, 8, skip_dead=False).parameters == 100 + 9 * 800
    stages = ng.models.mobilenet.STAGES[:1]
    model = ng.models.mobilenet_dnw(width=0.1, stages=stages, num_classes=10, image_size=32)
    first, = model.networks
    real = first.selection().real
    read, fed = len(set(first.wiring.src[real].tolist())), len(set(first.wiring.dst[real].tolist()))
    assert 0 < read < 32 and 0 < fed < 64
    assert cost(model).parameters == int(real.sum()) + 9 * read + 27 * read + 10 * fed


def test_continuous_time_counts_evaluations():
    network = ng.ContinuousTimeNeuralGraph(ng.wirings.complete(6, inputs=2, outputs=2), ng.TopK(9), solver="rk4")
    network(torch.randn(1, 2, 4, 4))
    assert cost(network, 4, 4, skip_dead=False).multiply_adds == 32 * 16 * (9 + 6 * 9)


def test_indices_are_a_mask_or_a_list():
    network = ng.StaticNeuralGraph(ng.wirings.chain([40, 40]), ng.TopK(30))
    price = cost(network, 1, 1)
    assert (price.mask_words, price.list_words) == (50, 30)  # 1600 bits; 30 edges
    assert price.stored_words == price.parameters + price.norms_and_biases + 30
    network.selector.k = 1000
    price = cost(network, 1, 1)
    assert price.stored_words == price.parameters + price.norms_and_biases + 50


def test_micronet_score_of_the_authors_entry():
    """Methods 16.4: 0.8460 as submitted, 0.961 with the bitmask that it omits."""
    assert round(micronet_score(2_558_732, 515_231_310, 515_231_310), 4) == 0.8460
    mask = 2 * 25.49e6 / 32  # a bit a weight, not halved
    assert round(micronet_score(2_558_732 + mask, 515_231_310, 515_231_310), 3) == 0.961


def test_a_network_needs_a_size():
    with pytest.raises(InputError, match="height and width"):
        cost(ng.StaticNeuralGraph(ng.wirings.chain([4, 4]), ng.TopK(3)))


@pytest.mark.parametrize("name", ["tiny-static", "tiny-discrete", "mobilenet-dnw", "mobilenet-v1"])
def test_nothing_is_left_out(name):
    """With every edge real, the parameters counted are those of the model."""
    options = {} if name == "mobilenet-v1" else {"selector": "complete"}
    model = ng.models.create(name, image_size=32, num_classes=10, **options)
    price = cost(model, skip_dead=False)
    assert price.parameters + price.norms_and_biases == sum(p.numel() for p in model.parameters())


def test_counting_changes_nothing():
    """A norm that is kept in evaluation mode stays there, and the count of the last solve too."""
    model = ng.models.create("tiny-continuous", k=500)
    network, = model.networks
    norm = model.stem[1].eval()
    model(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 3)
    before, evaluations = {k: v.clone() for k, v in model.state_dict().items()}, network.evaluations
    price = cost(model, skip_dead=False)
    assert executed_multiply_adds(model, torch.zeros(1, 3, 32, 32)) > 0
    assert model.training and network.training and not norm.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    network.evaluations = evaluations
    assert price.multiply_adds > cost(network, 8, 8, skip_dead=False).multiply_adds
    network.evaluations += 1
    assert cost(model, skip_dead=False).multiply_adds - price.multiply_adds == 64 * (500 + 9 * 800)


@pytest.mark.parametrize("call, message", [
    (lambda: cost(torch.nn.Linear(2, 3)), "expected a classifier .* got Linear"),
    (lambda: cost(ng.models.create("tiny-static", k=5), 8, 8), "leave out height"),
    (lambda: cost(ng.StaticNeuralGraph(ng.wirings.chain([4, 4]), ng.TopK(3)), 0, 4), "at least 1, got .0, 4."),
])
def test_cost_refuses(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_layer_of_unknown_cost_is_named():
    model = ng.models.create("tiny-static", k=50)
    model.head.append(torch.nn.LayerNorm(10))
    with pytest.raises(InputError, match="'head.2', a LayerNorm, is not known"):
        cost(model)


def network_of(functions, edges, inputs, outputs, kind=ng.StaticNeuralGraph, **options):
    wiring = ng.wirings.from_edges(edges, inputs=inputs, outputs=outputs, functions=functions)
    return kind(wiring, ng.Complete(), **options)


f = ng.NodeFunction
MISCOUNTED = {  # what is counted, on maps of 6x6 pixels
    "a strided kernel counts its own pixels, not those it is padded to": (lambda: network_of(
        {0: f("conv", stride=2, zero_pad=True)}, [(0, 1)], [0], [1]), 36 + 9 * 9),
    "outputs of a static graph send nothing": (lambda: network_of(
        [f(), f("conv")], [(0, 1)], [0], [1]), 36),
    "outputs of a dynamic graph do": (lambda: network_of(
        [f(), f("conv")], [(0, 1)], [0], [1], ng.DiscreteTimeNeuralGraph, steps=1), 36 * (1 + 9)),
    "edges into products": (lambda: network_of(
        {2: f(aggregate="product"), 0: f(), 1: f()}, [(0, 2), (1, 2), (2, 3)], [0, 1], [3]), 36 * 3),
    "a kernel that receives sees the map before its own stride": (lambda: network_of(
        {0: f(), 1: f("conv", kernel_size=1), 2: f()}, [(0, 1), (1, 2)], [0], [2]), 36 * 3),
}


@pytest.mark.parametrize("name", MISCOUNTED)
def test_what_is_counted_is_what_runs(name):
    make, expected = MISCOUNTED[name]
    network = make()
    x = torch.randn(2, len(network.wiring.inputs), 6, 6)
    assert cost(network, 6, 6, skip_dead=False).multiply_adds == expected
    assert executed_multiply_adds(network, x) == expected


def test_inputs_that_lost_their_edges_are_still_updated():
    """They receive, unless they hold the data."""
    wiring = ng.wirings.complete(4, inputs=2, outputs=1, function=f("activation", "conv"))
    weight = torch.where(wiring.dst < 2, 0.0, 1.0) + torch.arange(16) * 1e-3
    network = ng.DiscreteTimeNeuralGraph(wiring.subgraph(torch.ones(16, dtype=torch.bool), weight, {}),
                                         ng.TopK(8), steps=2)
    learned = ng.DiscreteTimeNeuralGraph(network.learned_wiring(), ng.Complete(), steps=2)
    assert not learned.wiring.holds.any()
    expected = 2 * 16 * (8 + 4 * 9)
    for net in (network, learned):
        assert cost(net, 4, 4, skip_dead=False).multiply_adds == expected
        assert executed_multiply_adds(net, torch.randn(1, 2, 4, 4)) == expected


def test_every_call_of_a_layer_counts_and_its_parameters_once():
    layer, network = torch.nn.Linear(4, 4), ng.StaticNeuralGraph(ng.wirings.chain([2, 3], f()), ng.Complete())
    head = torch.nn.Sequential(layer, torch.nn.ReLU(), layer, layer)  # on maps of 3 channels and 4x4 pixels
    model = ng.models.Classifier(torch.nn.Identity(), [network], head, in_channels=2, image_size=4)
    price = cost(model, skip_dead=False)
    assert price.multiply_adds == 6 * 16 + 3 * 16 * 12 and price.parameters == 6 + 16
    assert executed_multiply_adds(model, torch.zeros(1, 2, 4, 4)) == price.multiply_adds


def test_sparse_layers_cost_their_real_weights():
    network = ng.StaticNeuralGraph(ng.wirings.chain([4, 3], f()), ng.Complete())
    model = ng.models.Classifier(torch.nn.Conv2d(2, 4, 3, padding=1), [network], torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(48, 10)), in_channels=2, image_size=4)
    sparse = ng.sparsify(model, 0.25, first_layer_dense=False)
    price = cost(sparse, skip_dead=False)
    assert price.parameters == 12 + 72 // 4 + 480 // 4
    assert price.multiply_adds == 12 * 16 + 18 * 16 + 120
    assert executed_multiply_adds(sparse, torch.zeros(1, 2, 4, 4)) == price.multiply_adds
