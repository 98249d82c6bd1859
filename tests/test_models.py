"""Models by name, and the paper's counts."""

import pytest
import torch
from torch import nn

import neuralgraph as ng
from neuralgraph.analysis import block_counts, cost, dead_nodes, degrees, longest_path
from neuralgraph.errors import InputError, UnknownNameError


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


def test_bad_values():
    with pytest.raises(InputError, match="image_size must be a positive integer"):
        ng.models.create("tiny-static", image_size=0)
    model = ng.models.create("tiny-static")
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


def test_cost_of_tiny_static():
    """Without dead nodes: 64 pixels for each of 32,000 edges and 800 kernels of 9."""
    model = ng.models.create("tiny-static", selector="complete", k=None)
    network, = model.networks
    price = cost(network, 8, 8)
    assert price.multiply_adds == 64 * (325_760 + 9 * 800) and price.parameters == 325_760 + 7_200
    few = ng.models.create("tiny-static", k=100).networks[0]
    live = (degrees(few.wiring, few.selection().real)[1] > 0).sum().item()
    assert cost(few, 8, 8).parameters == 100 + 9 * live
