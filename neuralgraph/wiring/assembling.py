"""From nodes and edges to a wiring: checked arguments, and what a graph says without being told."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import compress
from typing import TypeVar, overload

import numpy as np
import torch

from ..errors import WiringError, listed, whole
from ..nodes import IDENTITY, STATIC, NodeFunction
from .ends import Ends, Entries
from .graph import Graph
from .paths import longest_path_levels, reached
from .reading import FUNCTION_CODES, HIDDEN, INPUT, OUTPUT, ROLES
from .wiring import Wiring

Given = TypeVar("Given")
Item = TypeVar("Item", bound=Hashable)

DYNAMIC = NodeFunction(send="activation conv", receive="norm", norm="instance")
# vectors have no maps to slide a kernel over or to take the moments of
STATIC_VECTOR = NodeFunction("norm activation")
DYNAMIC_VECTOR = NodeFunction(send="activation", receive="norm")


def assemble(ends: Ends, role: torch.Tensor, block: torch.Tensor,
             functions: Sequence[NodeFunction], *, weight: torch.Tensor | None = None,
             parameters: Mapping[str, torch.Tensor] | None = None,
             channel: torch.Tensor | None = None, scale: torch.Tensor | None = None,
             holds: torch.Tensor | None = None, labels: Sequence[Hashable] | None = None) -> Wiring:
    """Packs everything a wiring holds into a graph and validates it."""
    graph = Graph(ends, len(role))
    graph.ndata["role"], graph.ndata["block"] = role, block
    codes: dict[NodeFunction, list[int]] = {}
    for node, function in enumerate(functions):
        if not isinstance(function, NodeFunction):
            name = node if labels is None else labels[node]
            raise WiringError(f"the function of node {name!r} must be a NodeFunction, got {function!r}.")
        if function not in codes:
            codes[function] = [encode(getattr(function, name)) for name, (encode, _) in FUNCTION_CODES.items()]
    table = torch.tensor([codes[function] for function in functions], dtype=torch.long).reshape(
        -1, len(FUNCTION_CODES))
    for column, name in enumerate(FUNCTION_CODES):
        graph.ndata[name] = table[:, column]
    graph.ndata.update(parameters or {})
    for name, value in (("channel", channel), ("scale", scale), ("holds", holds)):
        if value is not None:
            graph.ndata[name] = value
    if weight is not None:
        if not isinstance(weight, torch.Tensor) or weight.shape != (len(ends),):
            got = tuple(weight.shape) if isinstance(weight, torch.Tensor) else type(weight).__name__
            raise WiringError(f"weight must be a tensor of shape ({len(ends)},), one an edge, got {got}.")
        graph.edata["weight"] = weight
    return Wiring(graph, labels=labels)


# What a graph says without being told


class Draft:
    """Nodes and edges on the way to a wiring, with the roles that nodes are given or that their edges say.

    Nodes without a role are inputs if they have edges but none into them, and outputs if they have edges but
    none out of them; unless ``inputs`` or ``outputs`` say which these are.

    Args:
        labels: a name for each node.
        ends: where edges begin and end.
        inputs: the input nodes in the order of channels, or None.
        outputs: the output nodes, likewise.
        given: known roles, -1 where there is none, (V,).

    Raises:
        WiringError: for a node named as both, or if there is no input or no output to infer.
    """

    def __init__(self, labels: Sequence[Hashable], ends: Entries, inputs: Sequence[int] | None,
                 outputs: Sequence[int] | None, given: torch.Tensor | None = None):
        both = sorted(set(inputs or ()) & set(outputs or ()))
        if both:
            raise WiringError(f"node {labels[both[0]]!r} is named as input and as output; a node has one role: "
                              "add an output node and an edge to it.")
        self.labels, self.ends = labels, ends
        self.named = {INPUT: inputs, OUTPUT: outputs}
        self.role = torch.full((len(labels),), -1) if given is None else given.clone()
        self._must = self.role == OUTPUT
        self._must[torch.tensor(outputs or (), dtype=torch.long)] = True
        self._infer_roles()

    def _infer_roles(self) -> None:
        free = self.role < 0
        feeds, fed = self.ends.joined()
        self.role[free] = HIDDEN
        for code, ends, degree in ((INPUT, feeds & ~fed, "in"), (OUTPUT, fed & ~feeds, "out")):
            if self.named[code] is not None:
                continue
            self.role[free & ends] = code
            if free.any() and not (self.role == code).any():
                raise WiringError(f"a wiring needs at least one {ROLES[code]} node, but every node that has edges "
                                  f"has {degree}-edges, as on a cycle, so that none could be inferred: name "
                                  f"them, {ROLES[code]}s=[...].")
        for code, named in self.named.items():
            self.role[torch.tensor(named or (), dtype=torch.long)] = code

    def prune(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Leaves out the nodes that no input reaches.

        Returns:
            Which nodes and which edges are left, masks (V,) and (E,).

        Raises:
            WiringError: if an output that was named would be left out.
        """
        keep = reached(self.ends, self.role == INPUT)
        lost = [repr(self.labels[node]) for node in (self._must & ~keep).nonzero().flatten().tolist()]
        if lost:
            raise WiringError(f"no input reaches the output {listed(lost)}, which cannot be left out because "
                              "it was named: add an edge, or do not name it.")
        edges = torch.from_numpy(np.concatenate([keep.numpy().take(src) for src, _ in self.ends.pieces()]))
        place = keep.cumsum(0) - 1
        self.ends = self.ends.renumbered(edges, place, place, (int(keep.sum()),) * 2)
        self.role, self._must = self.role[keep], self._must[keep]
        self.labels = list(compress(self.labels, keep.tolist()))
        self.named = {code: None if nodes is None else [int(place[node]) for node in nodes]
                      for code, nodes in self.named.items()}
        return keep, edges

    def blocks(self) -> torch.Tensor:
        """The longest path that ends in each node, (V,); with cycles 0, 1, 2 for input, hidden, output nodes."""
        levels = longest_path_levels(self.ends)
        return torch.tensor([1, 0, 2])[self.role] if levels is None else levels

    def channels(self) -> torch.Tensor:
        """The index of each node among the inputs or outputs, as named or in node order; -1 for hidden ones."""
        channel = torch.full_like(self.role, -1)
        for code, nodes in self.named.items():
            nodes = (self.role == code).nonzero().flatten().tolist() if nodes is None else nodes
            channel[torch.tensor(nodes, dtype=torch.long)] = torch.arange(len(nodes))
        return channel


# Arguments


def default_function(dims: int, given: Given | None = None, dynamic: bool = False) -> Given | NodeFunction:
    """What is given, or what a node computes unless told otherwise, for states of so many dimensions.

    Raises:
        WiringError: if that number is not 0 to 3.
    """
    if integer("dims", dims) not in range(4):
        raise WiringError(f"dims must be 0 (vectors), 1, 2 (images) or 3, got {dims!r}.")
    if given is not None:
        return given
    if dynamic:
        return DYNAMIC if dims else DYNAMIC_VECTOR
    return STATIC if dims else STATIC_VECTOR


def all_but_outputs(role: torch.Tensor, function: NodeFunction) -> list[NodeFunction]:
    """This function for every node but the outputs, which compute nothing."""
    return [IDENTITY if r == OUTPUT else function for r in role.tolist()]


def integer(what: str, value: object) -> int:
    """The number as an int, or an error: nothing is rounded, and True is not 1."""
    number = whole(value)
    if number is None:
        raise WiringError(f"{what} must be an integer, got {value!r}.")
    return number


def generator_of(seed: object) -> torch.Generator:
    """A generator from a seed; a generator is used as it is."""
    if isinstance(seed, torch.Generator):
        return seed
    seed = integer("seed", seed)
    if not -2**63 <= seed < 2**64:
        raise WiringError(f"seed must be an integer of 64 bits, got {seed}.")
    return torch.Generator().manual_seed(seed)


@overload
def node_list(what: str, nodes: None) -> None: ...


@overload
def node_list(what: str, nodes: Iterable[Hashable]) -> list[Hashable]: ...


def node_list(what: str, nodes: Iterable[Hashable] | None) -> list[Hashable] | None:
    """The names of some nodes, each once."""
    if nodes is None:
        return None
    if isinstance(nodes, (str, bytes)) or not isinstance(nodes, Iterable):
        raise WiringError(f"{what} must be the names of some nodes, such as [{nodes!r}], got {nodes!r}.")
    nodes = nodes.tolist() if hasattr(nodes, "tolist") else list(nodes)
    try:
        twice = repeated(nodes)
    except TypeError as error:
        raise WiringError(f"{what} must be the names of some nodes: {error}.") from None
    if twice:
        raise WiringError(f"{what} names {listed(map(repr, twice))} more than once; every node has one channel.")
    return nodes


def repeated(items: Iterable[Item]) -> list[Item]:
    """Those that stood there before, as often as they do."""
    seen: set[Item] = set()
    twice = []
    for item in items:
        if item in seen:
            twice.append(item)
        seen.add(item)
    return twice


def numbers_of(what: str, nodes: Sequence[Hashable] | None, number: Mapping[Hashable, int]) -> list[int] | None:
    """The numbers of some nodes, which must be among those that have one."""
    strangers = [node for node in nodes or () if node not in number]
    if strangers:
        raise WiringError(f"{what} names {listed(map(repr, strangers))}, which is no node; nodes are "
                          f"{listed(map(repr, number))}.")
    return None if nodes is None else [number[node] for node in nodes]
