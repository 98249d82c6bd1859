"""Wirings to and from networkx."""

from __future__ import annotations

import math
import numbers
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
import torch

from .._modules import Lazy
from ..errors import WiringError, listed
from ..nodes import IDENTITY, NodeFunction, is_learned, used_values, value_shapes
from .assembling import Draft, assemble, default_function, generator_of, integer, node_list, numbers_of
from .devices import on_cpu
from .ends import Entries
from .learned import initial_values, read_values, stacked
from .reading import (
    EDGE_DATA,
    FUNCTION_CODES,
    HIDDEN,
    INPUT,
    LARGEST_SCALE,
    OUTPUT,
    ROLES,
    STRUCTURE,
    channel_fault,
    dims_of,
    middle,
    refuse_near_misses,
)
from .wiring import Wiring

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = Lazy("networkx")

MOST_FAULTS = 10  # that a message lists


def to_networkx(wiring: Wiring, real: torch.Tensor | None = None) -> nx.DiGraph:
    """The wiring as a :class:`networkx.DiGraph` with everything it holds as attributes.

    Nodes carry ``role`` ("input", "hidden", "output"), ``block``, ``send``, ``receive``, ``norm``,
    ``activation``, ``kernel_size``, ``stride``, ``aggregate``, ``zero_pad``, ``scale``, ``holds``; inputs
    and outputs ``channel``, their index among the channels; and, where the wiring carries learned values,
    those that the node uses: ``norm_weight``, ``norm_bias``, ``norm_mean``, ``norm_var``, ``bias``, and as a
    list of numbers, row by row, ``kernel``. Where there are weights, edges carry ``weight`` and
    ``magnitude``, its absolute value; and ``real``, if it is given.

    Algorithms that take weights as strengths, such as those for communities and flows, want
    ``weight="magnitude"``: with weights below 0 they make no sense.

    Args:
        wiring: what to convert.
        real: marks the real edges, a mask (E,).

    Raises:
        WiringError: if this is no wiring, or ``real`` no mask of its edges.
    """
    if not isinstance(wiring, Wiring):
        raise WiringError(f"expected a wiring, got {type(wiring).__name__}; a network's is "
                          "network.learned_wiring().")
    if real is not None and (real.dtype != torch.bool or real.shape != wiring.src.shape):
        raise WiringError(f"real must be a bool mask of shape ({wiring.num_edges},), got {real.dtype} of "
                          f"shape {tuple(real.shape)}.")
    graph = nx.DiGraph()
    fields = [{name: getattr(function, name) for name in FUNCTION_CODES} for function in wiring.functions]
    nodes = zip(wiring.role.tolist(), wiring.block.tolist(), wiring.channel.tolist(), wiring.function.tolist(),
                wiring.scale.tolist(), wiring.holds.tolist(), _learned(wiring))
    for node, (role, block, channel, function, scale, holds, learned) in enumerate(nodes):
        place = {} if channel < 0 else {"channel": channel}
        graph.add_node(wiring.label(node), role=ROLES[role], block=block, **place, **fields[function],
                       scale=scale, holds=holds, **learned)
    columns = {}
    if wiring.weight is not None:
        columns["weight"], columns["magnitude"] = wiring.weight.tolist(), wiring.weight.abs().tolist()
    if real is not None:
        columns["real"] = real.tolist()
    for edge, (u, v) in enumerate(zip(wiring.src.tolist(), wiring.dst.tolist())):
        graph.add_edge(wiring.label(u), wiring.label(v), **{name: values[edge] for name, values in columns.items()})
    return graph


def _learned(wiring: Wiring) -> list[dict[str, float | list[float]]]:
    """For every node the learned values that it uses, each a number or a list of them."""
    values = {name: value for name, value in wiring.parameters.items() if is_learned(name)}
    learned: list[dict] = [{} for _ in range(wiring.num_nodes)]
    dims = dims_of(wiring.functions, {name: tuple(value.shape[1:]) for name, value in values.items()})
    for number, function in enumerate(wiring.functions):
        nodes = (wiring.function == number).nonzero().flatten()
        for name in values.keys() & used_values(function):
            own = value_shapes(function, dims)[name]
            rows = values[name][middle(values[name].shape[1:], own, nodes)]
            rows = rows.flatten(1) if own else rows
            for node, row in zip(nodes.tolist(), rows.tolist()):
                learned[node][name] = row
    return [dict(sorted(values.items())) for values in learned]


@on_cpu
def from_networkx(graph: nx.Graph, inputs: Iterable[Hashable] | None = None,
                  outputs: Iterable[Hashable] | None = None, *, prune_unreachable: bool = False,
                  order: Sequence[Hashable] | None = None, dims: int | None = None, seed: int = 0) -> Wiring:
    """The wiring that a networkx graph describes; the inverse of :func:`to_networkx`.

    Nodes keep their order and their names; edges, which have no order in networkx, are sorted by
    destination, then source. All node attributes may be left out:

    - ``role``: nodes without in-edges are inputs, those without out-edges outputs, others hidden;
    - ``block``: the length of the longest path that ends in the node (in a graph with cycles 0 for inputs,
      1 for hidden, 2 for output nodes);
    - ``channel``, the index of an input or output among the channels: the order of nodes, if none has one;
    - ``send``, ``receive``, ``norm``, ``activation``, ``kernel_size``, ``stride``, ``aggregate``,
      ``zero_pad``: those of :class:`NodeFunction`; a node with neither ``send`` nor ``receive`` sends
      "norm activation conv" ("norm activation" where ``dims`` is 0), an output node is the identity;
    - ``scale`` and ``holds``: computed, as :class:`Wiring` says.

    What was inferred is there to see in ``wiring.role``, ``wiring.block``, ``wiring.channel``, ... and in
    ``to_networkx(wiring)``.

    Learned values of nodes and the edge attribute ``weight`` make a learned wiring. What nodes and edges
    lack that were added to one is drawn from ``seed`` as a network would draw it: weights uniform in
    (-1/sqrt(n), 1/sqrt(n)) with n the number of nodes that can have children, learned values as their
    operations begin. Attributes of other names are not read, unless they look like a misspelt one: then it
    is an error. So is a ``magnitude`` that is not that of the weight.

    Args:
        graph: a DiGraph, or an undirected Graph with ``order``.
        inputs: the input nodes in the order of the input channels, instead of what the graph says.
        outputs: the output nodes in the order of the output channels, likewise.
        prune_unreachable: leave out the nodes that no input reaches, which are an error otherwise (in a
            learned wiring, that they have no size); with them goes what constants they send.
        order: all nodes of an undirected graph; edges go from earlier to later ones.
        dims: of the states that it is made for, 0 to 3; by default those of its learned kernels, or 2.
        seed: of what is drawn.

    Raises:
        WiringError: naming the nodes and edges and what is wrong with them, up to ten.

    >>> import networkx as nx
    >>> wiring = from_networkx(nx.DiGraph([("a", "b"), ("b", "c"), ("a", "c")]))
    >>> wiring, wiring.block.tolist()
    (Wiring(3 nodes: 1 input, 1 hidden, 1 output; 3 candidate edges), [0, 1, 2])
    """
    if not isinstance(prune_unreachable, bool):
        raise WiringError(f"prune_unreachable must be True or False, got {prune_unreachable!r}.")
    graph, generator = _directed(graph, order), generator_of(seed)
    standard = default_function(2 if dims is None else dims)
    faults: list[str] = []
    labels = list(graph.nodes)
    place = {label: number for number, label in enumerate(labels)}
    inputs, outputs = (numbers_of(what, node_list(what, nodes), place)
                       for what, nodes in (("inputs", inputs), ("outputs", outputs)))
    edges = sorted(((place[v], place[u], data) for u, v, data in graph.edges(data=True)), key=lambda edge: edge[:2])
    dst, src = torch.tensor([edge[:2] for edge in edges], dtype=torch.long).reshape(-1, 2).unbind(1)
    roles = [_read_role(label, data, faults) for label, data in graph.nodes(data=True)]
    for code, named in ((INPUT, inputs), (OUTPUT, outputs)):
        _check_roles(labels, roles, code, named, faults)
    _refuse(faults)
    draft = Draft(labels, Entries(src, dst, (len(labels), len(labels))), inputs, outputs, torch.tensor(roles, dtype=torch.long))
    nodes = [_read_node(label, data, code, standard, faults)
             for (label, data), code in zip(graph.nodes(data=True), draft.role.tolist())]
    weights = [_read_edge(labels[u], labels[v], data, faults) for v, u, data in edges]
    if prune_unreachable:
        kept_nodes, kept_edges = draft.prune()
        nodes, weights = list(compress(nodes, kept_nodes.tolist())), list(compress(weights, kept_edges.tolist()))
    for code in (INPUT, OUTPUT):
        _read_channels(draft, code, nodes, faults)
    functions, learned = ([node[what] for node in nodes] for what in ("function", "learned"))
    dims = read_values(draft.labels, functions, learned, dims, faults)
    _refuse(faults)
    block = torch.tensor([-1 if node["block"] is None else node["block"] for node in nodes], dtype=torch.long)
    return assemble(draft.ends, draft.role, block.where(block >= 0, draft.blocks()), functions,
                    weight=_filled(weights, draft, generator),
                    parameters=stacked(functions, initial_values(functions, learned, dims, generator), dims),
                    channel=draft.channels(), scale=_scale(nodes), holds=_holds(nodes, draft), labels=draft.labels)


def _directed(graph: nx.Graph, order: Sequence[Hashable] | None) -> nx.DiGraph:
    """The graph, or the directed one that an undirected graph is in this order of nodes."""
    if not isinstance(graph, nx.Graph):
        raise WiringError(f"expected a networkx.DiGraph, got {type(graph).__name__}.")
    if graph.is_multigraph():
        raise WiringError(f"expected a networkx.DiGraph, got {type(graph).__name__}: between two nodes there is one "
                          "edge with one weight; networkx.DiGraph(graph) keeps one of those that are parallel.")
    if graph.is_directed():
        if order is not None:
            raise WiringError("order is for undirected graphs; the edges of this one have directions.")
        return graph
    if order is None:
        raise WiringError(
            f"expected a directed networkx graph, got {type(graph).__name__}: edges carry signals "
            "one way. Give order=[...], all nodes in an order in which edges go from earlier to later; "
            "graph.to_directed() makes both directions explicit.")
    order = node_list("order", order)
    if set(order) != set(graph.nodes):
        odd = [*(node for node in graph if node not in set(order)), *(node for node in order if node not in graph)]
        raise WiringError(f"order must be all nodes of the graph, each once; {listed(map(repr, odd))} is in only "
                          "one of the two.")
    place = {node: number for number, node in enumerate(order)}
    directed = nx.DiGraph()
    directed.add_nodes_from(graph.nodes(data=True))
    for u, v, data in graph.edges(data=True):
        if u == v:
            raise WiringError(f"the edge {u!r} -> {v!r} goes neither forwards nor backwards in an order of nodes: "
                              "leave it out, or make a directed graph.")
        directed.add_edge(*((u, v) if place[u] < place[v] else (v, u)), **data)
    return directed


def _refuse(faults: list[str]) -> None:
    """One error for all that is wrong."""
    if len(faults) == 1:
        raise WiringError(faults[0])
    if faults:
        more = len(faults) - MOST_FAULTS
        raise WiringError(f"{len(faults)} things are wrong with this graph:\n- " + "\n- ".join(faults[:MOST_FAULTS])
                          + (f"\nand {more} more." if more > 0 else ""))


# Nodes


def _read_role(label: Hashable, data: Mapping, faults: list[str]) -> int:
    """The code of a node's role, -1 if it has none."""
    if "role" not in data:
        return -1
    if not isinstance(data["role"], str) or data["role"] not in ROLES:
        faults.append(f"node {label!r} has the role {data['role']!r}; expected one of "
                      f"{', '.join(map(repr, ROLES))}.")
        return -1
    return ROLES.index(data["role"])


def _check_roles(labels: Sequence[Hashable], given: Sequence[int], code: int, named: Sequence[int] | None,
                 faults: list[str]) -> None:
    """Refuses roles that are not those of the nodes which ``inputs`` or ``outputs`` names."""
    if named is None:
        return
    chosen = set(named)
    for number, role in enumerate(given):
        if role >= 0 and (role == code) != (number in chosen):
            faults.append(f"node {labels[number]!r} has the role {ROLES[role]!r}, but {ROLES[code]}s="
                          f" {'names it' if number in chosen else 'does not name it'}: change or remove one.")


def _read_node(label: Hashable, data: Mapping, role: int, standard: NodeFunction, faults: list[str]) -> dict:
    """What a node's attributes say; None for what they do not."""
    node: dict = {"function": standard, "learned": {}}
    for name, low, high in (("block", 0, 2**63 - 1), ("channel", 0, 2**63 - 1), ("scale", 1, LARGEST_SCALE)):
        node[name] = _whole(label, name, data.get(name), low, high, faults)
    holds = data.get("holds")
    holds = int(holds) if isinstance(holds, (bool, np.bool_)) else holds
    node["holds"] = _whole(label, "holds", holds, 0, 1, faults, "true or false")
    try:
        refuse_near_misses(f"node {label!r} has the unknown attribute", data, STRUCTURE, learned=True)
        fields = {name: data[name] for name in FUNCTION_CODES if name in data}
        if "send" not in fields and "receive" not in fields:
            fields["send"] = IDENTITY.send if role == OUTPUT else standard.send
        node["function"] = NodeFunction(**fields)
    except WiringError as error:
        faults.append(str(error) if str(error).startswith("node ") else f"node {label!r}: {error}")
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        faults.append(f"node {label!r}: {error}")
    else:
        node["learned"] = {name: value for name, value in data.items() if is_learned(name)}
    if role == HIDDEN and node["channel"] is not None:
        faults.append(f"node {label!r} is hidden but has the 'channel' {node['channel']}; only inputs and outputs "
                      "have one.")
    return node


def _whole(label: Hashable, name: str, value: object, low: int, high: int, faults: list[str],
           expected: str | None = None) -> int | None:
    """A whole number in these bounds; None, with a fault unless it is None, for others."""
    if value is None:
        return None
    try:
        number = integer(name, value)
    except WiringError:
        number = low - 1
    if low <= number <= high:
        return number
    faults.append(f"node {label!r} has {name} {value!r}; expected {expected or f'an integer of {low} to {high}'}.")
    return None


def _read_channels(draft: Draft, code: int, nodes: Sequence[dict], faults: list[str]) -> None:
    """Takes over the order of the inputs or outputs that the nodes say, unless they were named in an order."""
    mine = (draft.role == code).nonzero().flatten().tolist()
    said = [nodes[node]["channel"] for node in mine]
    if draft.named[code] is not None or all(channel is None for channel in said):
        return
    lacking = [repr(draft.labels[node]) for node, channel in zip(mine, said) if channel is None]
    fault = channel_fault(ROLES[code], said) if not lacking else (
        f"node {listed(lacking)} is an {ROLES[code]} without a 'channel', and others have one: give it to all, "
        f"or {ROLES[code]}s=[...]; a node without {'in' if code == INPUT else 'out'}-edges that is no "
        f"{ROLES[code]} needs the role 'hidden'.")
    if fault:
        faults.append(fault)
    else:
        draft.named[code] = [node for _, node in sorted(zip(said, mine))]


def _scale(nodes: Sequence[dict]) -> torch.Tensor | None:
    """What the nodes say of their size, 0 where they say nothing."""
    if all(node["scale"] is None for node in nodes):
        return None
    return torch.tensor([node["scale"] or 0 for node in nodes], dtype=torch.long)


def _holds(nodes: Sequence[dict], draft: Draft) -> torch.Tensor | None:
    if all(node["holds"] is None for node in nodes):
        return None
    _, fed = draft.ends.joined()
    usual = ((draft.role == INPUT) & ~fed).long().tolist()
    return torch.tensor([by_default if node["holds"] is None else node["holds"]
                         for node, by_default in zip(nodes, usual)], dtype=torch.long)


# Edges


def _read_edge(u: Hashable, v: Hashable, data: Mapping, faults: list[str]) -> float | None:
    """The weight of an edge, None if it has none."""
    try:
        refuse_near_misses(f"the edge {u!r} -> {v!r} has the unknown attribute", data, (*EDGE_DATA, "magnitude"))
    except WiringError as error:
        faults.append(str(error))
    weight, magnitude = data.get("weight"), data.get("magnitude")
    for name, value in (("weight", weight), ("magnitude", magnitude)):
        if value is not None and not is_finite(value):
            faults.append(f"the edge {u!r} -> {v!r} has the {name} {value!r}; expected a finite number.")
            return None
    # other programs may write fewer digits
    if magnitude is not None and (weight is None or not math.isclose(abs(weight), magnitude, rel_tol=1e-5)):
        faults.append(f"the edge {u!r} -> {v!r} has the magnitude {magnitude!r} but "
                      + ("no weight" if weight is None else f"the weight {weight!r}")
                      + ": it is the absolute value of the weight; change both, or remove the magnitude.")
    return None if weight is None else float(weight)


def is_finite(value: object) -> bool:
    """Whether this is a number that a float can be."""
    try:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(float(value))
    except OverflowError:
        return False


def _filled(weights: Sequence[float | None], draft: Draft, generator: torch.Generator) -> torch.Tensor | None:
    """The weights, those of edges without one drawn; None if no edge has one."""
    if all(weight is None for weight in weights):
        return None
    is_output = draft.role == OUTPUT
    can_have_children = len(is_output) if (is_output & draft.ends.joined()[0]).any() else int((~is_output).sum())
    drawn = torch.empty(len(weights), dtype=torch.float64)
    drawn.uniform_(-can_have_children**-0.5, can_have_children**-0.5, generator=generator)
    given = torch.tensor([math.nan if weight is None else weight for weight in weights], dtype=torch.float64)
    return drawn.where(given.isnan(), given)
