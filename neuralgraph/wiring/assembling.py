"""From nodes and edges to a wiring: checked arguments, and what a graph says without being told."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import torch

from .._dgl import dgl
from ..errors import WiringError, listed
from ..nodes import IDENTITY, STATIC, NodeFunction
from .reading import FUNCTION_CODES, HIDDEN, INPUT, OUTPUT, ROLES
from .stages import longest_path_levels
from .wiring import Wiring

DYNAMIC = NodeFunction(send="activation conv", receive="norm", norm="instance")
# vectors have no maps to slide a kernel over or to take the moments of
STATIC_VECTOR = NodeFunction("norm activation")
DYNAMIC_VECTOR = NodeFunction(send="activation", receive="norm")


def assemble(src: torch.Tensor, dst: torch.Tensor, role: torch.Tensor, block: torch.Tensor,
             functions: Sequence[NodeFunction], *, weight: torch.Tensor | None = None,
             parameters: Mapping[str, torch.Tensor] | None = None,
             channel: torch.Tensor | None = None, scale: torch.Tensor | None = None,
             holds: torch.Tensor | None = None, labels: Sequence[Hashable] | None = None) -> Wiring:
    """Packs everything a wiring holds into a DGL graph and validates it."""
    graph = dgl.graph((src, dst), num_nodes=len(role))
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
        if not isinstance(weight, torch.Tensor) or weight.shape != (len(src),):
            got = tuple(weight.shape) if isinstance(weight, torch.Tensor) else type(weight).__name__
            raise WiringError(f"weight must be a tensor of shape ({len(src)},), one an edge, got {got}.")
        graph.edata["weight"] = weight
    return Wiring(graph, labels=labels)


# What a graph says without being told


def infer_roles(num_nodes: int, src: torch.Tensor, dst: torch.Tensor, *, inputs: Sequence[int] | None = None,
                outputs: Sequence[int] | None = None, given: torch.Tensor | None = None) -> torch.Tensor:
    """The role of every node, (V,): as named, as given, or as its edges say.

    Args:
        inputs: the input nodes. None: of the nodes without a role those that have edges but none into them.
        outputs: the output nodes. None: likewise those that have edges but none out of them.
        given: known roles, -1 where there is none.

    Raises:
        WiringError: if that leaves no input or no output.
    """
    role = torch.full((num_nodes,), -1) if given is None else given.clone()
    free = role < 0
    fed, feeds = (torch.bincount(ends, minlength=num_nodes) > 0 for ends in (dst, src))
    role[free] = HIDDEN
    for code, named, these, degree in ((INPUT, inputs, feeds & ~fed, "in"), (OUTPUT, outputs, fed & ~feeds, "out")):
        if named is None:
            role[free & these] = code
        if named is None and num_nodes and not (role == code).any() and free.any():
            raise WiringError(
                f"a wiring needs at least one {ROLES[code]} node, but every node that has edges has {degree}-edges, "
                f"as on a cycle, so that none could be inferred: name them, {ROLES[code]}s=[...].")
    for code, named in ((INPUT, inputs), (OUTPUT, outputs)):
        if named is not None:
            role[torch.tensor(named, dtype=torch.long)] = code
    return role


def infer_blocks(role: torch.Tensor, src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
    """The longest path that ends in each node, (V,); in a graph with cycles 0, 1, 2 for input, hidden, output."""
    levels = longest_path_levels(len(role), src, dst)
    return torch.tensor([1, 0, 2])[role] if levels is None else levels


def channels_of(role: torch.Tensor, *named: Sequence[int] | None) -> torch.Tensor:
    """The place of each node among the inputs or outputs, (V,), -1 for hidden ones.

    Args:
        named: the inputs, and the outputs, in the order of channels; None for the order of nodes.
    """
    channel = torch.full_like(role, -1)
    for code, nodes in zip((INPUT, OUTPUT), named):
        nodes = (role == code).nonzero().flatten() if nodes is None else torch.tensor(nodes, dtype=torch.long)
        channel[nodes] = torch.arange(len(nodes))
    return channel


def reached(num_nodes: int, src: torch.Tensor, dst: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """The nodes on the paths that begin in ``start``, a mask (V,)."""
    found = torch.zeros(num_nodes, dtype=torch.bool)
    found[start] = True
    while True:
        fresh = dst[found[src] & ~found[dst]]
        if not len(fresh):
            return found
        found[fresh] = True


def kept(num_nodes: int, src: torch.Tensor, dst: torch.Tensor, role: torch.Tensor,
         must: torch.Tensor, name: Callable[[int], str]) -> torch.Tensor:
    """The nodes that an input reaches, a mask (V,).

    Args:
        must: outputs that somebody named, which cannot be left out.

    Raises:
        WiringError: if one of those would be.
    """
    keep = reached(num_nodes, src, dst, (role == INPUT).nonzero().flatten())
    lost = [name(node) for node in (must & ~keep).nonzero().flatten().tolist()]
    if lost:
        raise WiringError(f"no input reaches the output {listed(lost)}, which cannot be left out because it was "
                          "named: add an edge, or do not name it.")
    return keep


# Arguments


def default_function(dims: int, given: object = None, dynamic: bool = False) -> object:
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
    try:
        if isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool:
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise WiringError(f"{what} must be an integer, got {value!r}.") from None


def generator_of(seed: object) -> torch.Generator:
    """A generator from a seed."""
    seed = integer("seed", seed)
    if not -2**63 <= seed < 2**64:
        raise WiringError(f"seed must be an integer of 64 bits, got {seed}.")
    return torch.Generator().manual_seed(seed)


def node_list(what: str, nodes: Iterable[Hashable] | None) -> list[Hashable] | None:
    """The names of some nodes, each once."""
    if nodes is None:
        return None
    if isinstance(nodes, (str, bytes)) or not isinstance(nodes, Iterable):
        raise WiringError(f"{what} must be the names of some nodes, such as [{nodes!r}], got {nodes!r}.")
    nodes = nodes.tolist() if hasattr(nodes, "tolist") else list(nodes)
    try:
        seen: set[Hashable] = set()
        twice = [node for node in nodes if node in seen or seen.add(node)]
    except TypeError as error:
        raise WiringError(f"{what} must be the names of some nodes: {error}.") from None
    if twice:
        raise WiringError(f"{what} names {listed(map(repr, twice))} more than once; every node has one channel.")
    return nodes


def refuse_both(inputs: Iterable[Hashable] | None, outputs: Iterable[Hashable] | None) -> None:
    """Refuses a node that is named as input and as output."""
    outputs = set(outputs or ())
    both = [node for node in inputs or () if node in outputs]
    if both:
        raise WiringError(f"node {both[0]!r} is named as input and as output; a node has one role: add an output "
                          "node and an edge to it.")
