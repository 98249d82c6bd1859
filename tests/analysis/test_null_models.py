"""Statistics against their definitions, and random wirings that keep what they say they keep."""

import itertools
import math
from collections import Counter

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import neuralgraph as ng
from neuralgraph import kernels
from neuralgraph.analysis import STATISTICS, NullModel, null_model
from neuralgraph.analysis.null_models import KINDS
from neuralgraph.analysis.statistics import GraphEdges
from neuralgraph.errors import InputError, UnknownNameError
from neuralgraph.kernels import plain


def random_edges(nodes, density, seed):
    generator = torch.Generator().manual_seed(seed)
    src, dst = (torch.rand(nodes, nodes, generator=generator) < density).nonzero().T
    return GraphEdges(nodes, src, dst)


graphs = st.builds(random_edges, st.integers(3, 9), st.sampled_from([0.2, 0.4, 0.8]), st.integers(0, 2**31))


def arrows(edges):
    return {(u, v) for u, v in zip(edges.src.tolist(), edges.dst.tolist()) if u != v}


@given(graphs)
@settings(max_examples=40)
def test_motifs_are_counted_as_by_trying_all_nodes(edges):
    there, nodes = arrows(edges), range(edges.num_nodes)
    triples = list(itertools.permutations(nodes, 3))
    assert STATISTICS["feed-forward-loops"](edges) == sum(
        {(u, v), (v, w), (u, w)} <= there for u, v, w in triples)
    assert STATISTICS["3-cycles"](edges) == sum({(u, v), (v, w), (w, u)} <= there for u, v, w in triples) / 3
    assert STATISTICS["bi-fans"](edges) == sum(
        {(u, x), (u, y), (v, x), (v, y)} <= there
        for u, v in itertools.combinations(nodes, 2) for x, y in itertools.combinations(nodes, 2))


@given(graphs)
@settings(max_examples=40)
def test_statistics_are_those_of_networkx(edges):
    directed = nx.DiGraph(sorted(arrows(edges)))
    graph = directed.to_undirected()
    if not graph:
        return
    lengths = [length for _, to in nx.all_pairs_shortest_path_length(directed) for length in to.values() if length]
    assert STATISTICS["path-length"](edges) == pytest.approx(sum(lengths) / len(lengths))
    lengths = [length for _, to in nx.all_pairs_shortest_path_length(graph) for length in to.values() if length]
    assert STATISTICS["distance"](edges) == pytest.approx(sum(lengths) / len(lengths))
    if any(degree > 1 for _, degree in graph.degree):
        assert STATISTICS["clustering"](edges) == pytest.approx(nx.transitivity(graph))


def test_assortativity_is_the_correlation_of_degrees_over_edges():
    edges = random_edges(30, 0.2, 0)
    edges = GraphEdges(30, *torch.tensor(sorted(arrows(edges))).T)
    assert STATISTICS["assortativity"](edges) == pytest.approx(_correlation(edges))


def _correlation(edges):
    outward, inward = Counter(edges.src.tolist()), Counter(edges.dst.tolist())
    pairs = [(outward[u], inward[v]) for u, v in arrows(edges)]
    means = [sum(column) / len(pairs) for column in zip(*pairs)]
    a, b = ([value - mean for value in column] for column, mean in zip(zip(*pairs), means))
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


@pytest.mark.parametrize("graph, gap", [(nx.complete_graph(6), 6 / 5), (nx.star_graph(5), 1.0),
                                        (nx.cycle_graph(8), 1 - math.cos(2 * math.pi / 8))])
def test_the_spectral_gap_of_known_graphs(graph, gap):
    edges = GraphEdges(len(graph) + 2, *torch.tensor(list(graph.edges)).T)  # two nodes are alone
    assert STATISTICS["spectral-gap"](edges) == pytest.approx(gap)


def test_a_rich_club_and_two_communities_are_seen():
    club = [(u, v) for u in range(4) for v in range(u + 1, 4)] + [(u, 4 + 9 * u + i) for u in range(4) for i in range(9)]
    assert STATISTICS["rich-club"](GraphEdges(40, *torch.tensor(club).T)) == 1
    cliques = [(s + u, s + v) for s in (0, 6) for u in range(6) for v in range(u + 1, 6)]
    assert STATISTICS["modularity"](GraphEdges(12, *torch.tensor(cliques).T)) == pytest.approx(0.5)


def seen(wiring, kind, candidates=None, samples=20, seed=0):
    """The observed graph and the random ones, each as a set of edges."""
    found = []
    null_model(wiring, lambda graph: found.append(set(graph.edges)) or 0.0, samples, seed, kind=kind,
               candidates=candidates)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_random_wirings_keep_what_their_kind_says(kind):
    wiring = ng.wirings.blocks([4, 6, 6, 3])
    net = ng.StaticNeuralGraph(wiring, ng.TopK(k=50), seed=1)
    positions = set(zip(wiring.src.tolist(), wiring.dst.tolist()))
    observed, *others = seen(net, kind)
    assert len({frozenset(other) for other in others}) > 15

    def ends(edges):
        return Counter(u for u, _ in edges), Counter(v for _, v in edges)

    def between(edges):
        return Counter((int(wiring.block[u]), int(wiring.block[v])) for u, v in edges)
    for other in others:
        assert len(other) == 50 and other <= positions
        if kind != "uniform":
            assert ends(other) == ends(observed)
        if kind == "blocks":
            assert between(other) == between(observed)
    if kind == "uniform":
        assert any(ends(other) != ends(observed) for other in others)
    if kind == "degrees":
        assert any(between(other) != between(observed) for other in others)


def test_swaps_reach_every_wiring_equally_often():
    wiring = ng.wirings.from_edges([(0, 3), (1, 4), (2, 5)], inputs=[0, 1, 2], outputs=[3, 4, 5])
    counts = Counter(frozenset(edges) for edges in seen(wiring, "degrees", samples=3000)[1:])
    assert len(counts) == 6  # the permutations of three targets
    assert sum((number - 500)**2 / 500 for number in counts.values()) < 20.5  # chi-square, 5 degrees, 0.001


def test_a_selection_at_random_is_like_chance_and_an_ordered_one_is_not():
    wiring = ng.wirings.blocks([10, 20, 20, 10])
    net = ng.StaticNeuralGraph(wiring, ng.TopK(k=150), seed=2)
    assert null_model(net, "feed-forward-loops", 100, kind="uniform").p > 0.01
    half = (wiring.src % 2) == (wiring.dst % 2)  # two halves with nothing between them
    with torch.no_grad():
        net.weight.copy_(net.weight.abs() + half)
    found = null_model(net, "modularity", 30)
    assert found.z > 4 and found.p == 1 / 31


def test_numbers_of_a_null_model():
    found = NullModel("s", "degrees", 4.0, torch.tensor([1.0, 2.0, 3.0, 2.0], dtype=torch.float64))
    assert (found.mean, found.std) == (2.0, pytest.approx(math.sqrt(2 / 3)))
    assert found.z == pytest.approx(2 / math.sqrt(2 / 3)) and found.p == 1 / 5
    assert NullModel("s", "degrees", 3.0, torch.tensor([1.0, 2.0, 3.0, 2.0])).p == 3 / 5
    assert math.isnan(NullModel("s", "degrees", 2.0, torch.full((4,), 2.0)).z)


def test_a_seed_repeats_it_and_global_state_is_left_alone():
    net = ng.StaticNeuralGraph(ng.wirings.blocks([4, 8, 4]), ng.TopK(k=30))
    before = torch.get_rng_state()
    first, again, other = (null_model(net, "bi-fans", 10, seed).values for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_makes_no_sense_is_refused():
    net = ng.StaticNeuralGraph(ng.wirings.blocks([4, 8, 4]), ng.TopK(k=30))
    with pytest.raises(UnknownNameError, match="bi-fans"):
        null_model(net, "bi-fan")
    with pytest.raises(InputError, match="no cycle"):
        null_model(net, "3-cycles")
    with pytest.raises(InputError, match="samples must be an integer of at least 2"):
        null_model(net, "bi-fans", samples=1)
    with pytest.raises(UnknownNameError, match="kind"):
        null_model(net, "bi-fans", kind="degree")
    with pytest.raises(InputError, match="must return a number"):
        null_model(net, lambda graph: None)
    with pytest.raises(InputError, match="a wiring or a network"):
        null_model(nx.DiGraph([(0, 1)]), "bi-fans")
    with pytest.raises(InputError, match="not among the candidates"):
        null_model(net.learned_wiring(), "bi-fans", candidates=ng.wirings.from_adjacency(
            torch.diag(torch.ones(15), 1), inputs=[0], outputs=[15]))
    with pytest.raises(InputError, match="no edges"):
        null_model(ng.StaticNeuralGraph(ng.wirings.blocks([2, 2]), ng.TopK(k=0)), "bi-fans")


def test_a_dynamic_graph_has_cycles_to_count():
    net = ng.DiscreteTimeNeuralGraph(ng.wirings.complete(20, inputs=3, outputs=2), ng.TopK(k=120), steps=2)
    assert null_model(net, "3-cycles", 20, kind="uniform").p > 0.01


@pytest.mark.skipif(not kernels.AVAILABLE, reason="numba is not there")
@pytest.mark.parametrize("blocks", [False, True])
def test_compiled_swaps_are_the_plain_ones(blocks):
    from neuralgraph.kernels.swapping import swap_ends
    generator = np.random.default_rng(0)
    allowed = generator.random((12, 12)) < 0.7
    src, dst = (allowed & (generator.random((12, 12)) < 0.4)).nonzero()
    kind = np.arange(12) // 4 if blocks else np.zeros(12, np.int64)
    pairs = generator.integers(len(src), size=(2, 500))
    results = []
    for swap in (plain.swap_ends, swap_ends):
        ends, present = dst.copy(), np.zeros((12, 12), bool)
        present[src, dst] = True
        results.append((swap(src, ends, present, allowed, kind, *pairs), ends.tolist()))
        assert (present.nonzero()[0] == np.sort(src)).all() and present[src, ends].all()
    assert results[0] == results[1] and results[0][0] > 20
