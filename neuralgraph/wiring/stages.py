"""The order in which a network visits its nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ..errors import WiringError, listed
from .ends import Entries, Outline, Rectangle, Rectangles, Some
from .paths import longest_path_levels
from .wiring import INPUT, OUTPUT, Wiring


@dataclass(frozen=True, eq=False)
class Chunk:
    """Nodes of one stage that have the same function and are computed together."""

    function: int
    nodes: torch.Tensor
    is_output: bool = False


@dataclass(frozen=True, eq=False)
class Stage:
    """Candidate edges from sources to nodes, as a bipartite graph in local numbers: plain data.

    Args:
        nodes: destinations in the order in which their sums are computed, (n_dst,).
        sources: in the order in which their messages are laid out, (n_src,).
        which: the numbers of the candidate edges in the wiring, (E_s,), or a slice of them.
        ends: of each edge, its source's index in ``sources`` and its destination's in ``nodes``; see ``src``, ``dst``.
        scale: how many times smaller than the network's input the maps are.
        aggregate: "sum" or "product", how the weighted messages become one.
        chunks: the nodes by function; their concatenation is ``nodes``.
        inputs: which chunks of earlier stages ``sources`` is made of, as (stage, chunk) numbers.
        kept: what others prepared from the above; copies and pickles begin without it.
    """

    nodes: torch.Tensor
    sources: torch.Tensor
    which: torch.Tensor | slice
    ends: Rectangles | Entries
    scale: int = 1
    aggregate: str = "sum"
    chunks: tuple[Chunk, ...] = ()
    inputs: tuple[tuple[int, int], ...] = ()
    kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def __deepcopy__(self, memo) -> Stage:
        return self  # frozen

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": {}}

    def __setstate__(self, state: dict) -> None:
        if "ends" not in state:  # in pickles of version 0.2
            shape = len(state["nodes"]), len(state["sources"])
            state = {"ends": Entries(state.pop("src"), state.pop("dst"), shape, torch.int32), "kept": {}, **state}
        self.__dict__.update(state)

    @property
    def src(self) -> torch.Tensor:
        """The index of each edge's source in ``sources``, (E_s,) int32."""
        return self.ends.src

    @property
    def dst(self) -> torch.Tensor:
        """The index of each edge's destination in ``nodes``, (E_s,) int32."""
        return self.ends.dst

    @property
    def edges(self) -> torch.Tensor:
        """The numbers of the candidate edges in the wiring, (E_s,)."""
        if isinstance(self.which, slice):
            return torch.arange(self.which.start, self.which.stop, device="cpu")
        return self.which


def topological_stages(wiring: Wiring) -> tuple[Stage, ...]:
    """The stages of a static graph: nodes at the same longest distance from the roots.

    Stage 0 holds the input nodes and has no edges. All nodes of a stage can be updated at once.

    Raises:
        WiringError: for a cycle (which it names), an input node with parents, an output node with
            children, or outputs of different size.
    """
    return _Schedule(wiring, _levels(wiring)).stages


def _levels(wiring: Wiring) -> torch.Tensor:
    """The longest distance of each node from the roots, (V,), at least 1 of what is no input."""
    outline = wiring.ends.outline(wiring.num_nodes, wiring.role)
    _check_static(wiring, outline)
    level = longest_path_levels(outline.ends, least=(wiring.role[outline.first] != INPUT).long())
    if level is None:
        raise WiringError(
            "a static graph has no cycles, but this wiring has "
            + " -> ".join(repr(wiring.label(int(outline.first[node]))) for node in _find_cycle(outline))
            + ". Remove one of these edges, or use a discrete- or continuous-time network."
        )
    return level[outline.group]


def synchronous_stages(wiring: Wiring) -> tuple[Stage, ...]:
    """The stages of a dynamic graph, in which all nodes are updated at once.

    Every stage has all nodes as sources, in the order in which the stages together list them: one
    stage for the nodes that add, another for those that multiply, if there are any.

    Raises:
        WiringError: if the nodes do not all have one resolution.
    """
    strided = torch.tensor([f.send_stride * f.receive_stride != 1 for f in wiring.functions])
    wrong = ((wiring.scale != 1) | strided[wiring.function]).nonzero().flatten().tolist()
    if wrong:
        raise WiringError(
            "a discrete- or continuous-time graph keeps one resolution throughout, but node "
            f"{listed([repr(wiring.label(node)) for node in wrong])} has or sees a stride: use "
            "stride=1, or zero_pad=True to pad the strided output back with zeros."
        )
    return _Schedule(wiring, torch.zeros_like(wiring.role), synchronous=True).stages


class _Schedule:
    """Builds the stages from the level of every node.

    A synchronous schedule has one level, and its nodes read the states of the step before.
    """

    def __init__(self, wiring: Wiring, level: torch.Tensor, synchronous: bool = False):
        self.wiring, self.synchronous = wiring, synchronous
        is_product = torch.tensor([f.aggregate == "product" for f in wiring.functions])
        self.is_product = is_product[wiring.function]
        key = (level * (int(wiring.scale.max()) + 1) + wiring.scale) * 2
        holds_data = (wiring.role == INPUT) & (not synchronous)
        key = key + (self.is_product & ~holds_data).long()
        keys = key.unique()  # sorted by level, then scale, then aggregate
        self.stage_of = torch.searchsorted(keys, key)
        self.local = torch.empty(wiring.num_nodes, dtype=torch.long)  # index in own stage
        self.members = [self._chunks(number) for number in range(len(keys))]
        self.chunks = [((s, c), chunk.nodes) for s, chunks in enumerate(self.members) for c, chunk in enumerate(chunks)]
        self.chunk_of = torch.empty_like(self.local)
        for chunk, (_, nodes) in enumerate(self.chunks):
            self.chunk_of[nodes] = chunk
        self.outline = wiring.ends.outline(wiring.num_nodes, self.stage_of)
        self.stages = tuple(self._stage(number, edges) for number, edges in enumerate(self._by_stage()))

    def _by_stage(self) -> Iterable[Some]:
        """The edges of the outline into each stage."""
        number = len(self.members)
        stage_of = self.stage_of[self.outline.first].numpy().astype(np.uint16 if number <= 2**16 else np.int64)
        stage = np.concatenate([stage_of.take(dst) for _, dst in self.outline.ends.pieces()])
        order = None if (stage[1:] >= stage[:-1]).all() else stage.argsort(kind="stable")
        first = np.searchsorted(stage, np.arange(number, dtype=stage.dtype), sorter=order).tolist()
        bounds = pairwise([*first, len(stage)])
        if order is not None:
            return [torch.from_numpy(order[begin:end]) for begin, end in bounds]
        return [slice(begin, end) if begin < end else slice(0, 0) for begin, end in bounds]

    def _chunks(self, number: int) -> tuple[Chunk, ...]:
        nodes = (self.stage_of == number).nonzero().flatten()
        is_read = (self.wiring.role[nodes] == OUTPUT) & (not self.synchronous)
        key = self.wiring.function[nodes] * 2 + is_read.long()
        chunks = tuple(Chunk(int(k) // 2, nodes[key == k], bool(k % 2)) for k in key.unique())
        self.local[torch.cat([chunk.nodes for chunk in chunks])] = torch.arange(len(nodes))
        return chunks

    def _stage(self, number: int, edges: Some) -> Stage:
        """A stage, from the edges of the outline that lead to it."""
        wiring, outline, chunks = self.wiring, self.outline, self.members[number]
        used = np.zeros(len(outline.first), bool)
        for src, _ in outline.ends.pieces(edges):
            used[src] = True
        read = self.chunk_of if self.synchronous else self.chunk_of[torch.from_numpy(used)[outline.group]]
        inputs, found = zip(*(self.chunks[chunk] for chunk in read.unique().tolist())) if len(read) else ((), ())
        sources = torch.cat(found) if found else torch.zeros(0, dtype=torch.long)
        nodes = torch.cat([chunk.nodes for chunk in chunks])
        aggregate = "product" if self.is_product[nodes[0]] else "sum"
        which, ends = self._edges(edges, sources, nodes)
        return Stage(nodes, sources, which, ends, int(wiring.scale[nodes[0]]), aggregate, chunks, inputs)

    def _edges(self, edges: Some, sources: torch.Tensor,
               nodes: torch.Tensor) -> tuple[torch.Tensor | slice, Rectangles | Entries]:
        """The numbers of a stage's edges in the wiring, and their ends in the stage."""
        matrix = Rectangles(Rectangle(range(len(sources)), range(len(nodes))), dtype=torch.int32)
        run = self.wiring.ends.run(sources, nodes)
        if run is not None:
            return run, matrix
        edges = self.wiring.ends.behind(self.outline, edges)
        place = torch.empty(self.wiring.num_nodes, dtype=torch.long)
        place[sources] = torch.arange(len(sources))
        ends = self.wiring.ends.renumbered(edges, self.local, place, (len(nodes), len(sources)), torch.int32)
        if not isinstance(edges, slice):
            first, last = (int(edges[0]), int(edges[-1]) + 1) if len(edges) else (0, 0)
            if last - first != len(edges) or not torch.equal(edges, torch.arange(first, last)):
                return edges.clone(), ends
            edges = slice(first, last)
        return edges, matrix if ends.is_whole else ends


def _check_static(wiring: Wiring, outline: Outline) -> None:
    role = wiring.role[outline.first]
    feeds, fed = outline.ends.joined()
    for wrong, end, what in (((role == INPUT) & fed, 1, "an input node has no parents"),
                             ((role == OUTPUT) & feeds, 0, "an output node has no children")):
        if wrong.any():
            wrong = wrong[outline.ends.of(slice(None))[end]].nonzero().flatten()
            edges = torch.arange(wiring.num_edges)[wiring.ends.behind(outline, wrong)]
            names = listed(map(wiring.edge_name, edges[:3].tolist()), most=3, number=len(edges))
            raise WiringError(
                f"in a static graph {what}, but this wiring has the edge {names}. Remove the edge, or use a discrete- or "
                "continuous-time network."
            )
    outputs = wiring.outputs
    sizes = wiring.scale[outputs] * torch.tensor(
        [f.receive_stride for f in wiring.functions])[wiring.function[outputs]]
    if len(sizes.unique()) > 1:
        odd = int((sizes != sizes[0]).nonzero()[0])
        raise WiringError(
            "outputs must have one size, but output node "
            f"{wiring.label(int(outputs[0]))!r} is {int(sizes[0])} times and "
            f"{wiring.label(int(outputs[odd]))!r} {int(sizes[odd])} times smaller than the input. "
            "Make the product of strides equal on the paths to all outputs."
        )


def _find_cycle(graph: Outline) -> list[int]:
    """A closed walk without repetitions, first node repeated at the end."""
    inside = torch.ones(len(graph.first), dtype=torch.bool)
    src, dst = graph.ends.of(slice(None))
    while True:  # only nodes that have a parent and a child inside can be on a cycle
        edge = inside[src] & inside[dst]
        keep = torch.zeros_like(inside)
        keep[src[edge]] = True
        with_parent = torch.zeros_like(inside)
        with_parent[dst[edge]] = True
        keep &= with_parent
        if torch.equal(keep, inside):
            break
        inside = keep
    edge = inside[src] & inside[dst]
    child = dict(zip(src[edge].tolist(), dst[edge].tolist()))
    node = next(iter(child))
    path: dict[int, int] = {}
    while node not in path:
        path[node] = len(path)
        node = child[node]
    cycle = list(path)[path[node]:]
    return [*cycle, cycle[0]]
