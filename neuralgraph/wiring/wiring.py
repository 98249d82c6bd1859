"""The candidate graph of a network: which edges may exist, and what every node is."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Hashable, Iterable, Sequence

import torch

from .._dgl import dgl
from ..errors import WiringError, listed
from ..nodes import (AGGREGATES, IDENTITY, NORMS, STATIC, NodeFunction, activation_code, activation_name,
                     decode_steps, encode_steps, is_learned, learned_names, value_shapes)

# The position of a role is its code in a DGL graph.
ROLES = ("hidden", "input", "output")
HIDDEN, INPUT, OUTPUT = range(3)


def _codes(kind: str, names: Sequence) -> tuple[Callable, Callable]:
    """From a name of that kind to its code, which is its place, and back."""
    def decode(code: int):
        if code >= len(names):
            known = ", ".join(f"{i} = {name}" for i, name in enumerate(names))
            raise WiringError(f"{kind} has the code {code}; codes are {known}.")
        return names[code]

    return names.index, decode


# Node data that describe the function of a node, with the codes for names.
_FUNCTION_CODES = {
    "send": (encode_steps, decode_steps),
    "receive": (encode_steps, decode_steps),
    "norm": _codes("norm", list(NORMS)),
    "activation": (activation_code, activation_name),
    "kernel_size": (int, int),
    "stride": (int, int),
    "aggregate": _codes("aggregate", AGGREGATES),
    "zero_pad": _codes("zero_pad", (False, True)),
}
STRUCTURE = ("role", "block", "scale", "holds", *_FUNCTION_CODES)
EDGE_DATA = ("weight",)


class Wiring:
    """A frozen candidate graph, held as a :class:`dgl.DGLGraph` and validated once.

    Node data of the graph, all integers of shape (V,):

    ================  ==============================================================================
    ``role``          0 hidden, 1 input, 2 output (:data:`ROLES`); required
    ``block``         a number >= 0 that groups nodes, for drawing and counting; required
    ``kernel_size``,  the :class:`NodeFunction` of each node; names as codes: ``norm`` and
    ``stride``,       ``activation`` by their place in :data:`~neuralgraph.nodes.NORMS` and
    ``norm``, ...     :data:`~neuralgraph.nodes.ACTIVATIONS`, ``send`` and ``receive`` as octal digits
                      (``0o123`` = norm, activation, conv); registered ones by a hash of their names. Left
                      out, output nodes are the identity and all others ``norm activation conv``.
    ``scale``         how many times smaller than the input a node's incoming sum is; computed
    ``holds``         1 for input nodes that keep the data instead of being updated; by default those
                      without in-edges, so that a wiring that lost some edges still knows
    ================  ==============================================================================

    Floating-point node data (``kernel``, ``norm_weight``, ...) and the edge data ``weight`` (E,) are
    learned values: a network built on this wiring starts from them. A learned wiring is a
    wiring of the real edges only that carries both. A value that no node uses is an error. Data of other names are left alone, unless they
    look like a misspelt one of these: then it is an error.

    The i-th input channel belongs to the i-th input node in node order, likewise for outputs.

    Args:
        graph: homogeneous and directed, without duplicate edges. It is copied.
        labels: a name for each node, used in messages and as networkx node; default 0..V-1.

    Raises:
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
    def __init__(self, graph: dgl.DGLGraph, *, labels: Sequence[Hashable] | None = None):
        if not isinstance(graph, dgl.DGLGraph) or not graph.is_homogeneous:
            raise WiringError(
                f"a wiring needs one homogeneous dgl.DGLGraph, got {type(graph).__name__}; "
                "neuralgraph.from_networkx and neuralgraph.wirings make one from other things."
            )
        self._graph = _copy(graph.long())
        self.labels = _checked_labels(labels, graph.num_nodes())
        refuse_near_misses("the graph has the unknown node data", graph.ndata, STRUCTURE, learned=True)
        refuse_near_misses("the graph has the unknown edge data", graph.edata, EDGE_DATA)
        self.src, self.dst = self._graph.edges()
        self.role = self._integers("role", low=0, high=len(ROLES) - 1)
        self.block = self._integers("block", low=0)
        self._check_roles()
        self._check_duplicates()
        self.functions, self.function = self._read_functions()
        self._check_learned()
        self.weight = self._read_weight()
        self.scale = self._read_scale()
        self.holds = self._read_holds()
        if not self.num_edges:  # every edge has a weight, and files cannot say it otherwise
            self.weight = self._graph.edata["weight"] = torch.zeros(0)
        for name, (encode, _) in _FUNCTION_CODES.items():
            codes = torch.tensor([encode(getattr(f, name)) for f in self.functions])
            self._graph.ndata[name] = codes[self.function]
        self._graph.ndata["scale"], self._graph.ndata["holds"] = self.scale, self.holds.long()

    # What it is

    @property
    def graph(self) -> dgl.DGLGraph:
        """A copy of the graph with its node and edge data; changing it does not change the wiring."""
        return _copy(self._graph)

    @property
    def num_nodes(self) -> int:
        return self._graph.num_nodes()

    @property
    def num_edges(self) -> int:
        """The number of candidate edges, |A|."""
        return self._graph.num_edges()

    @property
    def inputs(self) -> torch.Tensor:
        """The input nodes, in the order of the input channels."""
        return (self.role == INPUT).nonzero().flatten()

    @property
    def outputs(self) -> torch.Tensor:
        """The output nodes, in the order of the output channels."""
        return (self.role == OUTPUT).nonzero().flatten()

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
        return f"{self.label(int(self.src[edge]))!r} -> {self.label(int(self.dst[edge]))!r}"

    def __repr__(self) -> str:
        counts = [(self.role == code).sum().item() for code in (INPUT, HIDDEN, OUTPUT)]
        roles = ", ".join(f"{n} {ROLES[code]}" for n, code in zip(counts, (INPUT, HIDDEN, OUTPUT)))
        kind = "weighted" if self.weight is not None else "candidate"
        return f"Wiring({self.num_nodes} nodes: {roles}; {self.num_edges} {kind} edges)"

    def __eq__(self, other: object) -> bool:
        """Same nodes, edges (in the same order), functions, labels and learned values."""
        if not isinstance(other, Wiring):
            return NotImplemented
        mine, theirs = self._graph, other._graph
        return (
            self.num_nodes == other.num_nodes
            and self.labels == other.labels
            and torch.equal(self.src, other.src) and torch.equal(self.dst, other.dst)
            and _same_data(mine.ndata, theirs.ndata) and _same_data(mine.edata, theirs.edata)
        )

    __hash__ = None

    def __deepcopy__(self, memo) -> Wiring:
        return self  # frozen

    # Making others from it

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
        graph = dgl.graph((self.src[edges], self.dst[edges]), num_nodes=self.num_nodes)
        for name in STRUCTURE:
            graph.ndata[name] = self._graph.ndata[name]
        for name, value in parameters.items():
            graph.ndata[name] = value.detach().cpu()
        graph.edata["weight"] = weight.detach().cpu()[edges]
        return Wiring(graph, labels=self.labels)

    # Reading and checking the graph, once

    def _integers(self, name: str, low: int, high: int | None = None) -> torch.Tensor:
        if name not in self._graph.ndata:
            raise WiringError(
                f"the graph has no node data {name!r}: set graph.ndata[{name!r}] to an integer "
                f"tensor of shape ({self.num_nodes},)."
            )
        value = self._graph.ndata[name]
        if value.is_floating_point() or value.is_complex() or value.dim() != 1:
            raise WiringError(
                f"node data {name!r} must be integers of shape ({self.num_nodes},), "
                f"got {value.dtype} of shape {tuple(value.shape)}."
            )
        value = value.long()
        wrong = (value < low) if high is None else (value < low) | (value > high)
        if wrong.any():
            node = int(wrong.nonzero()[0])
            raise WiringError(
                f"node {self.label(node)!r} has {name} {int(value[node])}; expected "
                + (f"at least {low}." if high is None else f"{low} to {high}"
                   + (f" ({', '.join(ROLES)})." if name == "role" else "."))
            )
        self._graph.ndata[name] = value
        return value

    def _check_roles(self):
        for code in (INPUT, OUTPUT):
            if not (self.role == code).any():
                raise WiringError(
                    f"a wiring needs at least one {ROLES[code]} node, got none among "
                    f"{self.num_nodes} nodes: give one the role {ROLES[code]!r} (code {code})."
                )

    def _check_duplicates(self):
        keys = (self.src * self.num_nodes + self.dst).sort().values
        twice = (keys[1:] == keys[:-1]).nonzero().flatten()
        if len(twice):
            u, v = divmod(int(keys[twice[0]]), self.num_nodes)
            raise WiringError(
                f"the edge {self.label(u)!r} -> {self.label(v)!r} stands more than once "
                f"({len(twice)} repeated edges in all): every candidate edge has one weight; "
                "remove the repetitions."
            )

    def _read_functions(self) -> tuple[tuple[NodeFunction, ...], torch.Tensor]:
        """The distinct node functions and, for every node, which one it has."""
        given = {name: self._integers(name, low=0) for name in _FUNCTION_CODES
                 if name in self._graph.ndata}
        rows = torch.stack([*given.values(), (self.role == OUTPUT).long()], dim=1)
        distinct, which = rows.unique(dim=0, return_inverse=True)
        functions: list[NodeFunction] = []
        place = torch.empty(len(distinct), dtype=torch.long)
        first = torch.full((len(distinct),), self.num_nodes).scatter_reduce(
            0, which, torch.arange(self.num_nodes), "amin")
        for row in first.argsort().tolist():
            node = int(first[row])
            default = IDENTITY if self.role[node] == OUTPUT else STATIC
            fields = {"send": default.send, "receive": default.receive}
            try:
                for name, code in zip(given, distinct[row].tolist()):
                    fields[name] = _FUNCTION_CODES[name][1](code)
                function = NodeFunction(**fields)
            except (WiringError, LookupError) as error:
                raise WiringError(f"node {self.label(node)!r}: {error}") from error
            if function not in functions:
                functions.append(function)
            place[row] = functions.index(function)
        return tuple(functions), place[which]

    def _check_learned(self):
        """Refuses learned values that no network on this wiring would take over."""
        used: dict[str, tuple[int, ...]] = {}  # the largest shape of each; smaller ones stand in its middle
        for function in self.functions:
            for name, shape in value_shapes(function, 2).items():
                used[name] = tuple(map(max, shape, used.get(name, shape)))
        for name, value in self._graph.ndata.items():
            if not is_learned(name):
                continue
            if name not in used:
                raise WiringError(f"no node uses the learned value {name!r}: leave this node data out, or "
                                  "give the nodes a function that has it.")
            cube = 2 <= value.dim() <= 4 and len(set(value.shape[1:])) == 1
            shape = f"{self.num_nodes}, " + ", ".join(map(str, used[name]))
            if name == "kernel":
                shape = f"{self.num_nodes}, s), ({self.num_nodes}, s, s) or ({self.num_nodes}, s, s, s"
            if not value.is_floating_point() or not (cube if name == "kernel" else
                                                     value.shape[1:] == used[name]):
                raise WiringError(
                    f"node data {name!r} must be floating point of shape ({shape.removesuffix(' ')}), got "
                    f"{value.dtype} of shape {tuple(value.shape)}."
                )

    def _read_weight(self) -> torch.Tensor | None:
        weight = self._graph.edata.get("weight")
        if weight is None:
            return None
        if not weight.is_floating_point() or weight.dim() != 1:
            raise WiringError(
                f"edge data 'weight' must be floating point of shape ({self.num_edges},), got "
                f"{weight.dtype} of shape {tuple(weight.shape)}."
            )
        wrong = (~weight.isfinite()).nonzero().flatten()
        if len(wrong):
            edge = int(wrong[0])
            raise WiringError(
                f"the edge {self.edge_name(edge)} has the weight {weight[edge].item()}; "
                "weights must be finite."
            )
        return weight

    def _read_holds(self) -> torch.Tensor:
        """Which nodes keep the data, a mask (V,)."""
        fed = torch.zeros(self.num_nodes, dtype=torch.bool)
        fed[self.dst] = True
        if "holds" not in self._graph.ndata:
            return (self.role == INPUT) & ~fed
        holds = self._integers("holds", low=0, high=1) == 1
        wrong = (holds & (fed | (self.role != INPUT))).nonzero().flatten().tolist()
        if wrong:
            raise WiringError(f"node {self.label(wrong[0])!r} has holds=1, but only an input node "
                              "without in-edges can keep the data; set it to 0 there.")
        return holds

    def message_scale(self) -> torch.Tensor:
        """How many times smaller than the input the message of each node is, (V,)."""
        return self._message_scale(self.scale)

    def _message_scale(self, scale: torch.Tensor) -> torch.Tensor:
        send = torch.tensor([f.send_stride for f in self.functions])[self.function]
        receive = torch.tensor([f.receive_stride for f in self.functions])[self.function]
        return scale * send * receive.where(self.role != INPUT, torch.ones_like(receive))

    def _read_scale(self) -> torch.Tensor:
        """Carries the scale 1 of the inputs along the edges and refuses what disagrees.

        With padding k // 2 a convolution turns a side n into ceil(n / stride), and
        ceil(ceil(n / a) / b) = ceil(n / (a b)): equal products of strides mean equal sizes.
        """
        if "scale" in self._graph.ndata:
            scale = self._integers("scale", low=1).clone()
            if (scale[self.role == INPUT] != 1).any():
                raise WiringError("node data 'scale' must be 1 at the input nodes.")
        else:
            scale = (self.role == INPUT).long()
        while True:
            fresh = ((scale[self.src] > 0) & (scale[self.dst] == 0)).nonzero().flatten()
            if not len(fresh):
                break
            scale[self.dst[fresh]] = self._message_scale(scale)[self.src[fresh]]
        lost = (scale == 0).nonzero().flatten().tolist()
        if lost:
            names = listed([repr(self.label(node)) for node in lost])
            if self.weight is None:
                raise WiringError(
                    f"no input reaches node {names}: every node of a candidate graph needs a path "
                    "from an input; add an edge or leave the node out."
                )
            raise WiringError(
                f"no input reaches node {names}, so its size is unknown: give node data 'scale' "
                "(how many times smaller than the input its incoming sum is)."
            )
        arriving = self._message_scale(scale)[self.src]
        wrong = (arriving != scale[self.dst]).nonzero().flatten()
        if len(wrong):
            edge = int(wrong[0])
            raise WiringError(
                f"strides disagree on the edge {self.edge_name(edge)}: it brings a map "
                f"{int(arriving[edge])} times smaller than the input into a node whose other "
                f"in-edges bring one {int(scale[self.dst[edge]])} times smaller. Make the product of "
                "strides equal along every path into a node."
            )
        return scale


def _copy(graph: dgl.DGLGraph) -> dgl.DGLGraph:
    """A graph that shares nothing which can change; DGL's own clone shares the tensors."""
    graph = graph.clone()
    for data in (graph.ndata, graph.edata):
        for name in list(data):
            data[name] = data[name].detach().clone()
    return graph


def refuse_near_misses(complaint: str, names: Iterable[object], known: Sequence[str],
                       learned: bool = False) -> None:
    """Refuses names that look like a misspelt one of ``known`` (or of the learned values of nodes)."""
    for name in names:
        if name in known or (learned and is_learned(name)):
            continue
        family = (*known, *learned_names()) if learned else known
        near = difflib.get_close_matches(str(name), family, 1, cutoff=0.8)
        if near:
            raise WiringError(f"{complaint} {name!r}; did you mean {near[0]!r}?")


def _checked_labels(labels, num_nodes):
    if labels is None:
        return None
    labels = tuple(labels)
    if not all(isinstance(label, Hashable) and label is not None for label in labels):
        raise WiringError("labels must be names that a networkx node can have: hashable and not None.")
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
