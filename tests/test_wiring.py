"""The candidate graph: generators, validation, stages, exchange formats."""

import copy
import pickle

import networkx as nx
import pytest
import torch
from graphs import FUNCTIONS, STATIC_GENERATORS, random_dag, random_dags
from hypothesis import given, settings
from hypothesis import strategies as st

import neuralgraph as ng
from neuralgraph._dgl import dgl
from neuralgraph.backends.layout import Layout
from neuralgraph.errors import InputError, UnknownNameError, WiringError
from neuralgraph.wiring import to_networkx, topological_stages
from neuralgraph.nodes import OPERATIONS, decode_steps, encode_steps

GENERATORS = {**STATIC_GENERATORS, "complete": lambda: ng.wirings.complete(6, inputs=2, outputs=1)}


def edge_set(wiring):
    return set(zip(wiring.src.tolist(), wiring.dst.tolist()))


@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=5))
def test_blocks_is_every_pair_from_earlier_to_later(sizes):
    wiring = ng.wirings.blocks(sizes)
    block = [b for b, size in enumerate(sizes) for _ in range(size)]
    pairs = {(u, v) for u in range(len(block)) for v in range(len(block)) if block[u] < block[v]}
    assert edge_set(wiring) == pairs
    assert wiring.block.tolist() == block
    order = (wiring.dst * len(block) + wiring.src).tolist()
    assert order == sorted(order)
    assert wiring.inputs.tolist() == [v for v, b in enumerate(block) if b == 0]
    assert wiring.outputs.tolist() == [v for v, b in enumerate(block) if b == len(sizes) - 1]


@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=5))
def test_chain_is_every_pair_of_neighbouring_blocks(sizes):
    wiring = ng.wirings.chain(sizes)
    block = wiring.block.tolist()
    assert edge_set(wiring) == {(u, v) for u in range(len(block)) for v in range(len(block))
                                if block[v] == block[u] + 1}


def test_paper_sizes():
    """The staircases of the paper's MobileNet graphs (methods, table 3.1) and its tiny nets."""
    counts = {(32, 64, 1): 2048, (64, 128, 2): 32768, (128, 256, 2): 131072, (512, 1024, 2): 2097152}
    for (inp, oup, b), edges in counts.items():
        wiring = ng.wirings.blocks([inp, *[oup] * b])
        assert wiring.num_edges == edges == inp * oup * b + oup * oup * b * (b - 1) // 2
    assert ng.wirings.complete(80, inputs=3, outputs=10).num_edges == 6400
    assert ng.wirings.complete_dag(9, inputs=1, outputs=1).num_edges == 36


@pytest.mark.parametrize("generator", STATIC_GENERATORS)
def test_stages_visit_every_edge_once_after_its_source(generator):
    check_stages(STATIC_GENERATORS[generator]())


@given(wiring=random_dags)
def test_stages_of_random_dags(wiring):
    check_stages(wiring)


def check_stages(wiring):
    stages = topological_stages(wiring)
    assert torch.cat([s.nodes for s in stages]).sort().values.tolist() == list(range(wiring.num_nodes))
    assert torch.cat([s.edges for s in stages]).sort().values.tolist() == list(range(wiring.num_edges))
    done = set()
    for stage in stages:
        assert torch.equal(stage.sources[stage.src], wiring.src[stage.edges])
        assert torch.equal(stage.nodes[stage.dst], wiring.dst[stage.edges])
        assert set(stage.sources.tolist()) <= done
        for chunk in stage.chunks:
            assert {int(wiring.function[v]) for v in chunk.nodes} == {chunk.function}
        done |= set(stage.nodes.tolist())
    graph = nx.DiGraph(list(edge_set(wiring)))
    kinds = {(s.scale, s.aggregate) for s in stages}
    assert len(kinds) > 1 or len(stages) == nx.dag_longest_path_length(graph) + 1
    weight = torch.rand(wiring.num_edges)
    matrix = torch.zeros(wiring.num_nodes, wiring.num_nodes)
    matrix[wiring.dst, wiring.src] = weight
    for stage in stages:
        expected = matrix[stage.nodes][:, stage.sources]
        assert torch.equal(Layout.of(stage).matrix(weight), expected)


def test_stages_of_blocks_need_no_scatter():
    stages = topological_stages(ng.wirings.blocks([3, 4, 4, 2]))
    assert all(Layout.of(stage).is_full_matrix for stage in stages)
    weight = torch.rand(62)
    assert Layout.of(stages[2]).matrix(weight).data_ptr() == weight[12:].data_ptr()


# Round trips


@pytest.mark.parametrize("generator", GENERATORS)
def test_dgl_round_trip(generator):
    wiring = GENERATORS[generator]()
    assert ng.Wiring(wiring.graph) == wiring
    assert ng.Wiring(wiring.graph.int()) == wiring
    assert pickle.loads(pickle.dumps(wiring)) == wiring
    assert copy.deepcopy(wiring) is wiring


def learned(wiring, seed=0):
    network = ng.StaticNeuralGraph(wiring, ng.RandomGraph(max(1, wiring.num_edges // 2)), seed=seed)
    with torch.no_grad():
        for name, buffer in network.functions.named_buffers():
            buffer += torch.rand(buffer.shape, generator=torch.Generator().manual_seed(seed))
    return network.eval()


@pytest.mark.parametrize("generator", GENERATORS)
def test_networkx_round_trip(generator):
    wiring = GENERATORS[generator]()
    again = ng.from_networkx(ng.to_networkx(wiring))
    assert again == by_destination(wiring)
    assert generator == "from_edges" or again == wiring  # generators sort that way


def by_destination(wiring):
    """The same wiring with its edges sorted by destination, then source."""
    order = (wiring.dst * wiring.num_nodes + wiring.src).argsort()
    graph = dgl.graph((wiring.src[order], wiring.dst[order]), num_nodes=wiring.num_nodes)
    graph.ndata.update(wiring.graph.ndata)
    graph.edata.update({name: value[order] for name, value in wiring.graph.edata.items()})
    return ng.Wiring(graph, labels=wiring.labels)


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
@pytest.mark.parametrize("labels", [("1", "01"), ("1", "a"), ("10", "20"), (1, 0)])
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
        assert f'"{u}" -> "{v}" [weight="{weight}"];' in text
    assert text.count('role="input"') == 1 and text.count("kernel=") == 3


# Bad input


def graph_with(edges, roles, **ndata):
    graph = dgl.graph(edges, num_nodes=len(roles))
    graph.ndata["role"] = torch.tensor(roles)
    graph.ndata["block"] = torch.zeros(len(roles), dtype=torch.long)
    for name, value in ndata.items():
        graph.ndata[name] = torch.tensor(value)
    return graph


LINE = ([0, 1], [1, 2])


def weighted(edges, name):
    graph = graph_with(edges, [1, 0, 2])
    graph.edata[name] = torch.ones(2)
    return graph


@pytest.mark.parametrize("make, message", [
    (lambda: ng.Wiring(nx.DiGraph()), "dgl.DGLGraph, got DiGraph"),
    (lambda: ng.Wiring(dgl.graph(LINE)), "no node data 'role'"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 3])), "node 2 has role 3; expected 0 to 2"),
    (lambda: ng.Wiring(graph_with(LINE, [0, 0, 2])), "at least one input"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 0])), "at least one output"),
    (lambda: ng.Wiring(graph_with(LINE, [1.0, 0.0, 2.0])), "'role' must be integers"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], block=[0, -1, 1])), "node 1 has block -1"),
    (lambda: ng.Wiring(graph_with(([0, 1, 0], [1, 2, 1]), [1, 0, 2])), "edge 0 -> 1 stands more than once"),
    (lambda: ng.Wiring(graph_with(([0, 1], [2, 2]), [1, 0, 2])), "no input reaches node 1"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], kernel_size=[3, 4, 0])), "node 1: kernel_size must be odd"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], norm=[1, 9, 0])), "node 1"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], send=[0o123, 0o7, 0])), "node 1.*octal digit 7"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], scale=[2, 2, 2])), "must be 1 at the input"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2]), labels=["a", "a", "b"]), "3 different names"),
    (lambda: ng.wirings.from_edges([(0, 1), (1, 3), (0, 2), (2, 3)], inputs=[0], outputs=[3],
                                   functions={1: ng.NodeFunction("conv", stride=2)}),
     "strides disagree on the edge 2 -> 3|strides disagree on the edge 1 -> 3"),
    (lambda: ng.wirings.blocks([3]), "at least two blocks"),
    (lambda: ng.wirings.blocks([3, 0, 1]), "at least one node"),
    (lambda: ng.wirings.complete(3, inputs=2, outputs=2), "2 inputs and 2 outputs of 3"),
    (lambda: ng.wirings.from_edges([(0, 5)], inputs=[0], outputs=[1], num_nodes=3), "node 5 does not exist"),
    (lambda: ng.wirings.from_edges([(0, -1)], inputs=[0], outputs=[1]), "node -1 does not exist"),
    (lambda: ng.wirings.from_edges([(0, 1)], inputs=[0], outputs=[0, 1]), "as input and as output"),
    (lambda: ng.wirings.from_edges([(0, 1)], inputs=[0], outputs=[1], blocks=[1]), "one number for each"),
    (lambda: ng.wirings.from_edges([(0, 1)], inputs=[0], outputs=[1], functions=[ng.NodeFunction()]), "functions must be 2"),
    (lambda: ng.wirings.from_edges(torch.rand(3, 2), inputs=[0], outputs=[1]), "pairs of node numbers"),
    (lambda: ng.wirings.from_edges([(0, 1)], inputs=[0], outputs=[1], weight=torch.ones(2)), r"shape \(1,\)"),
    (lambda: ng.wirings.from_edges([(0, 1)], inputs=[0], outputs=[1], weight=torch.tensor([float("nan")])), "edge 0 -> 1 has the weight nan"),
    (lambda: ng.wirings.from_edges([(0, 3), (1, 2)], inputs=[1, 0], outputs=[2, 3]), "inputs must be ascending.*got 1, 0"),
    (lambda: ng.wirings.from_edges([(0, 1)], inputs=[0], outputs=[1, 1]), "outputs must be ascending"),
    (lambda: ng.wirings.from_edges([(0, 1)], inputs=[0.7], outputs=[1]), "node of inputs must be an integer, got 0.7"),
    (lambda: ng.wirings.from_edges([(0, 1)], inputs=torch.tensor([False, True]), outputs=[1]), "must be an integer"),
    (lambda: ng.wirings.from_edges([(0, 1)], inputs=[0], outputs=[1], num_nodes=2.0), "num_nodes must be an integer"),
    (lambda: ng.wirings.from_edges([(0.5, 1)], inputs=[0], outputs=[1]), "pairs of node numbers"),
    (lambda: ng.wirings.from_edges([(0, 1, 1), (1, 2, 1)], inputs=[0], outputs=[2]), "pairs of node numbers"),
    (lambda: ng.wirings.from_edges([(0, 1), (1,)], inputs=[0], outputs=[1]), "pairs of node numbers"),
    (lambda: ng.wirings.from_edges([("a", "b")], inputs=[0], outputs=[1]), "pairs of node numbers"),
    (lambda: ng.wirings.from_edges([(0, 1)], inputs=[0], outputs=[1], functions={7: ng.NodeFunction()}), "functions names 7, which is no node: nodes are the numbers 0 to 1"),
    (lambda: ng.wirings.from_edges([(0, 1)], inputs=[0], outputs=[1], functions={1: "conv"}), "function of node 1 must be a NodeFunction, got 'conv'"),
    (lambda: ng.wirings.blocks([2.7, 3]), "size of a block must be an integer, got 2.7"),
    (lambda: ng.wirings.chain([2, True]), "must be an integer, got True"),
    (lambda: ng.wirings.blocks([2, 3], input_stride=1.5), "stride must be an integer"),
    (lambda: ng.wirings.complete(4.0, inputs=1, outputs=1), "nodes must be an integer, got 4.0"),
    (lambda: ng.wirings.complete_dag(4, inputs=1, outputs=1.5), "outputs must be an integer, got 1.5"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], strides=[1, 2, 1])), "unknown node data 'strides'; did you mean 'stride'"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], kernels=[0.0] * 3)), "did you mean 'kernel'"),
    (lambda: ng.Wiring(weighted(LINE, "weights")), "unknown edge data 'weights'; did you mean 'weight'"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], norm=[1, 9, 0])), "node 1: norm has the code 9; codes are 0 = none, 1 = batch"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], stride=[1, 2, 1], zero_pad=[0, 2, 0])), "node 1: zero_pad has the code 2"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], bias=[1.0, 2.0, 3.0])), "no node uses the learned value 'bias'"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], norm_bias=[1, 2, 3])), "'norm_bias' must be floating point of shape .3,., got torch.int64"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], kernel=[1.0, 2.0, 3.0])), "'kernel' must be floating point of shape .3, s., .3, s, s."),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2]), labels=[[1], [2], [3]]), "labels must be names"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2]), labels=["a", None, "b"]), "labels must be names"),
    (lambda: ng.from_networkx(nx.DiGraph()), "at least one input"),
    (lambda: ng.wirings.from_edges([], inputs=[], outputs=[]), "at least one input"),
    (lambda: ng.wirings.from_edges([(0, 1)], inputs=[0], outputs=[1], weight=[1.0]), "tensor of shape .1,., one an edge, got list"),
    (lambda: ng.wirings.blocks(5), "sizes must be the numbers of nodes"),
    (lambda: ng.write(ng.StaticNeuralGraph(ng.wirings.blocks([1, 1]), ng.TopK(1)), "w.graphml"), "network.learned_wiring"),
    (lambda: ng.write(ng.Wiring(graph_with(LINE, [1, 0, 2]), labels=[frozenset(), "b", "c"]), "w.json"), "JSON cannot hold the names"),
    (lambda: ng.NodeFunction(send=None), "send must be a text of steps"),
    (lambda: ng.NodeFunction("norm", kernel_size=3), "kernel_size=3 is never used"),
    (lambda: ng.NodeFunction("conv conv"), "one kernel"),
    (lambda: ng.NodeFunction("activation", stride=2), "stride=2 needs a convolution"),
    (lambda: ng.NodeFunction("conv", stride=0), "stride must be an integer of at least 1"),
])
def test_bad_wirings(make, message):
    with pytest.raises(WiringError, match=message):
        make()


def test_unknown_names_give_the_nearest():
    with pytest.raises(UnknownNameError, match="'batchh'; did you mean 'batch'"):
        ng.NodeFunction("norm", norm="batchh")
    with pytest.raises(UnknownNameError, match="did you mean 'activation'"):
        ng.NodeFunction("norm activatoin")
    with pytest.raises(UnknownNameError, match="did you mean 'graphml'"):
        ng.write(ng.wirings.blocks([1, 1]), "w.graphlm")


def networkx_line():
    graph = nx.DiGraph([("a", "b"), ("b", "c")])
    nx.set_node_attributes(graph, {"a": "input", "b": "hidden", "c": "output"}, "role")
    nx.set_node_attributes(graph, {"a": 0, "b": 1, "c": 2}, "block")
    return graph


@pytest.mark.parametrize("change, message", [
    (lambda g: g.nodes["b"].pop("role"), "node 'b' has no 'role'.*one of 'hidden', 'input', 'output'"),
    (lambda g: g.nodes["b"].pop("block"), "node 'b' has no 'block'"),
    (lambda g: g.nodes["b"].update(role="inptu"), "role 'inptu'"),
    (lambda g: g.nodes["b"].update(block=1.5), "block 1.5; expected an integer"),
    (lambda g: g.nodes["b"].update(kernelsize=5), "'kernelsize'; did you mean 'kernel_size'"),
    (lambda g: g.nodes["b"].update(kernel_size=2), "node 'b': kernel_size must be odd"),
    (lambda g: g.nodes["b"].update(norm="bach"), "node 'b'.*did you mean 'batch'"),
    (lambda g: g.nodes["b"].update(kernel=[1.0] * 9), "node 'a' lacks the learned value 'kernel'"),
    (lambda g: [g.nodes[n].update(kernel=[1.0] * 8) for n in "ab"], "kernel of 8 numbers.*needs 9"),
    (lambda g: [g.nodes[n].update(kernel="[1, 2") for n in "ab"], "number or a list of numbers"),
    (lambda g: g.edges["a", "b"].update(weight=1.0), "'b' -> 'c' has no 'weight'"),
    (lambda g: g.edges["a", "b"].update(weigth=1.0), "'a' -> 'b' has the unknown attribute 'weigth'; did you mean 'weight'"),
    (lambda g: nx.set_edge_attributes(g, "heavy", "weight"), "'a' -> 'b' has the weight 'heavy'; expected a number"),
    (lambda g: nx.set_edge_attributes(g, True, "weight"), "has the weight True"),
    (lambda g: g.nodes["b"].update(scale=1), "has no 'scale'"),
    (lambda g: [g.nodes[n].update(holds=True) for n in "abc"], "node 'b' has holds=1"),
    (lambda g: g.nodes["b"].update(holds=torch.ones(2)), "expected true or false"),
    (lambda g: g.nodes["b"].update(holds="no"), "holds 'no'; expected true or false"),
])
def test_bad_networkx(change, message):
    graph = networkx_line()
    change(graph)
    with pytest.raises(WiringError, match=message):
        ng.from_networkx(graph)


def test_data_of_ones_own_are_left_alone():
    graph = networkx_line()
    nx.set_node_attributes(graph, "x", "label")
    nx.set_edge_attributes(graph, "friend", "rel")
    assert ng.from_networkx(graph).num_edges == 2
    graph = graph_with(LINE, [1, 0, 2], feat=[0.1, 0.2, 0.3])
    graph.edata["rel"] = torch.ones(2)
    assert torch.equal(ng.Wiring(graph).graph.ndata["feat"], graph.ndata["feat"])


def test_to_networkx_checks_what_it_is_given():
    wiring = ng.wirings.blocks([1, 2])
    with pytest.raises(WiringError, match="expected a wiring, got DiGraph"):
        ng.to_networkx(nx.DiGraph())
    for real in (torch.ones(3, dtype=torch.bool), torch.ones(2)):
        with pytest.raises(WiringError, match=r"bool mask of shape \(2,\)"):
            to_networkx(wiring, real=real)


def test_other_networkx_graphs_are_refused():
    with pytest.raises(WiringError, match="directed"):
        ng.from_networkx(networkx_line().to_undirected())
    with pytest.raises(WiringError, match="stands more than once"):
        graph = nx.MultiDiGraph(networkx_line())
        graph.add_edge("a", "b")
        ng.from_networkx(graph)


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
    lambda text: text.replace("input", "inptu"), lambda text: text.replace("role", "rule"),
])
def test_damaged_files_are_errors_that_name_the_file(tmp_path, format, damage):
    path = ng.write(learned(ng.wirings.blocks([1, 2, 1])).learned_wiring(), tmp_path / f"w.{format}")
    path.write_text(damage(path.read_text()))
    with pytest.raises((InputError, WiringError), match=f"w.{format}"):
        ng.read(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    from neuralgraph.wiring import exchange

    def full(graph, path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    path = tmp_path / "w.json"
    path.write_text("precious")
    monkeypatch.setitem(exchange.FORMATS, "json", full)
    with pytest.raises(OSError):
        ng.write(ng.wirings.blocks([1, 1]), path)
    assert path.read_text() == "precious" and list(tmp_path.iterdir()) == [path]


# Node functions as data


@given(st.lists(st.sampled_from(list(OPERATIONS)), max_size=8))
def test_step_codes_round_trip(steps):
    assert decode_steps(encode_steps(" ".join(steps))) == " ".join(steps)


def test_equal_functions_compare_equal():
    assert ng.NodeFunction("norm activation conv", norm="none") == ng.NodeFunction("activation conv")
    assert ng.NodeFunction("activation", activation="identity") == ng.NodeFunction()
    assert len({*FUNCTIONS, *FUNCTIONS}) == len(FUNCTIONS)


def test_defaults_of_a_bare_graph():
    wiring = ng.Wiring(graph_with(LINE, [1, 0, 2]))
    assert wiring.function_of(1) == ng.NodeFunction("norm activation conv")
    assert wiring.function_of(2) == ng.NodeFunction()
    wiring = ng.Wiring(graph_with(LINE, [1, 0, 2], kernel_size=[3, 5, 0], stride=[2, 1, 1]))
    assert wiring.function_of(1).kernel_size == 5 and wiring.function_of(0).stride == 2
    assert wiring.scale.tolist() == [1, 2, 2]


def test_a_learned_wiring_may_have_dead_nodes():
    """A node that lost its in-edges keeps its size and still works as a constant."""
    wiring = ng.wirings.blocks([2, 2, 2, 1], input_stride=2)
    network = ng.StaticNeuralGraph(wiring, ng.RandomGraph(5)).eval()
    network.selector.real[:] = False
    keep = [(2, 4), (4, 6), (0, 5), (5, 6), (2, 6)]  # nodes 2 and 3 have no in-edge
    for edge, ends in enumerate(zip(wiring.src.tolist(), wiring.dst.tolist())):
        network.selector.real[edge] = ends in keep
    with torch.no_grad():
        for _, operation, attribute in network.functions.groups[1].learned():
            getattr(operation, attribute).add_(0.7)
    small = ng.StaticNeuralGraph(network.learned_wiring(), ng.Complete()).eval()
    x = torch.randn(2, 2, 7, 7)
    assert small.wiring.num_edges == 5
    torch.testing.assert_close(small(x), network(x), rtol=1e-5, atol=1e-6)
