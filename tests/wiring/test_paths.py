"""Longest paths and what is reached, held against walks of Python's; by the compiled loop and without."""

import random
from unittest.mock import patch

import networkx as nx
import pytest
import torch
from hypothesis import given, settings, strategies as st

from neuralgraph import kernels
from neuralgraph.wiring import ends as ends_module, paths
from neuralgraph.wiring.ends import Entries
from neuralgraph.wiring.paths import longest_path_levels, reached

WAYS = {"compiled": {"MANY": 0}, "plain": {"MANY": 2**40}}


@pytest.fixture(params=WAYS, scope="module")
def way(request):
    """A number of edges from which on the loop is compiled: 0, or more than there are."""
    if request.param == "compiled" and not kernels.AVAILABLE:
        pytest.skip("numba is not there")
    return WAYS[request.param]


def drawn(seed):
    """Edges in any order, some twice, mostly without cycles, between few of the nodes; and a lower bound of levels."""
    rng = random.Random(seed)
    number = rng.choice([1, 5, 9, 50_000])  # of the last, entries have numbers of 64 bits
    nodes = rng.sample(range(number), min(number, rng.randint(1, 9)))
    edges = [(u, v) for a, u in enumerate(nodes) for v in nodes[a + 1:] if rng.random() < 0.4]
    edges += [rng.choice(edges) for _ in edges if rng.random() < 0.1]
    edges += [(rng.choice(nodes), rng.choice(nodes)) for _ in range(rng.random() < 0.3)]
    rng.shuffle(edges)
    if rng.random() < 0.3:
        edges.sort(key=lambda edge: edge[::-1])
    least = torch.zeros(number, dtype=torch.long)
    least[nodes] = torch.tensor([rng.randint(0, 3) for _ in nodes])
    src, dst = torch.tensor(edges, dtype=torch.long).reshape(-1, 2).unbind(1)
    return edges, Entries(src, dst, (number, number)), nodes, least


@given(seed=st.integers(0, 10**9))
@settings(max_examples=60)
def test_levels_are_one_more_than_those_before(way, seed):
    edges, ends, _, least = drawn(seed)
    graph = nx.DiGraph(edges)
    with patch.multiple(paths, **way):
        found = longest_path_levels(ends, least)
    if not nx.is_directed_acyclic_graph(graph):
        assert found is None
        return
    expected = least.tolist()
    for node in nx.topological_sort(graph):
        expected[node] = max([expected[node], *(expected[parent] + 1 for parent in graph.predecessors(node))])
    assert found.tolist() == expected


@given(seed=st.integers(0, 10**9))
@settings(max_examples=60)
def test_reached_are_descendants(way, seed):
    edges, ends, nodes, _ = drawn(seed)
    graph = nx.DiGraph(edges)
    graph.add_nodes_from(nodes)
    chosen = nodes[:1 + seed % 2]
    mask = torch.zeros(ends.shape[0], dtype=torch.bool)
    mask[chosen] = True
    with patch.multiple(paths, **way), patch.object(ends_module, "CHUNK", 3):
        found = reached(ends, mask)
    assert set(found.nonzero().flatten().tolist()) == set(chosen).union(*(nx.descendants(graph, node) for node in chosen))
    assert mask.nonzero().flatten().tolist() == sorted(chosen)


def test_a_long_path_needs_no_deep_stack(way):
    number = 3000
    order = torch.randperm(number, generator=torch.Generator().manual_seed(0))
    ends = Entries(order[:-1], order[1:], (number, number))
    with patch.multiple(paths, **way):
        assert torch.equal(longest_path_levels(ends)[order], torch.arange(number))


def test_a_cycle_is_found_from_outside_of_it(way):
    ends = Entries(torch.tensor([1, 2, 2]), torch.tensor([2, 1, 0]), (3, 3))
    with patch.multiple(paths, **way):
        assert longest_path_levels(ends) is None
        assert reached(ends, torch.tensor([False, True, False])).all()
