"""Wirings in networkx: round trips, what may be left out, what is refused."""

import random
import re

import networkx as nx
import pytest
import torch
from graphs import STATIC_GENERATORS, by_destination, learned, random_dag
from hypothesis import given, settings, strategies as st

import neuralgraph as ng
from neuralgraph import NodeFunction
from neuralgraph.errors import WiringError
from neuralgraph.wiring import to_networkx

GENERATORS = {**STATIC_GENERATORS, "complete": lambda: ng.wirings.complete(6, inputs=2, outputs=1)}


@pytest.mark.parametrize("generator", GENERATORS)
def test_networkx_round_trip(generator):
    wiring = GENERATORS[generator]()
    again = ng.from_networkx(ng.to_networkx(wiring))
    assert again == by_destination(wiring)
    assert generator == "from_edges" or again == wiring  # generators sort that way


@given(seed=st.integers(0, 10**6))
def test_networkx_round_trip_gives_the_same_network_bit_for_bit(seed):
    network = learned(random_dag(seed), seed)
    x = torch.randn(2, network._inputs, 5, 5, generator=torch.Generator().manual_seed(seed))
    once = ng.StaticNeuralGraph(network.learned_wiring(), ng.Complete()).eval()
    graph = ng.to_networkx(network)
    twice = ng.StaticNeuralGraph(ng.from_networkx(graph), ng.Complete()).eval()
    assert ng.from_networkx(graph) == by_destination(network.learned_wiring())
    assert torch.equal(once(x), twice(x))
    torch.testing.assert_close(once(x), network(x), rtol=1e-4, atol=1e-4)
    everything = ng.to_networkx(network, real_only=False)
    wiring = ng.from_networkx(everything)
    real = [everything.edges[u, v]["real"] for u, v in zip(wiring.src.tolist(), wiring.dst.tolist())]
    full = ng.StaticNeuralGraph(wiring, ng.RandomGraph(sum(real))).eval()
    full.selector.real.copy_(torch.tensor(real))
    assert torch.equal(full(x), network(x))


def test_labels_survive():
    graph = nx.DiGraph([("eye", "mind"), ("mind", "hand")])
    nx.set_node_attributes(graph, {"eye": "input", "mind": "hidden", "hand": "output"}, "role")
    nx.set_node_attributes(graph, 0, "block")
    network = ng.StaticNeuralGraph(ng.from_networkx(graph), ng.Complete())
    assert list(ng.to_networkx(network).edges) == [("eye", "mind"), ("mind", "hand")]


def networkx_line():
    graph = nx.DiGraph([("a", "b"), ("b", "c")])
    nx.set_node_attributes(graph, {"a": "input", "b": "hidden", "c": "output"}, "role")
    nx.set_node_attributes(graph, {"a": 0, "b": 1, "c": 2}, "block")
    return graph


@pytest.mark.parametrize("change, message", [
    (lambda g: g.nodes["b"].update(role="inptu"), "role 'inptu'"),
    (lambda g: g.nodes["b"].update(block=1.5), "block 1.5; expected an integer"),
    (lambda g: g.nodes["b"].update(kernelsize=5), "'kernelsize'; did you mean 'kernel_size'"),
    (lambda g: g.nodes["b"].update(kernel_size=2), "node 'b': kernel_size must be odd"),
    (lambda g: g.nodes["b"].update(norm="bach"), "node 'b'.*did you mean 'batch'"),
    (lambda g: g.nodes["c"].update(kernel=[1.0] * 9), "node 'c' does not use the learned value 'kernel'"),
    (lambda g: [g.nodes[n].update(kernel=[1.0] * 8) for n in "ab"], "kernel of 8 numbers.*needs 9"),
    (lambda g: [g.nodes[n].update(kernel="[1, 2") for n in "ab"], "number or a list of numbers"),
    (lambda g: g.edges["a", "b"].update(weigth=1.0), "'a' -> 'b' has the unknown attribute 'weigth'; did you mean 'weight'"),
    (lambda g: nx.set_edge_attributes(g, "heavy", "weight"), "'a' -> 'b' has the weight 'heavy'; expected a finite number"),
    (lambda g: nx.set_edge_attributes(g, True, "weight"), "has the weight True"),
    (lambda g: g.nodes["b"].update(scale=2**40), "has scale 1099511627776; expected an integer of 1 to"),
    (lambda g: g.nodes["b"].update(block=2**63), "has block 9223372036854775808; expected an integer"),
    (lambda g: nx.set_edge_attributes(g, 10**400, "weight"), "expected a finite number"),
    (lambda g: nx.set_edge_attributes(g, float("nan"), "weight"), "expected a finite number"),
    (lambda g: g.nodes["b"].update(kernel_size=2147483647), "node 'b': kernel_size must be an integer"),
    (lambda g: g.nodes["b"].update(norm_var=-1.0), "a variance is not negative"),
    (lambda g: g.nodes["b"].update(norm_mean=10**400), "all finite"),
    (lambda g: g.nodes["b"].update(activation="swish"), "node 'b'.*swish.*ng.register_activation"),
    (lambda g: g.nodes["b"].update(send="gain"), "node 'b'.*gain.*ng.register_operation"),
    (lambda g: g.nodes["b"].update(channel=0), "'b' is hidden but has the 'channel' 0"),
    (lambda g: g.nodes["a"].update(channel=1), "1 input nodes have no channel 0; expected each of 0 to 0"),
    (lambda g: g.edges["a", "b"].update(weight=-2.0, magnitude=1.0), "has the magnitude 1.0 but the weight -2.0"),
    (lambda g: g.edges["a", "b"].update(magnitude=1.0), "has the magnitude 1.0 but no weight"),
    (lambda g: [g.nodes[n].update(holds=True) for n in "abc"], "node 'b' has holds=1"),
    (lambda g: g.nodes["b"].update(holds=torch.ones(2)), "expected true or false"),
    (lambda g: g.nodes["b"].update(holds="no"), "holds 'no'; expected true or false"),
])
def test_bad_networkx(change, message):
    graph = networkx_line()
    change(graph)
    with pytest.raises(WiringError, match=message):
        ng.from_networkx(graph)


def test_to_networkx_checks_what_it_is_given():
    wiring = ng.wirings.blocks([1, 2])
    with pytest.raises(WiringError, match="expected a wiring, got DiGraph"):
        ng.to_networkx(nx.DiGraph())
    for real in (torch.ones(3, dtype=torch.bool), torch.ones(2)):
        with pytest.raises(WiringError, match=r"bool mask of shape \(2,\)"):
            to_networkx(wiring, real=real)


def test_other_networkx_graphs_are_refused():
    with pytest.raises(WiringError, match="directed.*order="):
        ng.from_networkx(networkx_line().to_undirected())
    with pytest.raises(WiringError, match="got MultiDiGraph"):
        ng.from_networkx(nx.MultiDiGraph(networkx_line()))


def test_cycle_is_named_by_label():
    graph = networkx_line()
    graph.add_node("d", role="hidden", block=1)
    graph.add_edges_from([("b", "d"), ("d", "b")])
    with pytest.raises(WiringError, match="('b' -> 'd' -> 'b'|'d' -> 'b' -> 'd')"):
        ng.StaticNeuralGraph(ng.from_networkx(graph), ng.Complete())


# What may be left out


def outputs_of(wiring, x):
    return ng.StaticNeuralGraph(wiring, ng.Complete(), dtype=torch.float64).eval()(x)


@settings(max_examples=12)
@given(seed=st.integers(0, 10**6))
def test_other_names_and_another_order_of_nodes_change_nothing(seed):
    """Channels stay where they are whatever becomes of the nodes."""
    wiring = learned(random_dag(seed), seed).learned_wiring()
    graph, rng = ng.to_networkx(wiring), random.Random(seed)
    names = [f"n{number}" for number in range(wiring.num_nodes)]
    rng.shuffle(names)
    graph = nx.relabel_nodes(graph, dict(zip(graph, names)))
    shuffled = nx.DiGraph()
    for items, add in ((list(graph.nodes(data=True)), shuffled.add_nodes_from),
                       (list(graph.edges(data=True)), shuffled.add_edges_from)):
        rng.shuffle(items)
        add(items)
    again = ng.from_networkx(shuffled)
    assert [names[v] for v in wiring.inputs.tolist()] == [again.label(v) for v in again.inputs.tolist()]
    x = torch.randn(2, len(wiring.inputs), 5, 5, dtype=torch.float64)
    torch.testing.assert_close(outputs_of(again, x), outputs_of(wiring, x), rtol=1e-10, atol=1e-10)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_roles_and_blocks_are_what_the_edges_say(seed):
    rng = random.Random(seed)
    graph = nx.gn_graph(rng.randint(2, 12), seed=seed)
    graph = nx.relabel_nodes(graph, {node: f"n{node}" for node in graph})
    wiring = ng.from_networkx(graph)
    ends = {"input": [v for v in graph if not graph.in_degree(v)], "output": [v for v in graph if not graph.out_degree(v)]}
    assert [wiring.label(v) for v in wiring.inputs.tolist()] == ends["input"]
    assert [wiring.label(v) for v in wiring.outputs.tolist()] == ends["output"]
    for node, block in zip(graph, wiring.block.tolist()):
        before = graph.subgraph(nx.ancestors(graph, node) | {node})
        assert block == nx.dag_longest_path_length(before)
    assert ng.from_networkx(ng.to_networkx(wiring)) == wiring


def test_named_channels():
    """Any nodes in any order; the same network as one whose nodes stand in that order."""
    graph = nx.DiGraph([("x", "m"), ("y", "m"), ("m", "p"), ("m", "q"), ("y", "q")])
    wiring = ng.from_networkx(graph, inputs=["y", "x"], outputs=["q", "p"])
    assert [wiring.label(v) for v in wiring.inputs.tolist()] == ["y", "x"]
    assert [wiring.label(v) for v in wiring.outputs.tolist()] == ["q", "p"]
    plain = ng.from_networkx(graph)
    weight = dict(zip(zip(plain.src.tolist(), plain.dst.tolist()), torch.randn(5)))
    x, y = torch.randn(2, 2, 4, 4), []
    for w in (wiring, plain):
        network = ng.StaticNeuralGraph(w, ng.Complete()).eval()
        with torch.no_grad():
            network.weight.copy_(torch.stack([weight[e] for e in zip(w.src.tolist(), w.dst.tolist())]))
        y.append(network(x.flip(1) if w is plain else x))
    torch.testing.assert_close(y[0], y[1].flip(1))
    assert ng.from_networkx(ng.to_networkx(wiring)) == wiring
    x.requires_grad_()
    dynamic = ng.DiscreteTimeNeuralGraph(ng.from_networkx(graph, inputs=["y", "x"]), ng.Complete(), steps=1)
    assert dynamic._at_inputs(x)[:, dynamic._input_place].equal(x)


def test_channels_must_be_complete_and_named_nodes_must_agree():
    graph = ng.to_networkx(ng.wirings.blocks([3, 2]))
    graph.remove_node(1)
    with pytest.raises(WiringError, match="2 input nodes have no channel 1; expected each of 0 to 1 once"):
        ng.from_networkx(graph)
    assert ng.from_networkx(graph, inputs=[2, 0]).inputs.tolist() == [1, 0]
    del graph.nodes[0]["channel"]
    with pytest.raises(WiringError, match="node 0 is an input without a 'channel', and others have one"):
        ng.from_networkx(graph)
    with pytest.raises(WiringError, match="node 2 has the role 'input', but inputs= does not name it"):
        ng.from_networkx(graph, inputs=[0])
    for wrong, message in ((dict(inputs=[0, 7]), "inputs names 7, which is no node"),
                           (dict(inputs=[0, 2, 2]), "2 more than once"), (dict(inputs=5), "names of some nodes"),
                           (dict(inputs=[0, 2], outputs=[3, 2]), "outputs= names it")):
        with pytest.raises(WiringError, match=message):
            ng.from_networkx(graph, **wrong)


def test_cycles_have_no_sources():
    ring = nx.DiGraph([("a", "b"), ("b", "c"), ("c", "a")])
    with pytest.raises(WiringError, match=r"at least one input.*cycle.*inputs=\[\.\.\.\]"):
        ng.from_networkx(ring)
    with pytest.raises(WiringError, match=r"at least one output.*cycle.*outputs=\[\.\.\.\]"):
        ng.from_networkx(ring, inputs=["a"])
    wiring = ng.from_networkx(ring, inputs=["a"], outputs=["c"])
    assert wiring.block.tolist() == [0, 1, 2] and wiring.role.tolist() == [1, 0, 2]


def test_unreachable_nodes_can_be_left_out():
    graph = nx.DiGraph([("a", "b"), ("b", "c"), ("lost", "b"), ("lost", "gone"), ("alone", "alone")])
    with pytest.raises(WiringError, match="no input reaches node 'lost'"):
        ng.from_networkx(graph, inputs=["a"], outputs=["c"])
    wiring = ng.from_networkx(graph, inputs=["a"], prune_unreachable=True)
    assert wiring.labels == ("a", "b", "c") and wiring.num_edges == 2
    with pytest.raises(WiringError, match="node 'a' is named as input and as output"):
        ng.from_networkx(graph, inputs=["a"], outputs=["a"])
    with pytest.raises(WiringError, match="no input reaches the output 'gone', which cannot be left out"):
        ng.from_networkx(graph, inputs=["a"], outputs=["gone"], prune_unreachable=True)


def test_undirected_graphs_with_an_order():
    graph = nx.path_graph(["a", "b", "c", "d"])
    wiring = ng.from_networkx(graph, order=["b", "a", "c", "d"])
    assert {wiring.edge_name(edge) for edge in range(3)} == {"'b' -> 'a'", "'b' -> 'c'", "'c' -> 'd'"}
    for order, message in ((["a", "b"], "'c', 'd' is in only one"), (["a", "b", "c", "c", "d"], "'c' more than once")):
        with pytest.raises(WiringError, match=message):
            ng.from_networkx(graph, order=order)
    with pytest.raises(WiringError, match="order is for undirected graphs"):
        ng.from_networkx(nx.DiGraph(graph), order=list(graph))


def test_all_faults_in_one_message():
    graph = nx.DiGraph((f"n{i}", f"n{i + 1}") for i in range(14))
    for node in graph:
        graph.nodes[node]["block"] = -1
    graph.edges["n3", "n4"]["weight"] = "heavy"
    with pytest.raises(WiringError) as caught:
        ng.from_networkx(graph)
    assert re.search("16 things are wrong.*n0.*n9.*and 6 more", str(caught.value), re.DOTALL)


# Graphs that were edited


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_what_is_new_in_a_learned_graph_begins_as_a_network_begins(seed):
    network = learned(random_dag(seed), seed)
    graph = ng.to_networkx(network)
    source = next(v for v, role in graph.nodes(data="role") if role == "input")
    graph.add_node("new", role="hidden")
    graph.add_edge(source, "new")
    before = ng.from_networkx(ng.to_networkx(network))
    wiring = ng.from_networkx(graph)
    new = wiring.num_nodes - 1
    kept = wiring.dst != new
    assert torch.equal(wiring.weight[kept], before.weight)
    assert wiring.weight[~kept].abs() <= int((wiring.role != 2).sum()) ** -0.5
    for name, value in before.parameters.items():
        inner = [slice((a - b) // 2, (a - b) // 2 + b) for a, b in zip(wiring.parameters[name].shape[1:], value.shape[1:])]
        assert torch.equal(wiring.parameters[name][(slice(0, new), *inner)], value)
    if "kernel" in wiring.parameters:
        kernel = wiring.parameters["kernel"][new]
        assert 0 < kernel.abs().max() <= 1 / 3 and len(kernel[kernel != 0]) == 9
        assert not torch.equal(kernel, ng.from_networkx(graph, seed=1).parameters["kernel"][new])
    if "norm_var" in wiring.parameters:
        assert wiring.parameters["norm_var"][new] == 1 and wiring.parameters["norm_mean"][new] == 0
    assert wiring == ng.from_networkx(graph, seed=0)
    assert not (~kept).any() or not torch.equal(wiring.weight, ng.from_networkx(graph, seed=1).weight)


def test_a_dead_node_keeps_its_size_and_a_new_one_gets_it():
    graph = ng.to_networkx(learned(ng.wirings.blocks([1, 3, 1], input_stride=2)).complete_wiring())
    for node in (1, 2):
        graph.remove_edge(0, node)
    graph.add_edge(0, "new")
    graph.add_edge("new", 4)
    wiring = ng.from_networkx(graph)
    assert wiring.scale.tolist() == [1, 2, 2, 2, 2, 2]
    graph.add_node("lonely")
    graph.add_edge("lonely", 4)
    graph.nodes["lonely"]["role"] = "hidden"
    with pytest.raises(WiringError, match="no input reaches node 'lonely', so its size is unknown"):
        ng.from_networkx(graph)
    assert "lonely" not in ng.from_networkx(graph, prune_unreachable=True).labels


def test_kernels_say_their_dimensions():
    graph = nx.DiGraph([("a", "b")])
    for numbers, shape in ((5, (2, 5)), (25, (2, 5, 5)), (125, (2, 5, 5, 5))):
        graph.nodes["a"].update(send="conv", kernel_size=5, kernel=[1.0] * numbers)
        wiring = ng.from_networkx(graph)
        assert wiring.parameters["kernel"].shape == shape
        assert ng.from_networkx(ng.to_networkx(wiring)) == wiring
    with pytest.raises(WiringError, match="kernel of 125 numbers; its kernel_size 5 needs 25 with dims=2"):
        ng.from_networkx(graph, dims=2)
    assert ng.from_networkx(nx.DiGraph([("a", "b")]), dims=0).function_of(0) == NodeFunction("norm activation")


def test_communities_by_magnitude():
    graph = ng.to_networkx(learned(ng.wirings.blocks([4, 6, 4])).complete_wiring())
    assert all(data["magnitude"] == abs(data["weight"]) for _, _, data in graph.edges(data=True))
    parts = [set(list(graph)[:7]), set(list(graph)[7:])]
    assert -0.5 <= nx.community.modularity(graph, parts, weight="magnitude") < 1
