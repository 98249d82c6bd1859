"""The candidate graph of a network: which edges may exist, and what every node is."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import torch

from .._dgl import load
from ..errors import WiringError
from ..nodes import NodeFunction
from .devices import on_cpu
from .ends import Ends
from .graph import Graph
from .reading import HIDDEN, INPUT, OUTPUT, ROLES, STRUCTURE, Reading

if TYPE_CHECKING:
    from .._dgl import DGLGraph

__all__ = ["HIDDEN", "INPUT", "OUTPUT", "ROLES", "STRUCTURE", "Wiring"]


class Wiring:
    """A frozen candidate graph, made of a :class:`dgl.DGLGraph` and validated once.

    :mod:`neuralgraph.wirings`, :func:`neuralgraph.from_networkx` and :func:`neuralgraph.read` make wirings without DGL.
    Node data of the graph, all integers of shape (V,):

    ================  ==============================================================================
    ``role``          0 hidden, 1 input, 2 output (:data:`ROLES`); required
    ``block``         a number >= 0 that groups nodes, for drawing and counting; required
    ``kernel_size``,  the :class:`NodeFunction` of each node; names as codes: ``norm`` and
    ``stride``,       ``activation`` by their index in :data:`~neuralgraph.nodes.NORMS` and
    ``norm``, ...     :data:`~neuralgraph.nodes.ACTIVATIONS`, ``send`` and ``receive`` as octal digits
                      (``0o123`` = norm, activation, conv); registered ones by a hash of their names. Left
                      out, output nodes are the identity and all others ``norm activation conv``.
    ``channel``       the index of an input node among the input channels (0 to n - 1), likewise of an
                      output node, -1 of a hidden one; by default in the order of nodes
    ``scale``         how many times smaller than the input a node's incoming sum is; computed where it
                      is 0 or left out
    ``holds``         1 for input nodes that keep the data instead of being updated; by default those
                      without in-edges, so that a wiring that lost some edges still knows
    ================  ==============================================================================

    All of them are there again as ``wiring.role``, ``wiring.block``, ... (V,), whether they were given or
    inferred; ``functions`` are the distinct node functions and ``function`` (V,) says which one a node has.

    Floating-point node data (``kernel``, ``norm_weight``, ...) and the edge data ``weight`` (E,) are
    learned values: a network built on this wiring starts from them. A learned wiring is a
    wiring of the real edges only that carries both. A value that no node uses is an error. Data of other
    names are left alone, unless they look like a misspelt one of these: then it is an error.

    Args:
        graph: homogeneous and directed, without duplicate edges. It is copied.
        labels: a name for each node, used in messages and as networkx node; default 0..V-1.

    Raises:
        MissingPackageError: where DGL is not installed.
        WiringError: for missing or impossible node data, duplicate edges, strides that disagree
            on the paths into one node, and nodes that no input reaches (unless the edges carry
            learned weights, in which case such nodes are merely dead).

    >>> from neuralgraph._dgl import dgl
    >>> graph = dgl.graph(([0, 0, 1], [1, 2, 2]))
    >>> graph.ndata["role"] = torch.tensor([1, 0, 2])
    >>> graph.ndata["block"] = torch.tensor([0, 1, 2])
    >>> Wiring(graph)
    Wiring(3 nodes: 1 input, 1 hidden, 1 output; 3 candidate edges)
    """

    @torch.inference_mode(False)  # a wiring looked at while evaluating may be trained
    @on_cpu
    def __init__(self, graph: DGLGraph | Graph, *, labels: Sequence[Hashable] | None = None):
        self._graph = _held(graph)
        self.labels = _checked_labels(labels, self._graph.num_nodes)
        reading = Reading(self._graph, self.label)
        self.weight = reading.weight
        self.role, self.block, self.channel = reading.role, reading.block, reading.channel
        self.functions, self.function = reading.functions, reading.function
        self.scale, self.holds = reading.scale, reading.holds
        self._message_scale = reading.message_scale(self.scale)

    # What it is

    @property
    def graph(self) -> DGLGraph:
        """A DGL graph with the node and edge data; changing it does not change the wiring.

        Raises:
            MissingPackageError: where DGL is not installed.
        """
        return self._graph.to_dgl("the DGL graph of a wiring or network")

    @property
    def data(self) -> Graph:
        """A copy of the nodes and edges with their data, as plain tensors: what there is without DGL."""
        return self._graph.copy()

    @property
    def num_nodes(self) -> int:
        return self._graph.num_nodes

    @property
    def num_edges(self) -> int:
        """The number of candidate edges, |A|."""
        return len(self._graph.ends)

    @property
    def ends(self) -> Ends:
        """Where the edges begin and end, without a list of them where they are full rectangles."""
        return self._graph.ends

    @property
    def src(self) -> torch.Tensor:
        """The node at which each edge begins, int64 (E,)."""
        return self._graph.ends.src

    @property
    def dst(self) -> torch.Tensor:
        """The node at which each edge ends, int64 (E,)."""
        return self._graph.ends.dst

    @property
    def inputs(self) -> torch.Tensor:
        """The input nodes, in the order of the input channels."""
        return self._in_order_of_channels(INPUT)

    @property
    def outputs(self) -> torch.Tensor:
        """The output nodes, in the order of the output channels."""
        return self._in_order_of_channels(OUTPUT)

    def _in_order_of_channels(self, role: int) -> torch.Tensor:
        nodes = (self.role == role).nonzero().flatten()
        return nodes[self.channel[nodes].argsort()]

    def message_scale(self) -> torch.Tensor:
        """How many times smaller than the input the message of each node is, (V,)."""
        return self._message_scale

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        """Learned values of the nodes, if the wiring carries any: name to a tensor (V, ...)."""
        return {name: value for name, value in self._graph.ndata.items()
                if name not in STRUCTURE and value.is_floating_point()}

    def function_of(self, node: int) -> NodeFunction:
        """What ``node`` computes."""
        return self.functions[self.function[node]]

    def label(self, node: int) -> Hashable:
        """The name of ``node``."""
        return self.labels[node] if self.labels is not None else int(node)

    def edge_name(self, edge: int) -> str:
        """An edge as messages name it."""
        u, v = self.ends.of(torch.tensor([edge]))
        return f"{self.label(int(u))!r} -> {self.label(int(v))!r}"

    def __repr__(self) -> str:
        counts = [(self.role == code).sum().item() for code in (INPUT, HIDDEN, OUTPUT)]
        roles = ", ".join(f"{n} {ROLES[code]}" for n, code in zip(counts, (INPUT, HIDDEN, OUTPUT)))
        kind = "weighted" if self.weight is not None else "candidate"
        return f"Wiring({self.num_nodes} nodes: {roles}; {self.num_edges} {kind} edges)"

    def _repr_html_(self) -> str:
        from .drawing import picture  # which draws wirings
        return picture(self)

    def __eq__(self, other: object) -> bool:
        """Same nodes, edges (in the same order), functions, labels and learned values."""
        if not isinstance(other, Wiring):
            return NotImplemented
        mine, theirs = self._graph, other._graph
        return (
            self.num_nodes == other.num_nodes
            and self.labels == other.labels
            and self.ends.equals(other.ends)
            and _same_data(mine.ndata, theirs.ndata) and _same_data(mine.edata, theirs.edata)
        )

    __hash__ = None  # type: ignore[assignment]  # as Python itself says it of what is compared by value

    def __setstate__(self, state: dict) -> None:
        graph = state["_graph"]  # of DGL, in pickles of version 0.1
        self.__dict__.update(state, _graph=graph if isinstance(graph, Graph) else Graph.from_dgl(graph))
        for name in ("src", "dst"):  # which were kept here, too, up to version 0.2
            self.__dict__.pop(name, None)

    def __deepcopy__(self, memo) -> Wiring:
        return self  # frozen

    # Making others from it

    @on_cpu
    def subgraph(self, edges: torch.Tensor, weight: torch.Tensor,
                 parameters: dict[str, torch.Tensor]) -> Wiring:
        """The wiring of the given edges only, carrying these learned values.

        Args:
            edges: which edges to keep, a mask (E,).
            weight: of every candidate edge, (E,).
            parameters: of the nodes, each (V, ...).

        The tensors may be on any device; a wiring is on the CPU.
        """
        edges = edges.cpu()
        number = self.num_nodes
        graph = Graph(self.ends if edges.all() else self.ends.part(edges, number), number)
        for name in STRUCTURE:
            graph.ndata[name] = self._graph.ndata[name]
        for name, value in parameters.items():
            graph.ndata[name] = value.detach().cpu()
        graph.edata["weight"] = weight.detach().cpu()[edges]
        return Wiring(graph, labels=self.labels)


def _held(graph: DGLGraph | Graph) -> Graph:
    """The graph as the wiring holds it, which shares nothing that can change."""
    if isinstance(graph, Graph):
        return graph.copy()
    if not isinstance(graph, load("a wiring of a dgl.DGLGraph").DGLGraph) or not graph.is_homogeneous:
        raise WiringError(
            f"a wiring needs one homogeneous dgl.DGLGraph, got {type(graph).__name__}; "
            "neuralgraph.from_networkx and neuralgraph.wirings make one from other things."
        )
    return Graph.from_dgl(graph).copy()


def _checked_labels(labels, num_nodes):
    if labels is None or (isinstance(labels, range) and labels == range(num_nodes)):
        return None
    labels = tuple(labels)
    for label in labels:
        try:
            hash(label)
            if label is None or label != label:  # NaN is no name: it is not found again
                raise TypeError
        except TypeError:
            raise WiringError("labels must be names that a networkx node can have, hashable and not None, "
                              f"got {label!r}.") from None
    # numpy's whole numbers are equal to Python's, but files cannot hold them
    labels = tuple(operator.index(label) if isinstance(label, numbers.Integral) else label for label in labels)
    if len(labels) != num_nodes or len(set(labels)) != num_nodes:
        raise WiringError(
            f"labels must be {num_nodes} different names, got {len(labels)} of which "
            f"{len(set(labels))} differ."
        )
    return labels if labels != tuple(range(num_nodes)) else None


def _same_data(mine, theirs) -> bool:
    return mine.keys() == theirs.keys() and all(
        mine[key].shape == theirs[key].shape
        and torch.equal(mine[key].double(), theirs[key].double())
        for key in mine
    )
