"""What the data of a graph say about a wiring, checked once."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch

from ..errors import WiringError, listed
from ..nodes import (
    AGGREGATES,
    IDENTITY,
    NORMS,
    STATIC,
    NodeFunction,
    Rows,
    activation_code,
    activation_name,
    decode_steps,
    encode_steps,
    is_learned,
    learned_names,
    operations_of,
    used_values,
    value_shapes,
)
from .ends import Entries
from .graph import Graph
from .paths import reached

# The position of a role is its code in a graph.
ROLES = ("hidden", "input", "output")
HIDDEN, INPUT, OUTPUT = range(3)


def _codes(kind: str, names: Sequence) -> tuple[Callable, Callable]:
    """From a name of that kind to its code, which is its index, and back."""
    def decode(code: int):
        if code >= len(names):
            known = ", ".join(f"{i} = {name}" for i, name in enumerate(names))
            raise WiringError(f"{kind} has the code {code}; codes are {known}.")
        return names[code]

    return names.index, decode


# Node data that describe the function of a node, with the codes for names.
FUNCTION_CODES: dict[str, tuple[Callable[..., int], Callable[[int], Any]]] = {
    "send": (encode_steps, decode_steps),
    "receive": (encode_steps, decode_steps),
    "norm": _codes("norm", list(NORMS)),
    "activation": (activation_code, activation_name),
    "kernel_size": (int, int),
    "stride": (int, int),
    "aggregate": _codes("aggregate", AGGREGATES),
    "zero_pad": _codes("zero_pad", (False, True)),
}
STRUCTURE = ("role", "block", "channel", "scale", "holds", *FUNCTION_CODES)
EDGE_DATA = ("weight",)
LARGEST_SCALE = 2**31  # products of strides up to it are exact in 64 bits


class Reading:
    """The columns of a graph as a wiring has them; those left out are made, and all are checked.

    Args:
        graph: one that nobody else has; its node and edge data are completed.
        label: the name of a node, for messages.

    Raises:
        WiringError: as :class:`~neuralgraph.Wiring` says.
    """

    def __init__(self, graph: Graph, label: Callable[[int], Hashable]):
        self._graph, self._label = graph, label
        refuse_near_misses("the graph has the unknown node data", graph.ndata, STRUCTURE, learned=True)
        refuse_near_misses("the graph has the unknown edge data", graph.edata, EDGE_DATA)
        self.role = self._integers("role", low=0, high=len(ROLES) - 1)
        self.block = self._integers("block", low=0)
        self._check_roles()
        self._fed = self._check_duplicates()
        self.channel = self._read_channel()
        self.functions, self.function = self._read_functions()
        self._check_learned()
        self.weight = self._read_weight()
        self.scale = self._read_scale()
        self.holds = self._read_holds()
        if not len(graph.ends):  # every edge has a weight, and files cannot say it otherwise
            self.weight = graph.edata["weight"] = torch.zeros(0)
        for name, (encode, _) in FUNCTION_CODES.items():
            codes = torch.tensor([encode(getattr(f, name)) for f in self.functions])
            graph.ndata[name] = codes[self.function]
        graph.ndata["channel"], graph.ndata["scale"] = self.channel, self.scale
        graph.ndata["holds"] = self.holds.long()

    def _name(self, node) -> str:
        return repr(self._label(int(node)))

    def _edge_name(self, edge: int) -> str:
        return " -> ".join(map(self._name, self._graph.ends.of(torch.tensor([edge]))))

    def _integers(self, name: str, low: int, high: int | None = None) -> torch.Tensor:
        num_nodes = self._graph.num_nodes
        if name not in self._graph.ndata:
            raise WiringError(
                f"the graph has no node data {name!r}: set graph.ndata[{name!r}] to an integer "
                f"tensor of shape ({num_nodes},)."
            )
        value = self._graph.ndata[name]
        if value.is_floating_point() or value.is_complex() or value.dim() != 1:
            raise WiringError(
                f"node data {name!r} must be integers of shape ({num_nodes},), "
                f"got {value.dtype} of shape {tuple(value.shape)}."
            )
        value = value.long()
        wrong = (value < low) if high is None else (value < low) | (value > high)
        if wrong.any():
            node = int(wrong.nonzero()[0])
            raise WiringError(
                f"node {self._name(node)} has {name} {int(value[node])}; expected "
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
                    f"{len(self.role)} nodes: give one the role {ROLES[code]!r} (code {code})."
                )

    def _check_duplicates(self) -> torch.Tensor:
        """Refuses edges that stand twice; returns which nodes have in-edges, a mask (V,)."""
        outline = self._graph.ends.outline(self._graph.num_nodes)
        entries = outline.ends.ascending().numpy()
        twice = entries[1:][entries[1:] == entries[:-1]]
        if len(twice):
            src, dst = Entries.numbered(torch.from_numpy(twice), outline.ends.shape).of(slice(None))
            which = int((src * len(outline.first) + dst).argmin())
            u, v = (self._name(outline.first[end[which]]) for end in (src, dst))
            raise WiringError(
                f"the edge {u} -> {v} stands more than once "
                f"({len(twice)} repeated edges in all): every candidate edge has one weight; "
                "remove the repetitions."
            )
        return outline.ends.joined()[1][outline.group]

    def _read_channel(self) -> torch.Tensor:
        """The index of each node among the inputs or the outputs, (V,); -1 for hidden nodes."""
        if "channel" not in self._graph.ndata:
            channel = torch.full_like(self.role, -1)
            for code in (INPUT, OUTPUT):
                nodes = (self.role == code).nonzero().flatten()
                channel[nodes] = torch.arange(len(nodes))
            return channel
        channel = self._integers("channel", low=-1)
        wrong = ((channel == -1) != (self.role == HIDDEN)).nonzero().flatten().tolist()
        if wrong:
            raise WiringError(f"node {self._name(wrong[0])} is {ROLES[self.role[wrong[0]]]} and has the channel "
                              f"{int(channel[wrong[0]])}; inputs and outputs are numbered from 0 on, "
                              "hidden nodes -1.")
        for code in (INPUT, OUTPUT):
            nodes = (self.role == code).nonzero().flatten()
            fault = channel_fault(ROLES[code], channel[nodes].tolist())
            if fault:
                raise WiringError(fault)
        return channel

    def _read_functions(self) -> tuple[tuple[NodeFunction, ...], torch.Tensor]:
        """The distinct node functions and, for every node, which one it has."""
        given = {name: self._integers(name, low=0) for name in FUNCTION_CODES
                 if name in self._graph.ndata}
        rows = torch.stack([*given.values(), (self.role == OUTPUT).long()], dim=1)
        distinct, which = rows.unique(dim=0, return_inverse=True)
        functions: list[NodeFunction] = []
        place = torch.empty(len(distinct), dtype=torch.long)
        first = torch.full((len(distinct),), len(self.role)).scatter_reduce(
            0, which, torch.arange(len(self.role)), "amin")
        for row in first.argsort().tolist():
            node = int(first[row])
            default = IDENTITY if self.role[node] == OUTPUT else STATIC
            fields: dict[str, Any] = {"send": default.send, "receive": default.receive}
            try:
                for name, code in zip(given, distinct[row].tolist()):
                    fields[name] = FUNCTION_CODES[name][1](code)
                function = NodeFunction(**fields)
            except (WiringError, LookupError) as error:
                raise WiringError(f"node {self._name(node)}: {error}") from error
            if function not in functions:
                functions.append(function)
            place[row] = functions.index(function)
        return tuple(functions), place[which]

    def _check_learned(self):
        """Refuses learned values that no network on this wiring could take over."""
        values = {name: value for name, value in self._graph.ndata.items() if is_learned(name)}
        users = {name: [number for number, function in enumerate(self.functions)
                        if name in used_values(function)] for name in values}
        for name, value in values.items():
            if not users[name]:
                raise WiringError(f"no node uses the learned value {name!r}: leave this node data out, or "
                                  "give the nodes a function that has it.")
        shapes = {name: tuple(value.shape[1:]) for name, value in values.items()}
        misfits = [name for name in shapes if dims_of(self.functions, {name: shapes[name]}) is None]
        if not misfits and dims_of(self.functions, shapes) is None:
            misfits = list(shapes)  # each fits maps of some dimensions, but not of the same
        for name, value in values.items():
            if name in misfits or not value.is_floating_point():
                raise WiringError(f"node data {name!r} must be floating point of shape "
                                  f"{self._expected_shape(name)}, got {value.dtype} of shape "
                                  f"{tuple(value.shape)}.")
            wrong = ~value.isfinite()
            if name.startswith("norm_var"):
                wrong |= value < 0
            wrong = wrong.flatten(1).any(1) if value.dim() > 1 else wrong
            wrong &= torch.isin(self.function, torch.tensor(users[name]))
            if wrong.any():
                node = int(wrong.nonzero()[0])
                raise WiringError(f"node {self._name(node)} has {name} {value[node].tolist()}; learned values "
                                  "must be finite, and variances not negative.")

    def _expected_shape(self, name: str) -> str:
        if name == "kernel":
            sides = [f"({len(self.role)}{', s' * dims})" for dims in (1, 2, 3)]
            return f"{sides[0]}, {sides[1]} or {sides[2]} with s at least the kernel_size, and all in one"
        return str((len(self.role), *common_shape(self.functions, name, 2)))

    def _read_weight(self) -> torch.Tensor | None:
        weight = self._graph.edata.get("weight")
        if weight is None:
            return None
        if not weight.is_floating_point() or weight.dim() != 1:
            raise WiringError(
                f"edge data 'weight' must be floating point of shape ({len(self._graph.ends)},), got "
                f"{weight.dtype} of shape {tuple(weight.shape)}."
            )
        wrong = (~weight.isfinite()).nonzero().flatten()
        if len(wrong):
            edge = int(wrong[0])
            raise WiringError(
                f"the edge {self._edge_name(edge)} has the weight {weight[edge].item()}; "
                "weights must be finite."
            )
        return weight

    def _read_holds(self) -> torch.Tensor:
        """Which nodes keep the data, a mask (V,)."""
        if "holds" not in self._graph.ndata:
            return (self.role == INPUT) & ~self._fed
        holds = self._integers("holds", low=0, high=1) == 1
        wrong = (holds & (self._fed | (self.role != INPUT))).nonzero().flatten().tolist()
        if wrong:
            raise WiringError(f"node {self._name(wrong[0])} has holds=1, but only an input node "
                              "without in-edges can keep the data; set it to 0 there.")
        return holds

    def message_scale(self, scale: torch.Tensor) -> torch.Tensor:
        """How many times smaller than the input the messages are of nodes whose sums are that much, (V,)."""
        return scale * self._strides()

    def _strides(self) -> torch.Tensor:
        """How many times smaller than its sum the message of each node is, (V,)."""
        send = torch.tensor([f.send_stride for f in self.functions])[self.function]
        receive = torch.tensor([f.receive_stride for f in self.functions])[self.function]
        return send * receive.where(self.role != INPUT, torch.ones_like(receive))

    def _read_scale(self) -> torch.Tensor:
        """Carries the scale 1 of the inputs along the edges and refuses what disagrees.

        With padding k // 2 a convolution turns a side n into ceil(n / stride), and
        ceil(ceil(n / a) / b) = ceil(n / (a b)): equal products of strides mean equal sizes.
        """
        if "scale" in self._graph.ndata:
            scale = self._integers("scale", low=0, high=LARGEST_SCALE).clone()
            if (scale[self.role == INPUT] > 1).any():
                raise WiringError("node data 'scale' must be 1 at the input nodes.")
            scale[self.role == INPUT] = 1
        else:
            scale = (self.role == INPUT).long()
        strides = self._strides()
        outline = self._graph.ends.outline(len(scale), scale, strides)
        ends, first = outline.ends, outline.first
        strides, scale = strides[first].numpy(), scale[first]

        def name(src: int, dst: int) -> str:
            return f"{self._name(first[src])} -> {self._name(first[dst])}"

        is_uniform = bool((strides == 1).all() and (scale <= 1).all())
        scale = (reached(ends, scale == 1).long() if is_uniform else scale).numpy()
        changed = not is_uniform
        while changed:
            known, message, changed = scale > 0, scale * strides, False
            for src, dst in ends.pieces():
                fresh = known.take(src) & ~known.take(dst)
                if fresh.any():
                    src, dst, changed = src[fresh], dst[fresh], True
                    arriving = message.take(src)
                    if arriving.max() > LARGEST_SCALE:
                        edge = (arriving > LARGEST_SCALE).argmax()
                        raise WiringError(f"the strides on the way to the edge {name(src[edge], dst[edge])} make maps more "
                                          f"than {LARGEST_SCALE} times smaller than the input; use smaller ones.")
                    scale[dst] = arriving
        found = torch.from_numpy(scale)[outline.group]
        lost = (found == 0).nonzero().flatten().tolist()
        if lost:
            names = listed([self._name(node) for node in lost])
            if self.weight is None:
                raise WiringError(
                    f"no input reaches node {names}: every node of a candidate graph needs a path "
                    "from an input; add an edge or leave the node out (prune_unreachable=True, where it is made)."
                )
            raise WiringError(
                f"no input reaches node {names}, so its size is unknown: give node data 'scale' "
                "(how many times smaller than the input its incoming sum is)."
            )
        message = scale * strides
        for src, dst in () if is_uniform else ends.pieces():
            wrong = message.take(src) != scale.take(dst)
            if wrong.any():
                edge = wrong.argmax()
                u, v = src[edge], dst[edge]
                raise WiringError(
                    f"strides disagree on the edge {name(u, v)}: it brings a map "
                    f"{message[u]} times smaller than the input into a node whose other "
                    f"in-edges bring one {scale[v]} times smaller. Make the product of "
                    "strides equal along every path into a node."
                )
        return found


def channel_fault(role: str, channels: Sequence[int]) -> str | None:
    """What is wrong with the channels of the nodes of a role, which are 0 to n - 1 in any order."""
    if sorted(channels) == list(range(len(channels))):
        return None
    twice = sorted(channel for channel, count in Counter(channels).items() if count > 1)
    missing = sorted(set(range(len(channels))) - set(channels))
    what = f"channel {listed(twice)} more than once" if twice else f"no channel {listed(missing)}"
    return (f"the {len(channels)} {role} nodes have {what}; expected each of 0 to {len(channels) - 1} once, or no "
            f"'channel' at all, for the order of nodes.")


def dims_of(functions: Sequence[NodeFunction], shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """For maps of how many dimensions learned values are: 2 if it may be, None if they fit no number.

    Args:
        functions: those of the nodes.
        shapes: of the values of one node, by name; larger is fine where the value stands in the middle.
    """
    def fit(dims: int) -> bool:
        return all(len(shape) == len(own) and all(a >= b and (a - b) % 2 == 0 for a, b in zip(shape, own))
                   for name, shape in shapes.items()
                   for own in [value_shapes(function, dims).get(name) for function in functions]
                   if own is not None)

    return next((dims for dims in possible_dims(functions) if fit(dims)), None)


def possible_dims(functions: Iterable[NodeFunction]) -> list[int]:
    """The dimensions of maps on which all of these can act, the usual one first."""
    def refuses(dims: int) -> bool:
        try:
            for function in functions:
                for side in ("receive", "send"):
                    for operation in operations_of(function, side):
                        operation.check(function, dims)
        except WiringError:
            return True
        return False

    functions = list(functions)
    return [dims for dims in (2, 1, 3, 0) if not refuses(dims)]


def common_shape(functions: Iterable[NodeFunction], name: str, dims: int) -> tuple[int, ...]:
    """The largest shape that a learned value has in these functions; smaller ones stand in its middle."""
    shapes = [value_shapes(function, dims)[name] for function in functions if name in used_values(function)]
    return tuple(map(max, *shapes)) if len(shapes) > 1 else shapes[0]


def middle(large: Sequence[int], small: Sequence[int], rows: Rows) -> tuple[Rows, ...]:
    """Where arrays of the shape ``small``, one for each of the rows, stand in those of the shape ``large``."""
    return rows, *(slice((a - b) // 2, (a - b) // 2 + b) for a, b in zip(large, small))


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
