"""The candidate graph: generators, validation, stages, exchange formats."""

import copy
import pickle

import networkx as nx
import pytest
import torch
from graphs import FUNCTIONS, LINE, STATIC_GENERATORS, bare, graph_with, random_dags
from hypothesis import given, strategies as st

import neuralgraph as ng
from neuralgraph.backends.layout import Layout
from neuralgraph.errors import UnknownNameError, WiringError
from neuralgraph.nodes import OPERATIONS, decode_steps, encode_steps
from neuralgraph.wiring import topological_stages

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
        assert torch.equal(Layout.of(stage).matrix(weight[stage.which]), expected)


def test_stages_of_blocks_need_no_scatter():
    stages = topological_stages(ng.wirings.blocks([3, 4, 4, 2]))
    assert all(Layout.of(stage).is_full_matrix for stage in stages)
    weight = torch.rand(62)
    assert Layout.of(stages[2]).matrix(weight[stages[2].which]).data_ptr() == weight[12:].data_ptr()


# Round trips


@pytest.mark.dgl
@pytest.mark.parametrize("generator", GENERATORS)
def test_dgl_round_trip(generator):
    wiring = GENERATORS[generator]()
    assert ng.Wiring(wiring.graph) == wiring
    assert ng.Wiring(wiring.graph.int()) == wiring
    older = ng.Wiring.__new__(ng.Wiring)  # from a pickle of version 0.1
    older.__setstate__({**vars(wiring), "_graph": wiring.graph})
    assert older == wiring and pickle.loads(pickle.dumps(older)) == wiring


@pytest.mark.parametrize("generator", GENERATORS)
def test_round_trips(generator):
    wiring = GENERATORS[generator]()
    assert ng.Wiring(wiring.data) == wiring
    assert pickle.loads(pickle.dumps(wiring)) == wiring
    assert copy.deepcopy(wiring) is wiring


# Bad input


def weighted(edges, name):
    graph = graph_with(edges, [1, 0, 2])
    graph.edata[name] = torch.ones(2)
    return graph


@pytest.mark.parametrize("make, message", [
    pytest.param(lambda: ng.Wiring(nx.DiGraph()), "dgl.DGLGraph, got DiGraph", marks=pytest.mark.dgl),
    (lambda: ng.Wiring(bare(LINE, 3)), "no node data 'role'"),
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
    (lambda: ng.wirings.from_edges([(0, 3), (1, 2)], inputs=[1, 1], outputs=[2, 3]), "inputs names 1 more than once"),
    (lambda: ng.wirings.from_edges([(0, 1)], inputs=[0], outputs=[1, 1]), "outputs names 1 more than once"),
    (lambda: ng.wirings.from_edges([(0, 1)], inputs=[0.7], outputs=[1]), "node of inputs must be a whole number or a name, got 0.7"),
    (lambda: ng.wirings.from_edges([(0, 1)], inputs=torch.tensor([False, True]), outputs=[1]), "must be a whole number or a name, got False"),
    (lambda: ng.wirings.from_edges([(0, 1)], inputs=[0], outputs=[1], num_nodes=2.0), "num_nodes must be an integer"),
    (lambda: ng.wirings.from_edges([(0.5, 1)], inputs=[0], outputs=[1]), "pairs of node numbers"),
    (lambda: ng.wirings.from_edges([(0, 1, 1), (1, 2, 1)], inputs=[0], outputs=[2]), "pairs of node numbers"),
    (lambda: ng.wirings.from_edges([(0, 1), (1,)], inputs=[0], outputs=[1]), "pairs of node numbers"),
    (lambda: ng.wirings.from_edges([("a", "b")], inputs=[0], outputs=["b"]), "no input reaches node 'a'"),
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
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2]), labels=["a", float("nan"), "b"]), "labels must be names.*got nan"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], norm_bias=[0.0] * 3, kernel=[[0.0] * 4] * 3)), "node data 'kernel' must be floating point of shape"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], norm_var=[1.0, -0.5, 0.0])), "node 1 has norm_var -0.5; learned values must be finite, and variances not negative"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], norm_mean=[float("nan"), 0.0, 0.0])), "node 0 has norm_mean nan"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], channel=[0, -1, 1])), "the 1 output nodes have no channel 0"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 0, 2], channel=[0, 0, 0])), "node 1 is hidden and has the channel 0"),
    (lambda: ng.Wiring(graph_with(LINE, [1, 1, 2], channel=[0, 0, 0])), "the 2 input nodes have channel 0 more than once"),
    (lambda: ng.wirings.from_edges([(v, v + 1) for v in range(4)], functions=ng.NodeFunction("conv", stride=2**14)), "edge 2 -> 3 make maps more than 2147483648 times smaller"),
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


def test_data_of_ones_own_are_left_alone():
    graph = nx.DiGraph([("a", "b"), ("b", "c")])
    nx.set_node_attributes(graph, "x", "label")
    nx.set_edge_attributes(graph, "friend", "rel")
    assert ng.from_networkx(graph).num_edges == 2
    graph = graph_with(LINE, [1, 0, 2], feat=[0.1, 0.2, 0.3])
    graph.edata["rel"] = torch.ones(2)
    assert torch.equal(ng.Wiring(graph).data.ndata["feat"], graph.ndata["feat"])


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
