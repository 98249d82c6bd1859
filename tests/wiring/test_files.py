"""Wirings in files: round trips, files of others, what is refused."""

import json
import re

import networkx as nx
import numpy as np
import pytest
import torch
from graphs import LINE, by_destination, graph_with, learned, random_dag
from hypothesis import given, settings, strategies as st

import neuralgraph as ng
from neuralgraph import NodeFunction
from neuralgraph.errors import InputError, NeuralGraphError, WiringError


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), format=st.sampled_from(["graphml", "gexf", "json"]))
def test_files_round_trip_bit_for_bit(tmp_path_factory, seed, format):
    wiring = learned(random_dag(seed), seed).learned_wiring()
    path = ng.write(wiring, tmp_path_factory.mktemp("files") / f"w.{format}")
    again = ng.read(path)
    assert again == by_destination(wiring)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("format", ["graphml", "gexf", "json"])
@pytest.mark.parametrize("labels", [("1", "01"), (" a\r\n\tb ", "<&'\"é😀>"), ("1", "a"), ("10", "20"), (1, 0)])
def test_names_survive_files(tmp_path, format, labels):
    wiring = ng.Wiring(graph_with(([0], [1]), [1, 2]), labels=labels)
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
