"""Wirings in networkx and in files: round trips, what may be left out, what is refused."""

import json
import random
import re

import networkx as nx
import numpy as np
import pytest
import torch
from graphs import LINE, STATIC_GENERATORS, by_destination, graph_with, learned, random_dag
from hypothesis import given, settings, strategies as st

import neuralgraph as ng
from neuralgraph import NodeFunction
from neuralgraph._dgl import dgl
from neuralgraph.errors import InputError, NeuralGraphError, WiringError
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


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), format=st.sampled_from(["graphml", "gexf", "json"]))
def test_files_round_trip_bit_for_bit(tmp_path_factory, seed, format):
    wiring = learned(random_dag(seed), seed).learned_wiring()
    path = ng.write(wiring, tmp_path_factory.mktemp("files") / f"w.{format}")
    again = ng.read(path)
    assert again == by_destination(wiring)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_labels_survive():
    graph = nx.DiGraph([("eye", "mind"), ("mind", "hand")])
    nx.set_node_attributes(graph, {"eye": "input", "mind": "hidden", "hand": "output"}, "role")
    nx.set_node_attributes(graph, 0, "block")
    network = ng.StaticNeuralGraph(ng.from_networkx(graph), ng.Complete())
    assert list(ng.to_networkx(network).edges) == [("eye", "mind"), ("mind", "hand")]


@pytest.mark.parametrize("format", ["graphml", "gexf", "json"])
@pytest.mark.parametrize("labels", [("1", "01"), (" a\r\n\tb ", "<&'\"é😀>"), ("1", "a"), ("10", "20"), (1, 0)])
def test_names_survive_files(tmp_path, format, labels):
    graph = dgl.graph(([0], [1]))
    graph.ndata["role"], graph.ndata["block"] = torch.tensor([1, 2]), torch.tensor([0, 1])
    wiring = ng.Wiring(graph, labels=labels)
    again = ng.read(ng.write(wiring, tmp_path / f"w.{format}"))
    numbers = format != "json" and labels == ("10", "20")  # as text these are the numbers
    assert again.labels == ((10, 20) if numbers else labels)


@pytest.mark.parametrize("format", ["graphml", "gexf", "dot"])
def test_names_that_text_makes_one_are_refused(tmp_path, format):
    wiring = ng.Wiring(graph_with(LINE, [1, 0, 2]), labels=("1", 1, "a"))
    with pytest.raises(WiringError, match="'1' and 1 have the same name"):
        ng.write(wiring, tmp_path / f"w.{format}")
    assert not list(tmp_path.iterdir())
    assert ng.read(ng.write(wiring, tmp_path / "w.json")) == wiring


@pytest.mark.parametrize("format", ["graphml", "gexf", "json"])
def test_a_wiring_without_edges_round_trips(tmp_path, format):
    wiring = learned(ng.wirings.blocks([2, 3, 1], input_stride=2))
    wiring.selector.real[:] = False
    wiring = wiring.learned_wiring()
    assert wiring.num_edges == 0 and wiring.weight.shape == (0,)
    assert ng.from_networkx(ng.to_networkx(wiring)) == wiring
    assert ng.read(ng.write(wiring, tmp_path / f"w.{format}")) == wiring
    bare = ng.Wiring(graph_with(([], []), [1, 0, 2], scale=[1, 1, 1]))
    assert ng.from_networkx(ng.to_networkx(bare)) == bare


def test_dot_is_what_graphviz_reads(tmp_path):
    wiring = learned(ng.wirings.blocks([1, 2, 1])).learned_wiring()
    text = ng.write(wiring, tmp_path / "w.dot").read_text()
    assert text.startswith("digraph wiring {") and text.rstrip().endswith("}")
    for u, v, weight in zip(wiring.src.tolist(), wiring.dst.tolist(), wiring.weight.tolist()):
        assert f'"{u}" -> "{v}" [weight="{weight}", magnitude="{abs(weight)}", color=' in text
    assert text.count('role="input"') == 1 and text.count("kernel=") == 3


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


def test_unreadable_files(tmp_path):
    (tmp_path / "w.json").write_text("{not json")
    with pytest.raises(InputError, match="is not a json file"):
        ng.read(tmp_path / "w.json")
    with pytest.raises(InputError, match="no file"):
        ng.read(tmp_path / "absent.graphml")
    with pytest.raises(InputError, match="no folder .*absent"):
        ng.write(ng.wirings.blocks([1, 1]), tmp_path / "absent" / "w.json")


@pytest.mark.parametrize("format", ["graphml", "gexf", "json"])
@pytest.mark.parametrize("damage", [
    lambda text: text[:len(text) // 2], lambda text: "", lambda text: "[1, 2]", lambda text: "{}",
    lambda text: text.replace("input", "inptu"), lambda text: text.replace("role", "roles"),
])
def test_damaged_files_are_errors_that_name_the_file(tmp_path, format, damage):
    path = ng.write(learned(ng.wirings.blocks([1, 2, 1])).learned_wiring(), tmp_path / f"w.{format}")
    path.write_text(damage(path.read_text()))
    with pytest.raises((InputError, WiringError), match=f"w.{format}"):
        ng.read(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    path = tmp_path / "w.json"
    path.write_text("precious")
    monkeypatch.setattr("neuralgraph._files.replace", full)
    with pytest.raises(InputError, match="cannot write .*w.json: No space left"):
        ng.write(ng.wirings.blocks([1, 1]), path)
    assert path.read_text() == "precious" and list(tmp_path.iterdir()) == [path]


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


class Poly(ng.nodes.Operation):
    """p_0 + p_1 x + p_2 x^2: an operation of a user, whose values are not one number."""

    name, learned = "poly", {"poly": "coefficients"}

    def __init__(self, function, channels, dims):
        super().__init__(function, channels, dims)
        self.coefficients = torch.nn.Parameter(torch.tensor([0.0, 1.0, 0.5]).repeat(channels, 1))

    def forward(self, x, rows):
        a, b, c = (self.per_channel(p) for p in self.coefficients[rows].unbind(1))
        return a + b * x + c * x * x


@pytest.fixture
def poly():
    ng.register_operation(Poly)
    yield
    ng.nodes.OPERATIONS.pop("poly")
    ng.nodes.value_shapes.cache_clear()


@pytest.mark.parametrize("format", ["networkx", "graphml", "gexf", "json"])
def test_registered_operations_in_files(tmp_path, poly, format):
    wiring = ng.wirings.blocks([2, 3, 2], NodeFunction("norm poly conv"))
    network = ng.StaticNeuralGraph(wiring, ng.TopK(7)).eval()
    with torch.no_grad():
        network.functions.groups[0].send[1].coefficients.uniform_(-1, 1)
    once = network.learned_wiring()
    graph = ng.to_networkx(once)
    assert len(graph.nodes[3]["poly"]) == 3
    again = ng.from_networkx(graph) if format == "networkx" else ng.read(ng.write(once, tmp_path / f"w.{format}"))
    assert again == by_destination(once) and again.parameters["poly"].shape == (7, 3)
    x = torch.randn(2, 2, 5, 5)
    results = [ng.StaticNeuralGraph(w, ng.Complete()).eval()(x) for w in (by_destination(once), again)]
    assert torch.equal(*results)
    graph.add_node("new", role="hidden", send="poly")
    graph.add_edge(0, "new")
    assert ng.from_networkx(graph).parameters["poly"][-1].tolist() == [0.0, 1.0, 0.5]
    ng.nodes.OPERATIONS.pop("poly")
    try:
        with pytest.raises(WiringError, match="'poly'.*ng.register_operation"):
            ng.from_networkx(graph) if format == "networkx" else ng.read(tmp_path / f"w.{format}")
    finally:
        ng.nodes.OPERATIONS["poly"] = Poly


def test_communities_by_magnitude():
    graph = ng.to_networkx(learned(ng.wirings.blocks([4, 6, 4])).complete_wiring())
    assert all(data["magnitude"] == abs(data["weight"]) for _, _, data in graph.edges(data=True))
    parts = [set(list(graph)[:7]), set(list(graph)[7:])]
    assert -0.5 <= nx.community.modularity(graph, parts, weight="magnitude") < 1


# Files of others


def node_link(**changes):
    data = {"directed": True, "nodes": [{"id": "a"}, {"id": "b"}], "edges": [{"source": "a", "target": "b"}]}
    return {key: value for key, value in (data | changes).items() if value is not None}


def test_node_link_data_of_any_networkx(tmp_path):
    path = tmp_path / "w.json"
    for data in (node_link(), node_link(edges=None, links=node_link()["edges"]), node_link(multigraph=False)):
        path.write_text("\ufeff" + json.dumps(data), encoding="utf-8")
        assert ng.read(path).labels == ("a", "b")
    wiring = learned(ng.wirings.blocks([2, 3, 1])).learned_wiring()
    graph = nx.node_link_graph(json.loads(ng.write(wiring, path).read_text()))
    assert ng.from_networkx(graph) == wiring


@pytest.mark.parametrize("data, message", [
    (node_link(nodes=[{"id": "a"}, {"id": "b"}, {"id": "a", "block": 3}]), "the node 'a' stands more than once"),
    (node_link(edges=[{"source": "a", "target": "b"}] * 2), r"the edge \('a', 'b'\) stands more than once"),
    (node_link(links=[]), "one list of edges.* got edges and links"), (node_link(edges=None), "got none"),
    (node_link(multigraph=True), "this is a multigraph"), (node_link(directed=False), "directed.*order="),
    (node_link(nodes=[{"name": "a"}]), "an object with 'id'"), (node_link(nodes=[5]), "an object with 'id', got 5"),
    (node_link(nodes=[{"id": {}}]), "must be text, a number or a list"), (node_link(nodes=[]), "'a', 'b', which is no node"),
    (node_link(edges=[{"source": "a"}]), "an object with 'source' and 'target'"),
    (node_link(nodes=[{"id": "a", "send": "gain"}, {"id": "b"}]), "'gain'.*ng.register_operation"),
])
def test_odd_node_link_data(tmp_path, data, message):
    (tmp_path / "w.json").write_text(json.dumps(data))
    with pytest.raises((InputError, WiringError), match="w.json.*" + message):
        ng.read(tmp_path / "w.json")


def test_gephi_leaves_out_weights_of_one(tmp_path):
    graph = ng.to_networkx(learned(ng.wirings.blocks([1, 2, 1])).complete_wiring())
    for number, edge in enumerate(graph.edges):
        graph.edges[edge].update(weight=1.0 if number % 2 else -0.25, magnitude=1.0 if number % 2 else 0.25)
    path = ng.write(ng.from_networkx(graph), tmp_path / "w.gexf")
    path.write_text(path.read_text().replace(' weight="1.0"', ""))
    assert path.read_text().count(" weight=") == 3
    assert ng.read(path) == ng.from_networkx(graph)


@pytest.mark.parametrize("format, text", [("graphml", "<node id=\"0\">"), ("gexf", "<node id=\"0\"")])
def test_repeated_nodes_in_xml(tmp_path, format, text):
    path = ng.write(ng.wirings.blocks([1, 1]), tmp_path / f"w.{format}")
    whole = path.read_text()
    found = re.search(f"{text}.*?</node>", whole, re.DOTALL).group()
    path.write_text(whole.replace(found, found * 2))
    with pytest.raises(InputError, match=f"w.{format}.*the node '0' stands more than once"):
        ng.read(path)


@pytest.mark.parametrize("label, formats", [
    ("a\0b", ["graphml", "gexf", "dot"]), ("\x1b", ["graphml", "gexf"]), ("\ud800", ["graphml", "gexf", "dot"]),
    ("", ["graphml", "gexf", "dot"]), (("a", ("b", 1)), ["json"]), (frozenset("a"), ["json"]), (("a", None), ["json"]),
])
def test_names_that_a_format_cannot_hold_are_refused(tmp_path, label, formats):
    wiring = ng.Wiring(graph_with(LINE, [1, 0, 2]), labels=("x", label, "y"))
    for format in formats:
        with pytest.raises(WiringError, match="name.* of the"):
            ng.write(wiring, tmp_path / f"w.{format}")
    assert not list(tmp_path.iterdir())


@settings(max_examples=25)
@given(labels=st.lists(st.text(min_size=1, max_size=6), min_size=3, max_size=3, unique=True),
       format=st.sampled_from(["graphml", "gexf", "json"]))
def test_any_text_is_a_name_or_refused(tmp_path_factory, labels, format):
    wiring = ng.Wiring(graph_with(LINE, [1, 0, 2]), labels=labels)
    path = tmp_path_factory.mktemp("names") / f"w.{format}"
    try:
        ng.write(wiring, path)
    except WiringError:
        assert format != "json" and not path.exists()
    else:
        again = ng.read(path)
        assert [str(again.label(node)) for node in range(3)] == labels


def test_numbers_of_numpy_are_names(tmp_path):
    graph = nx.DiGraph([(np.int64(7), np.int64(3))])
    nx.set_node_attributes(graph, np.int32(4), "block")
    wiring = ng.from_networkx(graph)
    assert wiring.labels == (7, 3) and wiring.block.tolist() == [4, 4]
    assert ng.read(ng.write(wiring, tmp_path / "w.json")) == wiring


def test_files_that_cannot_be_opened(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "w.json").mkdir()
    with pytest.raises(InputError, match="cannot read .*w.json: Is a directory"):
        ng.read(tmp_path / "w.json")
    with pytest.raises(InputError, match="cannot read"):
        ng.read("a\0b.json")
    with pytest.raises(InputError, match="expected the path of a file, got 5"):
        ng.read(5)
    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    with pytest.raises(InputError, match="cannot read .*secret.json: Permission denied"):
        ng.read(tmp_path / "secret.json")
    monkeypatch.undo()
    (tmp_path / "latin.json").write_bytes('{"nodes": "é"}'.encode("latin-1"))
    with pytest.raises(InputError, match="latin.json: JSON is text in UTF-8"):
        ng.read(tmp_path / "latin.json")
    wiring = ng.wirings.blocks([1, 1])
    assert ng.read(ng.write(wiring, tmp_path / "w.txt", format="json"), format="json") == wiring


@pytest.mark.filterwarnings("ignore:No key type")
@settings(max_examples=60)
@given(data=st.data(), format=st.sampled_from(["graphml", "gexf", "json"]))
def test_mutated_files_give_our_errors(tmp_path_factory, data, format):
    """Bytes cut out, repeated or replaced by what hostile files have."""
    folder = tmp_path_factory.mktemp("mutated")
    path = ng.write(WIRING_FOR_MUTATION, folder / f"w.{format}")
    content = path.read_bytes()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        stop = min(len(content), start + data.draw(st.integers(0, 40)))
        new = data.draw(st.sampled_from([b"", b"9" * 400, b"-1", b"1e999", b"NaN", b"null", b"[", b"{}", b'"', b"\xff",
                                         b"\0", b"true", b"<node/>", content[start:stop] * 2]))
        content = content[:start] + new + content[stop:]
    path.write_bytes(content)
    try:
        ng.read(path)
    except NeuralGraphError:
        pass


@settings(max_examples=60)
@given(data=st.data())
def test_mutated_values_give_our_errors(data):
    graph = ng.to_networkx(WIRING_FOR_MUTATION)
    odd = st.sampled_from([None, True, -1, 0, 1.5, 2**63, 10**400, float("nan"), "", "x", [], [1.0], ["a"], {}, [[1.0]],
                           (1,), b"1", frozenset(), torch.ones(2), "[" * 5000])
    for _ in range(data.draw(st.integers(1, 3))):
        items = [graph.nodes[node] for node in graph] + [graph.edges[edge] for edge in graph.edges]
        item = data.draw(st.sampled_from(items))
        item[data.draw(st.sampled_from([*item, "real", "own"]))] = data.draw(odd)
    try:
        ng.from_networkx(graph)
    except NeuralGraphError:
        pass


WIRING_FOR_MUTATION = learned(random_dag(5), 5).learned_wiring()
