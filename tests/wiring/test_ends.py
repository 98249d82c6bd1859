"""Edges as full rectangles, held against the same edges as lists."""

import pickle
import random
from unittest.mock import patch

import numpy as np
import pytest
import torch
from graphs import FUNCTIONS, random_dag
from hypothesis import given, settings, strategies as st

import neuralgraph as ng
from neuralgraph.errors import NeuralGraphError, WiringError
from neuralgraph.wiring import Stage, ends as ends_room, matrices, paths, synchronous_stages, topological_stages
from neuralgraph.wiring.assembling import assemble
from neuralgraph.wiring.ends import Entries, Rectangle, Rectangles
from neuralgraph.wiring.graph import Graph
from neuralgraph.wiring.paths import longest_path_levels

KEEPING_SIZE = [f for f in FUNCTIONS if f.send_stride == f.receive_stride == 1 and f.norm != "instance"]


def drawn(rng, acyclic):
    """Rectangles that do not overlap, in any order, and roles and functions of nodes; most make a wiring."""
    inputs, outputs = rng.randint(1, 3), rng.randint(1, 2)
    sizes = [inputs, *(rng.randint(1, 3) for _ in range(rng.randint(0, 3))), outputs]
    first = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
    nodes, careless = first[-1], rng.random() < 0.2
    found, taken = [], torch.zeros(nodes, nodes, dtype=torch.bool)

    def add(sources, targets):
        own = taken[targets.start:targets.stop, sources.start:sources.stop]
        if not own.any():
            own[:] = True
            found.append(Rectangle(sources, targets))

    for begin, end in zip(first[1:], first[2:]):
        add(range(rng.randint(0, begin - 1), begin), range(begin, end))
    for _ in range(rng.randint(0, 4)):
        a, b, c, d = (rng.randint(0, nodes) for _ in range(4))
        a, b, c, d = min(a, b), max(a, b), min(c, d), max(c, d)
        if acyclic and not careless:
            c, b = max(c, inputs), min(b, c, nodes - outputs)
        add(range(a, max(a, b)), range(c, max(c, d)))
    rng.shuffle(found)
    known = FUNCTIONS if acyclic and rng.random() < 0.5 else KEEPING_SIZE
    of_block = [rng.choice(known) for _ in sizes]
    functions = [of_block[number] if rng.random() < 0.9 else rng.choice(known)
                 for number, size in enumerate(sizes) for _ in range(size)]
    if not acyclic and rng.random() < 0.3:
        found = [Rectangle(range(nodes), range(nodes))]
    role = [1] * inputs + [0] * (nodes - inputs - outputs) + [2] * outputs
    if rng.random() < 0.2:
        rng.shuffle(role)
    return Rectangles(*found), torch.tensor(role), functions


def listed(ends, num_nodes):
    return Entries(ends.src, ends.dst, (num_nodes, num_nodes))


def outcome(run):
    """What it returns, or the message of its error."""
    try:
        return run()
    except NeuralGraphError as error:
        return str(error)


def same(found, expected):
    """Equal wirings, stages, tensors, or messages."""
    if isinstance(expected, torch.Tensor):
        return torch.equal(found, expected) and found.dtype == expected.dtype
    if isinstance(expected, ng.Wiring):
        return found == expected and all(same(getattr(found, name), getattr(expected, name)) for name in
                                         ("src", "dst", "role", "channel", "function", "scale", "holds"))
    if isinstance(expected, Stage):
        return all(same(getattr(found, name), getattr(expected, name)) for name in
                   ("nodes", "sources", "which", "src", "dst", "scale", "aggregate", "inputs")) and all(
            (one.function, one.is_output) == (other.function, other.is_output) and same(one.nodes, other.nodes)
            for one, other in zip(found.chunks, expected.chunks, strict=True))
    if isinstance(expected, tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == expected


@given(seed=st.integers(0, 10**9), acyclic=st.booleans())
@settings(max_examples=100)
def test_wirings_and_stages_are_those_of_the_lists(seed, acyclic):
    ends, role, functions = drawn(random.Random(seed), acyclic)
    full, plain = (outcome(lambda e=e: assemble(e, role, torch.zeros_like(role), functions)) for e in (ends, listed(ends, len(role))))
    assert same(full, plain)
    if isinstance(plain, ng.Wiring):
        assert isinstance(full.ends, Rectangles)
        found, expected = (outcome(lambda w=w: topological_stages(w)) for w in (full, plain))
        if isinstance(expected, str) and "no cycles" in expected:  # it may name another one
            assert "no cycles" in found
            names = found.rsplit("has ", 1)[1].split(". Remove")[0].split(" -> ")
            assert {*zip(map(int, names), map(int, names[1:]))} <= {*zip(plain.src.tolist(), plain.dst.tolist())}
        else:
            assert same(found, expected)
        assert same(*(outcome(lambda w=w: synchronous_stages(w)) for w in (full, plain)))


@given(seed=st.integers(0, 10**9))
def test_an_outline_has_the_longest_paths_and_the_edges_of_the_graph(seed):
    rng = random.Random(seed)
    ends, role, _ = drawn(rng, acyclic=True)
    nodes, colour = len(role), torch.tensor([rng.randint(0, 1) for _ in role]).sort().values
    outline = ends.outline(nodes, colour)
    assert torch.equal(colour[outline.first][outline.group], colour)
    levels = longest_path_levels(outline.ends, colour[outline.first])
    expected = longest_path_levels(listed(ends, nodes), colour)
    assert levels is expected is None or torch.equal(levels[outline.group], expected)
    some = torch.tensor([rng.random() < 0.5 for _ in outline.ends.src], dtype=torch.bool).nonzero().flatten()
    pairs = {*zip(outline.ends.src[some].tolist(), outline.ends.dst[some].tolist())}
    expected = [edge for edge, (u, v) in enumerate(zip(ends.src, ends.dst))
                if (int(outline.group[u]), int(outline.group[v])) in pairs]
    assert ends.behind(outline, some).tolist() == expected
    mask = torch.tensor([rng.random() < 0.5 for _ in range(len(ends))], dtype=torch.bool)
    for chosen in (mask, mask.nonzero().flatten()):
        assert same(ends.of(chosen), (ends.src[chosen], ends.dst[chosen]))


WIRINGS = {
    "blocks": lambda: ng.wirings.blocks([3, 4, 5, 2], dims=0),
    "blocks-of-two-kinds": lambda: ng.wirings.blocks([3, 4, 2], [
        ng.NodeFunction(), ng.NodeFunction("bias activation"), ng.NodeFunction("bias")]),
    "chain": lambda: ng.wirings.chain([3, 4, 4, 2], dims=0),
    "mlp": lambda: ng.wirings.mlp([3, 6, 5, 2]),
    "complete": lambda: ng.wirings.complete(7, inputs=2, outputs=2, dims=0),
    "rnn": lambda: ng.wirings.rnn(3, 5, 2),
}


@pytest.mark.parametrize("backend", ["dense", "sparse"])
@pytest.mark.parametrize("name", WIRINGS)
def test_networks_are_those_of_the_lists(name, backend):
    full = WIRINGS[name]()
    graph = Graph(listed(full.ends, full.num_nodes), full.num_nodes)
    graph.ndata.update(full.data.ndata)
    plain = ng.Wiring(graph)
    assert isinstance(full.ends, Rectangles) and isinstance(plain.ends, Entries)
    assert not {"src", "dst"} & vars(pickle.loads(pickle.dumps(full)).ends).keys()
    results = []
    for wiring in (full, plain):
        static = not bool(wiring.role[wiring.dst].eq(1).any()) and name != "rnn"
        kind, options = (ng.StaticNeuralGraph, {}) if static else (ng.DiscreteTimeNeuralGraph, {"steps": 3})
        network = kind(wiring, ng.TopK(wiring.num_edges // 2), backend, seed=3, dims=0, **options)
        y = network(torch.randn(4, len(wiring.inputs), generator=torch.Generator().manual_seed(0)))
        y.square().sum().backward()
        learned = network.learned_wiring()
        results.append((network.weight.detach(), network.selection().real, y.detach(), network.weight.grad,
                        learned.src, learned.dst, learned.weight))
        results[-1] += (pickle.loads(pickle.dumps(wiring)), network.complete_wiring())
    assert same(*results)
    assert isinstance(results[0][-1].ends, Rectangles)


def test_a_network_on_rectangles_needs_no_list_of_edges():
    """What a hundred million edges would not fit in: neither building nor a step makes one."""
    for name in ("blocks", "complete", "mlp"):
        wiring = WIRINGS[name]()
        kind, options = (ng.DiscreteTimeNeuralGraph, {"steps": 2}) if name == "complete" else (ng.StaticNeuralGraph, {})
        network = kind(wiring, ng.TopK(wiring.num_edges // 4), "sparse", dims=0, **options)
        network(torch.randn(4, len(wiring.inputs))).sum().backward()
        network.learned_wiring(), network.eval().selection(), repr(network)
        for ends in (wiring.ends, *(stage.ends for stage in network.stages)):
            assert isinstance(ends, Rectangles) and not {"src", "dst"} & vars(ends).keys()


def test_full_lists_are_rectangles_to_a_stage():
    wiring = ng.wirings.from_adjacency(torch.ones(7, 7).triu(1) * (torch.arange(7) > 2), inputs=[0, 1, 2], outputs=[6])
    assert isinstance(wiring.ends, Entries)
    assert [type(stage.ends) for stage in topological_stages(wiring)] == [Rectangles] * 5


def test_rectangles_that_overlap_are_refused():
    ends = Rectangles(Rectangle(range(0, 2), range(2, 4)), Rectangle(range(1, 2), range(3, 5)))
    with pytest.raises(WiringError, match="the edge 1 -> 3 stands more than once"):
        assemble(ends, torch.tensor([1, 1, 0, 0, 2]), torch.zeros(5, dtype=torch.long), [ng.NodeFunction()] * 5)


def test_what_earlier_versions_pickled():
    wiring = ng.wirings.from_edges([(0, 1), (1, 2), (0, 2)], inputs=[0], outputs=[2])
    graph, stage = wiring.data, topological_stages(wiring)[1]
    old_graph, old_stage = Graph.__new__(Graph), Stage.__new__(Stage)
    old_graph.__setstate__({"src": graph.src, "dst": graph.dst, "num_nodes": 3, "ndata": graph.ndata, "edata": graph.edata})
    state = {**vars(stage), "src": stage.src, "dst": stage.dst}
    del state["ends"]
    old_stage.__setstate__(state)
    old = ng.Wiring.__new__(ng.Wiring)
    old.__setstate__({**vars(wiring), "_graph": old_graph, "src": graph.src, "dst": graph.dst})
    assert same(old, wiring) and same(old_stage, stage)


@given(seed=st.integers(0, 10**9))
def test_pieces_of_edges_are_the_whole(seed):
    rng = random.Random(seed)
    full, role, _ = drawn(rng, acyclic=False)
    number, total = len(role), len(full)
    shuffled = torch.tensor(rng.sample(range(total), total), dtype=torch.long)
    plain = Entries(full.src[shuffled], full.dst[shuffled], (number, number))
    first, last = sorted(rng.randint(0, total) for _ in range(2))
    mask = torch.tensor([rng.random() < 0.5 for _ in range(total)], dtype=torch.bool)
    rows, columns = (torch.tensor(rng.sample(range(number + 3), number)) for _ in range(2))
    with patch.object(ends_room, "CHUNK", 3):
        for ends in (full, plain):
            for some in (slice(None), slice(first, last), mask, mask.nonzero().flatten()):
                src, dst = ends.src[some], ends.dst[some]
                assert same(ends.of(some), (src, dst))
                assert all(len(u) <= 3 for u, _ in ends.pieces(some))
                assert same(tuple(torch.from_numpy(np.concatenate(parts)).long() for parts in zip(*ends.pieces(some))), (src, dst))
                part = ends.part(some, number)
                assert same((part.src, part.dst), (src, dst))
                moved = ends.renumbered(some, rows, columns, (number + 3, number + 4))
                assert moved.shape == (number + 3, number + 4) and same((moved.src, moved.dst), (columns[src], rows[dst]))
        feeds, fed = plain.joined()
    assert feeds.nonzero().flatten().tolist() == sorted({*full.src.tolist()})
    assert fed.nonzero().flatten().tolist() == sorted({*full.dst.tolist()})
    assert plain.ascending().tolist() == sorted((full.dst * number + full.src).tolist())


@given(seed=st.integers(0, 10**9))
def test_wirings_and_stages_do_not_depend_on_how_many_edges_are_looked_at_at_once(seed):
    def made():
        again = ng.wirings.from_edges(torch.stack([wiring.src, wiring.dst], 1), inputs=wiring.inputs, outputs=wiring.outputs,
                                      functions=[wiring.function_of(node) for node in range(wiring.num_nodes)])
        matrix = torch.zeros(wiring.num_nodes, wiring.num_nodes)
        matrix[wiring.src, wiring.dst] = torch.arange(1.0, wiring.num_edges + 1)
        return (again, topological_stages(again), outcome(lambda: ng.wirings.from_adjacency(
            matrix, wiring.inputs, wiring.outputs, weight=True, prune_unreachable=True)))

    wiring = random_dag(seed)
    if seed % 2:
        order = torch.randperm(wiring.num_edges, generator=torch.Generator().manual_seed(seed))
        graph = Graph(wiring.ends.part(order, wiring.num_nodes), wiring.num_nodes)
        graph.ndata.update(wiring.data.ndata)
        wiring = ng.Wiring(graph)
    expected = made()
    with patch.object(ends_room, "CHUNK", 3), patch.object(matrices, "CELLS", 20), patch.object(paths, "MANY", 0):
        assert same(made(), expected)


@pytest.mark.parametrize("order", ["sorted", "any"])
def test_a_network_on_a_list_keeps_one_number_of_each_edge(order):
    wiring = ng.wirings.blocks([3, 8, 8, 4], dims=0)
    kept = torch.randperm(wiring.num_edges, generator=torch.Generator().manual_seed(0))[:wiring.num_edges * 3 // 4]
    graph = Graph(wiring.ends.part(kept.sort().values if order == "sorted" else kept, wiring.num_nodes), wiring.num_nodes)
    graph.ndata.update({name: wiring.data.ndata[name] for name in ("role", "block", "send", "receive", "norm")})
    network = ng.StaticNeuralGraph(ng.Wiring(graph), ng.TopK(20), "sparse", dims=0)
    network(torch.randn(4, 3)).sum().backward()
    network.learned_wiring(), network.eval().selection()
    for ends in (network.wiring.ends, *(stage.ends for stage in network.stages)):
        assert not {"src", "dst"} & vars(ends).keys()
    assert all(isinstance(stage.which, slice) == (order == "sorted") for stage in network.stages[1:])
