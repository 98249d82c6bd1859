"""Random wirings: the written processes, their numbers of edges, and what they refuse."""

import itertools
import math
import random

import networkx as nx
import pytest
import torch
from hypothesis import given, settings, strategies as st

import neuralgraph as ng
from neuralgraph.errors import InputError, UnknownNameError, WiringError
from neuralgraph.wiring.expanders import _biregular, _drawn
from neuralgraph.wiring.paths import longest_path_levels
from neuralgraph.wiring.random_graphs import GRAPHS, draw

ENDS = {"inputs": 2, "outputs": 3}
RANDOM = {
    "erdos_renyi": lambda nodes, seed, **o: ng.wirings.erdos_renyi(nodes, 0.4, seed=seed, **ENDS, **o),
    "barabasi_albert": lambda nodes, seed, **o: ng.wirings.barabasi_albert(nodes, 2, seed=seed, **ENDS, **o),
    "watts_strogatz": lambda nodes, seed, **o: ng.wirings.watts_strogatz(nodes, 4, 0.75, seed=seed, **ENDS, **o),
}


def edges_of(wiring):
    return list(zip(wiring.src.tolist(), wiring.dst.tolist()))


def inner_edges(wiring):
    """The edges between hidden nodes, numbered from 0."""
    first = len(wiring.inputs)
    return [(u - first, v - first) for u, v in edges_of(wiring)
            if wiring.role[u] == 0 and wiring.role[v] == 0]


def pairs_of(name, nodes, generator, **options):
    """The edges of a random graph alone."""
    return list(zip(*(ends.tolist() for ends in draw(name, nodes, options, generator))))


@pytest.mark.parametrize("name", RANDOM)
@settings(max_examples=8)
@given(nodes=st.integers(7, 40), seed=st.integers(0, 2**63))
def test_every_source_reads_all_inputs_and_every_sink_is_read_by_all_outputs(name, nodes, seed):
    wiring = RANDOM[name](nodes, seed)
    inner = inner_edges(wiring)
    assert all(u < v for u, v in edges_of(wiring))  # acyclic, and in the order of index
    assert nx.is_connected(nx.Graph(inner)) and len(nx.Graph(inner)) == nodes
    sources = set(range(nodes)) - {v for _, v in inner}
    sinks = set(range(nodes)) - {u for u, _ in inner}
    rest = {edge for edge in edges_of(wiring)} - {(u + 2, v + 2) for u, v in inner}
    assert rest == {*itertools.product(range(2), (v + 2 for v in sources)),
                    *itertools.product((u + 2 for u in sinks), range(nodes + 2, nodes + 5))}
    assert wiring.inputs.tolist() == [0, 1] and wiring.outputs.tolist() == list(range(nodes + 2, nodes + 5))
    assert edges_of(wiring) == sorted(edges_of(wiring), key=lambda edge: edge[::-1])
    assert torch.equal(wiring.block, longest_path_levels(wiring.ends))


@pytest.mark.parametrize("name", RANDOM)
def test_a_seed_is_all_that_they_depend_on(name):
    torch.manual_seed(3)
    random.seed(3)
    states = torch.get_rng_state(), random.getstate()
    first = RANDOM[name](20, 5)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    random.seed(4)
    assert RANDOM[name](20, 5) == first and RANDOM[name](20, 6) != first
    assert RANDOM[name](20, torch.Generator().manual_seed(5)) == first


def test_numbers_of_edges():
    """P N (N - 1) / 2 = 99.2 on average, M (N - M) = 135 and N K / 2 = 64 always."""
    generator = torch.Generator().manual_seed(0)
    drawn = [len(draw("erdos_renyi", 32, {"probability": 0.2}, generator)[0]) for _ in range(200)]
    deviation = math.sqrt(496 * 0.2 * 0.8 / 200)
    assert abs(sum(drawn) / 200 - 99.2) < 4 * deviation
    assert len(set(drawn)) > 10
    assert len(inner_edges(ng.wirings.barabasi_albert(32, 5, inputs=1, outputs=1, seed=0))) == 135
    for probability in (0, 0.5, 1):
        ring = ng.wirings.watts_strogatz(32, 4, probability, inputs=1, outputs=1, seed=1)
        assert len(inner_edges(ring)) == 64


def test_erdos_renyi_joins_every_pair_with_one_probability():
    counts, generator = torch.zeros(6, 6), torch.Generator().manual_seed(0)
    for _ in range(1000):
        src, dst = draw("erdos_renyi", 6, {"probability": 0.8}, generator)
        counts[src, dst] += 1
    pairs = counts[torch.ones(6, 6, dtype=torch.bool).triu(1)] / 1000
    # of the connected graphs only, which are nearly all
    assert (pairs - 0.8).abs().max() < 5 * math.sqrt(0.8 * 0.2 / 1000)


def test_barabasi_albert_arrives_in_the_order_of_index():
    """The M-th node is joined to all before it; of every later one M edges lead back, most to those with many."""
    late, early = [], []
    generator = torch.Generator().manual_seed(0)
    for seed in range(30):
        edges = pairs_of("barabasi_albert", 60, generator, edges=3)
        assert {(0, 3), (1, 3), (2, 3)} <= set(edges)
        back = [sum(v == node for _, v in edges) for node in range(60)]
        assert back == [0, 0, 0] + [3] * 57
        degrees = dict(nx.Graph(edges).degree)
        early.append(max(degrees.values()))
        late.append(max(dict(nx.gnm_random_graph(60, len(edges), seed=seed).degree).values()))
    assert sum(early) / 30 > 1.5 * sum(late) / 30  # a heavy tail, unlike that of as many edges drawn uniformly


def test_barabasi_albert_draws_in_proportion_to_degrees():
    """M = 1, 4 nodes: node 2 is joined to 0 or 1, of degree 1 each; node 3 to the middle of the path half the time."""
    middles, generator = 0, torch.Generator().manual_seed(0)
    for _ in range(1000):
        parent = {v: u for u, v in pairs_of("barabasi_albert", 4, generator, edges=1)}
        middles += parent[3] == parent[2]
    assert abs(middles / 1000 - 0.5) < 4 * math.sqrt(0.25 / 1000)


def test_watts_strogatz_without_rewiring_is_the_lattice():
    ring = inner_edges(ng.wirings.watts_strogatz(11, 6, 0, inputs=1, outputs=1, seed=0))
    assert set(ring) == {tuple(sorted((v, (v + i) % 11))) for v in range(11) for i in (1, 2, 3)}


def test_watts_strogatz_rewires_every_edge_once():
    """With P = 1 every node keeps its own K / 2 ends, and lattice edges are no more likely than others."""
    lattice, total, generator = 0, 0, torch.Generator().manual_seed(0)
    for _ in range(40):
        edges = pairs_of("watts_strogatz", 60, generator, neighbours=4, probability=1)
        degrees = dict(nx.Graph(edges).degree)
        assert len(set(edges)) == 120 and min(degrees.values()) >= 2
        lattice += sum(min(v - u, 60 - v + u) <= 2 for u, v in edges)
        total += len(edges)
    assert lattice / total < 0.12  # a uniform pair is one with 120 / 1770


def test_watts_strogatz_keeps_an_edge_that_has_nowhere_to_go():
    """With N = K + 1 every node is joined to every other, so nothing can be rewired."""
    ring = inner_edges(ng.wirings.watts_strogatz(5, 4, 1, inputs=1, outputs=1, seed=0))
    assert set(ring) == set(itertools.combinations(range(5), 2))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: ng.wirings.erdos_renyi(32, 0.0, seed=0, **ENDS), "none of 1000 random graphs erdos_renyi of 32 nodes with "
     "probability=0.0 was connected"),
    (lambda: ng.wirings.erdos_renyi(9, 1e-30, seed=0, **ENDS), "was connected"),
    (lambda: ng.wirings.erdos_renyi(9, 1.5, seed=0, **ENDS), "probability must be a number from 0 to 1, got 1.5"),
    (lambda: ng.wirings.erdos_renyi(9, True, seed=0, **ENDS), "probability must be a number"),
    (lambda: ng.wirings.erdos_renyi(0, 0.5, seed=0, **ENDS), "nodes must be at least 1, got 0"),
    (lambda: ng.wirings.erdos_renyi(9, 0.5, seed=None, **ENDS), "seed must be an integer"),
    (lambda: ng.wirings.erdos_renyi(9, 0.5, seed=0, inputs=0, outputs=1), "at least one input and one output"),
    (lambda: ng.wirings.barabasi_albert(5, 5, seed=0, **ENDS), "below the number of nodes, 5, got 5"),
    (lambda: ng.wirings.barabasi_albert(5, 0, seed=0, **ENDS), "must be at least 1"),
    (lambda: ng.wirings.watts_strogatz(9, 3, 0.5, seed=0, **ENDS), "neighbours must be even.* got 3"),
    (lambda: ng.wirings.watts_strogatz(6, 6, 0.5, seed=0, **ENDS), "below the number of nodes, 6, got 6"),
    (lambda: ng.wirings.watts_strogatz(6, 0, 0.5, seed=0, **ENDS), "above 0"),
])
def test_numbers_that_make_no_graph(make, message):
    with pytest.raises(WiringError, match=message):
        make()


def test_one_node_is_connected():
    wiring = ng.wirings.erdos_renyi(1, 0.0, seed=0, **ENDS)
    assert edges_of(wiring) == [(0, 2), (1, 2), (2, 3), (2, 4), (2, 5)]
    assert ng.wirings.erdos_renyi(6, 1, seed=0, **ENDS).num_edges == 15 + 2 + 3
    assert set(GRAPHS) == set(RANDOM)


# Expanders


def between(wiring, block):
    """The biadjacency [earlier, later] of a block and the next one."""
    sizes = torch.bincount(wiring.block)
    starts = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
    matrix = torch.zeros(int(sizes[block]), int(sizes[block + 1]))
    here = wiring.block[wiring.src] == block
    matrix[wiring.src[here] - starts[block], wiring.dst[here] - starts[block + 1]] += 1
    return matrix


@settings(max_examples=15)
@given(a=st.integers(1, 12), c=st.integers(1, 12), data=st.data())
def test_degrees_of_expanders(a, c, data):
    degree, seed = data.draw(st.integers(1, max(a, c))), data.draw(st.integers(0, 10**6))
    for biregular in (False, True):
        wiring = ng.wirings.expander([a, c], degree, seed=seed, biregular=biregular)
        matrix = between(wiring, 0)
        assert wiring.num_edges == degree * min(a, c) and matrix.max() <= 1
        smaller, larger = (matrix.sum(1), matrix.sum(0)) if a <= c else (matrix.sum(0), matrix.sum(1))
        assert (smaller == degree).all()
        assert (wiring.block[wiring.dst] == wiring.block[wiring.src] + 1).all()
        if biregular:
            assert larger.max() - larger.min() <= 1


def test_an_expander_is_drawn_uniformly():
    """Each pair is an edge with probability D / max(a, c), with equal degrees too."""
    generator = torch.Generator().manual_seed(0)
    for draw_mask, degree in itertools.product((_drawn, _biregular), (2, 4)):
        total = sum(draw_mask(4, 6, degree, generator).float() for _ in range(600))
        assert (total / 600 - degree / 6).abs().max() < 5 * math.sqrt(2 / 6 * 4 / 6 / 600)


@pytest.mark.parametrize("degree", [3, 4, 8])
def test_expanders_have_a_spectral_gap(degree):
    """The second singular value of the biadjacency / D: 2 sqrt(D - 1) / D for a random regular graph."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        first, second = torch.linalg.svdvals(_biregular(96, 96, degree, generator) / degree)[:2]
        assert abs(first - 1) < 1e-5
        assert second < 2 * math.sqrt(degree - 1) / degree + 0.05
        drawn = _drawn(96, 96, degree, generator).float()
        drawn = drawn / (drawn.sum(1, keepdim=True) * drawn.sum(0).clamp(min=1)).sqrt()
        assert torch.linalg.svdvals(drawn)[1] < 0.98


def test_every_input_reaches_every_output_within_few_layers():
    """Within O(log n) layers: n = 128 and D = 4, paths of 2 log2(128) / log2(4) = 7 edges."""
    wiring = ng.wirings.expander([128] * 8, 4, seed=0, biregular=True)
    reach = torch.eye(128)
    for block in range(7):
        reach = (reach @ between(wiring, block)).clamp(max=1)
    assert reach.all()


def test_expanders_carry_weights_of_the_dense_layer():
    for dims, variance in ((2, 2 / 300), (0, 2 / 200)):
        wiring = ng.wirings.expander([200, 300], 40, seed=0, dims=dims)
        assert abs(wiring.weight.var() / variance - 1) < 0.06
        assert ng.wirings.expander([200, 300], 40, seed=0, dims=dims) == wiring


def test_a_node_that_nobody_chose_is_dead():
    wiring = ng.wirings.expander([2, 9, 4], 2, seed=0, input_stride=2)
    assert len(set(range(2, 11)) - set(wiring.dst.tolist())) >= 5
    network = ng.StaticNeuralGraph(wiring, ng.Complete())
    assert network(torch.randn(2, 2, 8, 8)).shape == (2, 4, 4, 4)


def test_degree_of_each_layer_and_edges_that_stay():
    wiring = ng.wirings.expander([4, 8, 8], [8, 2], seed=0)
    assert between(wiring, 0).all() and between(wiring, 1).sum() == 16
    network = ng.StaticNeuralGraph(wiring, ng.Complete())
    network(torch.randn(2, 4, 8, 8)).square().sum().backward()
    assert network.weight.grad.shape == (48,) and network.learned_wiring().num_edges == 48


@pytest.mark.parametrize(("options", "message"), [
    ({"degree": 9}, "has 1 to 8 different neighbours, got a degree of 9"),
    ({"degree": 0}, "got a degree of 0"),
    ({"degree": [2, 2]}, "one for each of the 1 pairs"),
    ({"degree": 2.0}, "degree must be an integer"),
    ({"degree": 2, "biregular": 1}, "biregular must be True or False"),
    ({"degree": 2, "seed": None}, "seed must be an integer"),
])
def test_expanders_refuse(options, message):
    with pytest.raises(WiringError, match=message):
        ng.wirings.expander([5, 8], **{"seed": 0, **options})


@pytest.mark.parametrize(("divisor", "published"), [(2, 85.8), (4, 53.7), (8, 37.6), (16, 29.6)])
def test_multiply_adds_of_the_mobilenet(divisor, published):
    """Of a real model, in millions; the published ones count a classifier of 1024 inputs, ours has 512."""
    model = ng.models.create("mobilenet-expander", divisor=divisor)
    counted = ng.analysis.cost(model, skip_dead=False).multiply_adds
    assert round((counted + 512 * 1000) / 1e6, 1) == published
    network = model.networks[0]
    sizes = torch.bincount(network.wiring.block).tolist()
    degrees = torch.bincount(network.wiring.src, minlength=network.wiring.num_nodes)
    for block, (here, after) in enumerate(zip(sizes, sizes[1:])):
        assert (degrees[network.wiring.block == block] == (after // divisor if block else after)).all()
    assert here == after == 512 and sizes[0] == 16


def test_the_mobilenet_learns_its_weights_and_keeps_its_edges():
    model = ng.models.create("mobilenet-expander", divisor=8, image_size=16, num_classes=3)
    before = model.networks[0].wiring
    y = model(torch.randn(2, 3, 16, 16))
    assert y.shape == (2, 3)
    y.square().sum().backward()
    assert model.networks[0].weight.grad.abs().gt(0).float().mean() > 0.5
    assert torch.equal(model.networks[0].learned_wiring().src, before.src)
    with pytest.raises(InputError, match="divides the channels of all layers.* got 3"):
        ng.models.create("mobilenet-expander", divisor=3)


# Random graphs among given candidates, and of layers


@pytest.mark.parametrize(("like", "options"), [("erdos_renyi", {"probability": 0.3}), ("barabasi_albert", {"edges": 4}),
                                               ("watts_strogatz", {"neighbours": 8, "probability": 0.75})])
def test_a_micro_graph_has_k_of_the_candidates(like, options):
    wiring = ng.wirings.blocks([6, 12, 12, 5])
    order = {edge: place for place, edge in enumerate(edges_of(wiring))}
    generator = torch.Generator().manual_seed(4)
    drawn = set(pairs_of(like, 35, generator, **options)) & set(order)  # nodes stand in the order of blocks
    for k in (20, len(drawn), 200):
        found = ng.wirings.micro(wiring, k, like, seed=4, **options)
        assert found.num_edges == k and found == ng.wirings.micro(wiring, k, like, seed=4, **options)
        chosen = set(edges_of(found))
        assert chosen <= set(order) and len(chosen & drawn) == min(k, len(drawn))
        assert found.weight.abs().max() <= 30**-0.5
    network = ng.StaticNeuralGraph(found, ng.Complete())
    network(torch.randn(2, 6, 8, 8)).square().sum().backward()
    assert network.weight.grad.shape == (200,)


def test_micro_follows_blocks_whatever_the_order_of_nodes():
    backwards = ng.wirings.from_edges([(3, 2), (3, 1), (2, 0), (1, 0), (3, 0)], inputs=[3], outputs=[0])
    assert ng.wirings.micro(backwards, 5, "erdos_renyi", probability=1, seed=0).num_edges == 5
    ring = {(3, 1), (2, 0), (3, 0)}  # in order of blocks: 3, 1, 2, 0, of which (1, 2) is no candidate
    assert set(edges_of(ng.wirings.micro(backwards, 3, "watts_strogatz", neighbours=2, probability=0, seed=0))) == ring


@pytest.mark.parametrize(("arguments", "message"), [
    ((ng.wirings.blocks([2, 2]), 5, "erdos_renyi"), "at most the 4 candidate edges, got 5"),
    ((ng.wirings.blocks([2, 2]), 0, "erdos_renyi"), "k must be at least 1"),
    ((torch.eye(3), 2, "erdos_renyi"), "expected a neuralgraph.Wiring, got Tensor"),
])
def test_micro_refuses(arguments, message):
    with pytest.raises(WiringError, match=message):
        ng.wirings.micro(*arguments, probability=0.5, seed=0)
    with pytest.raises(UnknownNameError, match="did you mean 'erdos_renyi'"):
        ng.wirings.micro(ng.wirings.blocks([2, 2]), 2, "erdos-renyi", probability=0.5, seed=0)
    with pytest.raises(WiringError, match="'erdos_renyi' takes probability, got neighbours"):
        ng.wirings.micro(ng.wirings.blocks([2, 2]), 2, "erdos_renyi", neighbours=2, seed=0)


def test_a_macro_graph_computes_its_layers():
    """Against torch's own layers, by the written formula, with sums weighted by sigmoid(alpha) = 1/2."""
    graph = ng.wirings.from_edges([(0, 1), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)], inputs=[0], outputs=[4])
    macro = ng.wirings.macro(graph, 5, inputs=3, stride=2, seed=0)
    network = ng.StaticNeuralGraph(macro.wiring, ng.Complete(), dtype=torch.float64).eval()
    wiring, weight = macro.wiring, network.weight.detach()
    assert macro.tie.max() == 1 and torch.bincount(macro.tie[macro.tie >= 0]).tolist() == [5, 5]
    assert macro.fixed.sum() == 3 + 5 + 5 + 5  # the input's, 1 -> 2, and the mean of 2 and 3
    kernels = network.functions.export()["kernel"]
    first = torch.cumsum(torch.tensor([0, 3, 3, 5, 5, 5, 5, 5]), 0).tolist()  # x, then sums and states of 1, 2, 3

    def layer(number, x):
        sums, states = first[2 * number - 1], first[2 * number]
        inside = (wiring.src >= sums) & (wiring.src < states)
        x = torch.conv2d(x.relu(), kernels[sums:states, None], stride=2 if number == 1 else 1, padding=1,
                         groups=states - sums)
        y = torch.einsum("vu,buhw->bvhw", weight[inside].view(5, -1), x)
        return y / math.sqrt(1 + 1e-5)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    one = layer(1, x)
    two = layer(2, one)
    three = layer(3, (one + two) / 2)
    torch.testing.assert_close(network(x), (two + three) / 2, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("graph", "options", "message"), [
    (lambda: ng.wirings.blocks([2, 3, 1]), {}, "one input and one output"),
    (lambda: ng.wirings.blocks([1, 2, 1]), {"channels": 0}, "must be at least 1"),
    (lambda: ng.wirings.blocks([1, 2, 2, 1]), {"stride": 2}, "reads the input and other nodes"),
    (lambda: ng.wirings.blocks([1, 2, 2, 1]), {"inputs": 3}, "reads the input and other nodes"),
    (lambda: ng.wirings.complete(4, inputs=1, outputs=1), {}, "static graph|cycle"),
])
def test_macro_refuses(graph, options, message):
    with pytest.raises(WiringError, match=message):
        ng.wirings.macro(graph(), **{"channels": 4, "seed": 0, **options})
