"""Wirings from pairs of names, adjacency matrices and tables."""

import gzip
import sys
import types

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import neuralgraph as ng
from neuralgraph.errors import InputError, NeuralGraphError, WiringError


def named_edges(wiring):
    return [(wiring.label(u), wiring.label(v)) for u, v in zip(wiring.src.tolist(), wiring.dst.tolist())]


# Pairs


def test_pairs_of_names():
    edges = [("m", "p"), ("y", "m"), ("x", "m"), (("a", 1), 7), ("x", ("a", 1))]
    wiring = ng.wirings.from_edges(edges, inputs=["y", "x"], outputs=[7, "p"], blocks={"y": 0, "x": 0, "m": 3, "p": 5, ("a", 1): 2, 7: 4},
                                   functions={"m": ng.NodeFunction("conv")}, weight=torch.arange(5.0))
    assert named_edges(wiring) == edges and wiring.weight.tolist() == [0, 1, 2, 3, 4]
    assert [wiring.label(v) for v in (*wiring.inputs.tolist(), *wiring.outputs.tolist())] == ["y", "x", 7, "p"]
    assert wiring.function_of(wiring.labels.index("m")) == ng.NodeFunction("conv")
    assert [wiring.label(v) for v in wiring.block.argsort(stable=True).tolist()] == ["y", "x", ("a", 1), "m", 7, "p"]


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_names_and_numbers_give_the_same_wiring(seed):
    graph = nx.gnp_random_graph(8, 0.4, seed=seed, directed=True)
    edges = [(u, v) for u, v in graph.edges if u < v]
    used = sorted({node for edge in edges for node in edge})
    if not edges:
        return
    place = {node: number for number, node in enumerate(used)}
    numbers = [(place[u], place[v]) for u, v in edges]
    plain = ng.wirings.from_edges(numbers)
    named = ng.wirings.from_edges([(f"n{u}", f"n{v}") for u, v in numbers], inputs=[f"n{v}" for v in plain.inputs.tolist()])
    assert named_edges(named) == [(f"n{u}", f"n{v}") for u, v in named_edges(plain)]
    assert torch.equal(plain.weight, named.weight) if plain.weight is not None else named.weight is None
    assert {named.label(v): b for v, b in enumerate(named.block.tolist())} == \
        {f"n{v}": b for v, b in enumerate(plain.block.tolist())}
    assert ng.wirings.from_edges(torch.tensor(numbers)) == ng.wirings.from_edges(np.array(numbers)) == plain


def test_channels_of_edges_have_any_order():
    x = torch.randn(2, 2, 4, 4)
    swapped, plain = (ng.wirings.from_edges([(0, 2), (1, 3), (0, 3)], inputs=i, outputs=o)
                      for i, o in (([1, 0], [3, 2]), ([0, 1], [2, 3])))
    a, b = (ng.StaticNeuralGraph(w, ng.Complete()).eval() for w in (swapped, plain))
    torch.testing.assert_close(a(x), b(x.flip(1)).flip(1))
    a, b = (ng.DiscreteTimeNeuralGraph(w, ng.Complete(), steps=2).eval() for w in (swapped, plain))
    torch.testing.assert_close(a(x), b(x.flip(1)).flip(1))


def test_pruned_numbers_keep_their_names():
    wiring = ng.wirings.from_edges([(0, 3), (1, 3), (3, 5), (1, 2)], inputs=[0], weight=torch.arange(4.0),
                                   prune_unreachable=True)
    assert wiring.labels == (0, 3, 5) and wiring.weight.tolist() == [0, 2] and wiring.outputs.tolist() == [2]


@pytest.mark.parametrize("make, message", [
    (lambda: ng.wirings.from_edges(["ab"]), "'ab' is no pair"),
    (lambda: ng.wirings.from_edges([("a", True)]), "True is neither"),
    (lambda: ng.wirings.from_edges([("a", [])]), "unhashable"),
    (lambda: ng.wirings.from_edges([("a", None)]), "None is neither"),
    (lambda: ng.wirings.from_edges(5), "pairs of node numbers or names"),
    (lambda: ng.wirings.from_edges([("a", "b")], num_nodes=3), "num_nodes is for nodes that are numbers"),
    (lambda: ng.wirings.from_edges([(0, 2**64)]), "a node must fit in 64 bits"),
    (lambda: ng.wirings.from_edges([("a", "b")], inputs="a"), "inputs must be the names of some nodes"),
    (lambda: ng.wirings.from_edges([("a", "b")], functions={"c": ng.NodeFunction()}), "functions names 'c', which is no node: nodes are called 'a', 'b'"),
    (lambda: ng.wirings.from_edges([("a", "b")], blocks={"a": 1}), "'b' has none"),
    (lambda: ng.wirings.from_edges([(0, 1)], blocks=[0, 2**70]), "a block must fit in 64 bits"),
    (lambda: ng.wirings.from_edges([(0, 1), (1, 0)]), "at least one input node.*cycle"),
    (lambda: ng.wirings.from_edges([(0, 1)], dims=4), "dims must be 0 .vectors., 1, 2 .images. or 3, got 4"),
    (lambda: ng.wirings.blocks([1, 2], ng.NodeFunction(), dims=True), "dims must be an integer"),
    (lambda: ng.wirings.from_edges([(0, 1)], prune_unreachable=1), "True or False"),
    (lambda: ng.wirings.blocks([1, 1], "conv"), "one node function, or one for each of the 2 blocks"),
])
def test_bad_pairs(make, message):
    with pytest.raises(WiringError, match=message):
        make()


# Matrices


def scipy_of(kind):
    sparse = pytest.importorskip("scipy.sparse")
    return lambda A: getattr(sparse, kind)(A.numpy())


MATRICES = {
    "numpy": lambda A: A.numpy(), "numpy-float32": lambda A: A.numpy().astype(np.float32), "torch": lambda A: A,
    "matrix": lambda A: np.matrix(A.numpy()), "torch-coo": lambda A: A.to_sparse(), "torch-csr": lambda A: A.to_sparse_csr(),
    "torch-csc": lambda A: A.to_sparse_csc(), "torch-hybrid": lambda A: A.to_sparse(1),
    "csr_matrix": lambda A: scipy_of("csr_matrix")(A), "coo_array": lambda A: scipy_of("coo_array")(A),
    "lil_matrix": lambda A: scipy_of("lil_matrix")(A),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass", "ignore:Sparse CSR")
@pytest.mark.parametrize("kind", MATRICES)
def test_adjacency_is_that_of_networkx(kind):
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        A = torch.randn(9, 9, generator=generator, dtype=torch.float64).float().double()
        A = A * (torch.rand(9, 9, generator=generator) < 0.4).triu(1)
        A[0, 1:] = 1.0
        wiring = ng.wirings.from_adjacency(MATRICES[kind](A), inputs=[0], weight=True)
        theirs = nx.from_numpy_array(A.numpy(), create_using=nx.DiGraph)
        assert {e: w for e, w in zip(named_edges(wiring), wiring.weight.tolist())} == \
            {(u, v): w for u, v, w in theirs.edges(data="weight")}
        order = [(v, u) for u, v in named_edges(wiring)]
        assert order == sorted(order)
        assert ng.wirings.from_adjacency(MATRICES[kind](A), inputs=[0]).weight is None


def test_entries_that_repeat_or_cancel():
    sparse = pytest.importorskip("scipy.sparse")
    where = ([0, 0, 1, 1], [1, 1, 2, 2])
    coo = sparse.coo_matrix(([1.0, 2.0, 5.0, -5.0], where), shape=(3, 3))
    again = torch.sparse_coo_tensor(torch.tensor(where), torch.tensor([1.0, 2.0, 5.0, -5.0]), (3, 3), check_invariants=False)
    for matrix in (coo, again):
        wiring = ng.wirings.from_adjacency(matrix, weight=True, prune_unreachable=True)
        assert wiring.weight.tolist() == [3.0] and wiring.num_nodes == 2
    assert len(coo.data) == 4  # the caller's own
    booleans = ng.wirings.from_adjacency(np.array([[False, True], [False, False]]), weight=True)
    assert booleans.weight.tolist() == [1.0]


@pytest.mark.parametrize("matrix, message", [
    ([[0, 1], [0, 0]], "got builtins.list"), (nx.DiGraph([(0, 1)]), "got networkx"), (np.zeros((2, 3)), "square"),
    (np.zeros(4), "square"), (torch.zeros(2, 2, 2), "square"), (np.array([["a", "b"], ["c", "d"]]), "real numbers"),
    (np.array([[0, 1j], [0, 0]]), "complex128"), (torch.zeros(2, 2, dtype=torch.cfloat), "complex64"),
    (np.array([[0, None], [0, 0]]), "object"), (np.array([[0, np.nan], [0, 0]]), r"A\[0, 1\] is nan"),
    (torch.tensor([[0, float("inf")], [0, 0]]), r"A\[0, 1\] is inf"), (np.ma.masked_equal(np.eye(2), 0), "MaskedArray"),
    (np.zeros((2, 2)), "at least one input"),
])
def test_bad_matrices(matrix, message):
    with pytest.raises(WiringError, match=message):
        ng.wirings.from_adjacency(matrix)


# Tables


CONNECTOME = "pre_id,post_id,neuropil,syn_count\n720575940601,720575940602,AL,5\n" \
             "720575940602,720575940603,MB,12\n720575940601,720575940602,MB,2\n"


@pytest.mark.parametrize("delimiter", [",", "\t", ";", " "])
@pytest.mark.parametrize("change", [lambda b: b, lambda b: b"\xef\xbb\xbf" + b, lambda b: b"# v783\n" + b, gzip.compress,
                                    lambda b: b.replace(b"\n", b"\r\n") + b"\r\n"])
def test_a_connectome(tmp_path, delimiter, change):
    path = tmp_path / "edges.txt"
    path.write_bytes(change(CONNECTOME.replace(",", delimiter).encode()))
    wiring = ng.wirings.from_table(path, "pre_id", "post_id", weight="syn_count", add_repeated=True)
    assert named_edges(wiring) == [(720575940601, 720575940602), (720575940602, 720575940603)]
    assert wiring.weight.tolist() == [7.0, 12.0] and wiring.inputs.tolist() == [0]
    with pytest.raises(WiringError, match="720575940601 -> 720575940602 stands in more than one row .1 repeated"):
        ng.wirings.from_table(path, "pre_id", "post_id")
    with pytest.raises(WiringError, match="inputs names 7, which is no node; nodes are 720575940601"):
        ng.wirings.from_table(path, "pre_id", "post_id", add_repeated=True, inputs=[7])


def test_tables_without_names_of_columns(tmp_path):
    (tmp_path / "edges.tsv").write_text("# from to\nAVA\tAVB\t0.5\n\n\"AVB\"\t\"VA,1\"\t-2\n")
    wiring = ng.wirings.from_table(str(tmp_path / "edges.tsv"), 0, 1, weight=2)
    assert named_edges(wiring) == [("AVA", "AVB"), ("AVB", "VA,1")] and wiring.weight.tolist() == [0.5, -2]


class Frame:
    """As much of a pandas.DataFrame as is used."""

    def __init__(self, columns):
        self.data, self.columns = columns, list(columns)

    def __getitem__(self, name):
        return np.array(self.data[name], dtype=object)


@pytest.fixture
def frames(monkeypatch):
    try:
        import pandas
    except ImportError:
        monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=Frame))
        return Frame
    return pandas.DataFrame


def test_data_frames(frames):
    table = frames({"source": ["a", "b"], "target": ["b", "c"], "n": [3, 4]})
    wiring = ng.wirings.from_table(table, weight="n")
    assert named_edges(wiring) == [("a", "b"), ("b", "c")] and wiring.weight.tolist() == [3, 4]
    with pytest.raises(NeuralGraphError, match="unknown column 'traget'; did you mean 'target'"):
        ng.wirings.from_table(table, target="traget")
    with pytest.raises(InputError, match="row 1 of the data frame: nan in the column 'target' is no name"):
        ng.wirings.from_table(frames({"source": ["a", "b"], "target": ["b", float("nan")]}))
    with pytest.raises(InputError, match="a delimiter is for files"):
        ng.wirings.from_table(table, delimiter=",")


@pytest.mark.parametrize("text, arguments, message", [
    ("source,target\na,b\nc\n", {}, "t.csv, line 3 has 1 columns; expected 2"),
    ("source,target\na,\n", {}, "t.csv, line 2: '' in the column 'target' is no name"),
    ("source,target,w\na,b,x\n", {"weight": "w"}, "t.csv, line 2: the weight 'x' in the column 'w' is no finite number"),
    ("source,target,w\na,b,inf\n", {"weight": "w"}, "the weight 'inf'"),
    ("source,goal\na,b\n", {}, "unknown column 'target'.*Known: goal, source"),
    ("source,source,target\na,b,c\n", {}, "more than one column 'source'"),
    ('source,target\n"a,b\n', {}, "line 2 cannot be read: unexpected end of data"),
    ("", {}, "no line of column names"), ("a,b\n", {"source": 0, "target": 5}, "has 2 columns; expected 6"),
    ("source,target\na,b\n", {"source": 0}, "all names or all numbers"),
    ("source,target\na,b\n", {"delimiter": ",,"}, "a delimiter is one character"),
    ("source,target\na,b\n", {"source": -1, "target": 0}, "all names or all numbers"),
    ("source,target\n\xe9,b\n", {}, "not a table of UTF-8 text"),
])
def test_bad_tables(tmp_path, text, arguments, message):
    (tmp_path / "t.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(NeuralGraphError, match=message):
        ng.wirings.from_table(tmp_path / "t.csv", **arguments)


def test_tables_that_are_none(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        ng.wirings.from_table(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="path of a table or a pandas.DataFrame, got list"):
        ng.wirings.from_table([("a", "b")])


def test_of_repeated_edges_the_first_by_source_is_named():
    edges = [(0, 1), (1, 2), (0, 3), (1, 2), (3, 4), (2, 4), (0, 3), (1, 2)]
    with pytest.raises(WiringError, match=r"the edge 0 -> 3 stands more than once \(3 repeated edges in all\)"):
        ng.wirings.from_edges(edges)


def test_repeated_entries_of_sparse_matrices_are_added_and_unsorted_ones_sorted():
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_matrix(([2.0, 1.0, 4.0, 0.5, -0.5], [2, 1, 2, 2, 2], [0, 3, 5, 5]), shape=(3, 3))
    wiring = ng.wirings.from_adjacency(matrix, weight=True)
    assert (wiring.src.tolist(), wiring.dst.tolist(), wiring.weight.tolist()) == ([0, 0], [1, 2], [1.0, 6.0])
    assert matrix.nnz == 5 and matrix.indices.tolist() == [2, 1, 2, 2, 2]
    columns = sparse.csc_matrix(([2.0, 4.0, 1.0], [0, 0, 0], [0, 0, 2, 3]), shape=(3, 3))
    assert ng.wirings.from_adjacency(columns, weight=True).weight.tolist() == [6.0, 1.0] and columns.nnz == 3
