"""What is left to compute of a trained network: dead nodes removed, constants folded, norms folded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ..errors import InputError
from ..networks import DiscreteTimeNeuralGraph, NeuralGraph, StaticNeuralGraph
from ..nodes import Activation, BatchNorm, Bias, DepthwiseConv, InstanceNorm, NodeFunctions
from ..nodes.operations import EPSILON
from ..wiring import ACTIVATIONS, Wiring
from ..wiring.wiring import INPUT, OUTPUT


@dataclass
class Part:
    """One step norm, activation, convolution of some nodes, each optional.

    Args:
        norm: "" for none, "affine" for scale x + shift, "instance" for scale (x - mean) / std + shift.
        scale, shift: (n,).
        activation: a key of :data:`neuralgraph.wiring.ACTIVATIONS`.
        kernel: (n, side, side) or None.
        stride: of the convolution.
        zero_pad: whether a strided map is padded back with zeros.
    """

    norm: str = ""
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    activation: str = "identity"
    kernel: np.ndarray | None = None
    stride: int = 1
    zero_pad: bool = False

    def of(self, nodes: np.ndarray) -> Part:
        """The part of some of the nodes, by place or mask."""
        return replace(self, **{name: value[nodes] for name in ("scale", "shift", "kernel")
                                if (value := getattr(self, name)) is not None})


@dataclass
class Group:
    """Nodes of one level with one function.

    Args:
        level: when they are computed, from 0 on.
        nodes: their numbers in the plan, (n,).
        kind: "input" (from the data), "sum" or "product" (of parents).
        scale: how many times smaller than the data the maps are that enter the function.
        parts: the function.
        channels: of "input", the channels of the data, (n,).
        outputs: the channels of the result if they are outputs, (n,), otherwise None.
    """

    level: int
    nodes: np.ndarray
    kind: str
    scale: int
    parts: list[Part] = field(default_factory=list)
    channels: np.ndarray | None = None
    outputs: np.ndarray | None = None

    def of(self, nodes: np.ndarray) -> Group:
        """The group of some of the nodes, by place or mask."""
        return replace(self, parts=[part.of(nodes) for part in self.parts],
                       **{name: value[nodes] for name in ("nodes", "channels", "outputs")
                          if (value := getattr(self, name)) is not None})

    @property
    def stride(self) -> int:
        """How many times smaller the function makes maps."""
        return int(np.prod([part.stride for part in self.parts if not part.zero_pad], dtype=int))


@dataclass
class Plan:
    """A network as one acyclic graph of nodes to compute; nodes at several times are several nodes.

    Args:
        dtype: of the numbers.
        num_inputs, num_outputs: channels of the data and of the result.
        output_scale: how many times smaller than the data the result is.
        groups: in order of levels.
        src, dst, weight: real edges, sorted by dst, then src.
        before: groups that do not depend on the data, computed once.
    """

    dtype: torch.dtype
    num_inputs: int
    num_outputs: int
    output_scale: int
    groups: list[Group]
    src: np.ndarray
    dst: np.ndarray
    weight: np.ndarray
    before: list[Group] = field(default_factory=list)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Of the result's maps for maps of this size."""
        return -(-height // self.output_scale), -(-width // self.output_scale)

    @property
    def read(self) -> set[int]:
        """The channels of the data that are read."""
        return {c for group in self.groups if group.kind == "input" for c in group.channels.tolist()}

    @property
    def written(self) -> set[int]:
        """The channels of the result that are written."""
        return {c for group in self.groups if group.outputs is not None for c in group.outputs.tolist()}


def joined(first: Plan, second: Plan) -> Plan:
    """One plan for a network that takes the outputs of another.

    What an output of the first and the input of the second that reads it compute is one function of
    one node, so that the maps between them are never written; an output that several inputs read is
    computed for each.
    """
    shift = 1 + max((int(group.nodes.max()) for group in (*first.before, *first.groups)), default=-1)
    height = max((group.level for group in first.groups), default=0)
    level_before = 1 + max((group.level for group in first.before), default=0)

    def moved(group: Group, level: int) -> Group:
        return replace(group, nodes=group.nodes + shift, level=group.level + level,
                       scale=group.scale * first.output_scale)

    groups = [group for group in first.groups if group.outputs is None]
    producer, consumer = [], []  # nodes of the first and of the joined plan
    for group in second.groups:
        if group.kind != "input":
            groups.append(moved(group, height))
            continue
        for maker in first.groups:
            if maker.outputs is None:
                continue
            order = np.argsort(maker.outputs)
            place = order[np.searchsorted(maker.outputs, group.channels, sorter=order) % len(order)]
            reads = maker.outputs[place] == group.channels
            if reads.any():
                made, read = maker.of(place[reads]), group.of(reads)
                groups.append(replace(made, nodes=read.nodes + shift, outputs=read.outputs,
                                      parts=[*made.parts, *read.parts]))
                producer.append(made.nodes)
                consumer.append(groups[-1].nodes)
    producer, consumer = (np.concatenate([np.zeros(0, int), *nodes]) for nodes in (producer, consumer))
    is_output = np.zeros(shift, bool)
    for group in first.groups:
        is_output[group.nodes] = group.outputs is not None
    inner = ~is_output[first.dst]
    begin, end = np.searchsorted(first.dst, producer), np.searchsorted(first.dst, producer + 1)
    count = end - begin
    edges = np.arange(count.sum()) + (begin - count.cumsum() + count).repeat(count)
    src, dst, weight = _by_dst(
        np.concatenate([first.src[inner], first.src[edges], second.src + shift]),
        np.concatenate([first.dst[inner], consumer.repeat(count), second.dst + shift]),
        np.concatenate([first.weight[inner], first.weight[edges], second.weight]))
    groups.sort(key=lambda group: group.level)
    return Plan(first.dtype, first.num_inputs, second.num_outputs, first.output_scale * second.output_scale,
                groups, src, dst, weight, [*first.before, *(moved(g, level_before) for g in second.before)])


def plan(network: NeuralGraph, needed: np.ndarray | None = None) -> Plan:
    """The plan of a trained network.

    Args:
        needed: which outputs are read, (outputs,) bool; by default all.

    Raises:
        InputError: for a network that is no static one and has no fixed number of steps.
    """
    if isinstance(network, StaticNeuralGraph):
        unrolled = _static(network)
    elif isinstance(network, DiscreteTimeNeuralGraph) and network.steps is not None:
        unrolled = _discrete(network)
    else:
        kind = type(network).__name__
        more = " with steps=None" if isinstance(network, DiscreteTimeNeuralGraph) else ""
        raise InputError(f"cannot compile a {kind}{more}: its number of updates is not known before it "
                         "runs; static networks and discrete-time ones of a fixed number of steps can be.")
    return unrolled.pruned(needed)


class _Unrolled:
    """All nodes and real edges, before anything is left out."""

    def __init__(self, network: NeuralGraph):
        self.network, self.wiring = network, network.wiring
        self.count = 0
        self.groups: list[Group] = []
        self.edges: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        selection = network.selection()
        real = selection.real.cpu()
        self.real_src, self.real_dst = self.wiring.src[real].numpy(), self.wiring.dst[real].numpy()
        self.real_weight = selection.weight.detach().cpu()[real].numpy()

    def add(self, level: int, nodes: np.ndarray, kind: str, receive: NodeFunctions | None,
            send: NodeFunctions | None, *, channels: np.ndarray | None = None,
            outputs: np.ndarray | None = None) -> np.ndarray:
        """Nodes of the wiring as nodes of the plan; returns the latter, in their order.

        Args:
            kind: "input", "zero" (a state of 0) or "parents".
            receive, send: whose ``receive`` and ``send`` they go through.
        """
        numbers = np.arange(self.count, self.count + len(nodes))
        self.count += len(nodes)
        nodes = torch.from_numpy(nodes)
        keys = torch.stack([self.wiring.function[nodes], self.wiring.scale[nodes]], 1)
        for function, scale in keys.unique(dim=0).tolist():
            some = ((keys[:, 0] == function) & (keys[:, 1] == scale)).nonzero().flatten()
            operations = []
            for functions, name in ((receive, "receive"), (send, "send")):
                if functions is not None:
                    rows = functions.rows(nodes[some])
                    operations += [(op, rows) for op in getattr(functions.groups[function], name)]
            some = some.numpy()
            self.groups.append(Group(
                level, numbers[some],
                {"input": "input", "zero": "sum"}.get(kind, self.wiring.functions[function].aggregate),
                scale, _parts(operations), None if channels is None else channels[some],
                None if outputs is None else outputs[some]))
        return numbers

    def connect(self, src_of: np.ndarray, dst_of: np.ndarray) -> None:
        """The real edges between nodes of the wiring, as nodes of the plan; -1 where there is none."""
        src, dst = src_of[self.real_src], dst_of[self.real_dst]
        there = (src >= 0) & (dst >= 0)
        self.edges.append((src[there], dst[there], self.real_weight[there]))

    def pruned(self, needed) -> Plan:
        """Without nodes that no needed output depends on; constants are kept apart."""
        src, dst, weight = (np.concatenate(ends) for ends in zip(*self.edges)) if self.edges else \
            (np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.float32))
        level, is_output, is_input = (np.zeros(self.count, kind) for kind in (int, bool, bool))
        product = np.zeros(self.count, bool)
        for group in self.groups:
            level[group.nodes] = group.level
            is_input[group.nodes] = group.kind == "input"
            product[group.nodes] = group.kind == "product"
            if group.outputs is not None:
                keep = slice(None) if needed is None else needed[group.outputs]
                is_output[group.nodes[keep]] = True

        # an edge adds nothing if its weight is 0 or the message of its source is 0 everywhere
        silent = np.zeros(self.count, bool)
        while True:
            adds = ~product[dst]
            dead = adds & ((weight == 0) | silent[src])
            src, dst, weight = src[~dead], dst[~dead], weight[~dead]
            fed = np.bincount(dst, minlength=self.count) > 0
            found = np.zeros(self.count, bool)
            for group in self.groups:
                if group.kind == "sum" and group.outputs is None:
                    found[group.nodes] = _is_zero_of_zero(group)
            found &= ~fed & ~is_input
            if (found == silent).all():
                break
            silent = found

        alive, varies = is_output.copy(), is_input.copy()
        by_level = np.argsort(level[dst], kind="stable")
        for edges in reversed(_split(by_level, level[dst])):
            alive[src[edges[alive[dst[edges]]]]] = True
        for edges in _split(by_level, level[dst]):
            varies[dst[edges[varies[src[edges]]]]] = True
        keep = alive[src] & alive[dst]
        src, dst, weight = src[keep], dst[keep], weight[keep]

        before = [g for g in (_some(group, alive & ~varies) for group in self.groups) if g]
        groups = [g for g in (_some(group, alive & varies) for group in self.groups) if g]
        edges = self._fold(src, dst, weight, varies, product, before)
        src, dst, weight = self._copy_constants(*edges, before, groups)
        wiring, output = self.wiring, self.wiring.outputs[0]
        scale = int(wiring.scale[output]) * wiring.functions[int(wiring.function[output])].receive_stride
        return Plan(self.network.weight.dtype, len(wiring.inputs), len(wiring.outputs), scale, groups, src,
                    dst, weight, before)

    def _fold(self, src, dst, weight, varies, product, before):
        """One constant parent in place of all that a node has; adds them to ``before``."""
        constant = ~varies[src] & varies[dst] & ~product[dst]
        fed = np.unique(dst[constant])
        stand_in = np.full(self.count, -1)
        stand_in[fed] = self._more(len(fed))
        scale = np.ones(len(stand_in), int)
        for group in self.groups:
            scale[group.nodes] = group.scale
        last = 1 + max((group.level for group in self.groups), default=0)
        for one in np.unique(scale[fed]).tolist():
            before.append(Group(last, stand_in[fed[scale[fed] == one]], "sum", one))
        dst = np.where(constant, stand_in[dst], dst)
        return _by_dst(np.concatenate([src, stand_in[fed]]), np.concatenate([dst, fed]),
                       np.concatenate([weight, np.ones(len(fed), weight.dtype)]))

    def _copy_constants(self, src, dst, weight, before, groups):
        """Outputs that do not depend on the data are computed before, then copied for each sample."""
        for group in before:
            if group.outputs is not None:
                copies = self._more(len(group.nodes))
                groups.append(Group(1, copies, "sum", group.scale * group.stride, outputs=group.outputs))
                group.outputs = None
                src, dst = np.concatenate([src, group.nodes]), np.concatenate([dst, copies])
                weight = np.concatenate([weight, np.ones(len(copies), weight.dtype)])
        groups.sort(key=lambda group: group.level)
        return _by_dst(src, dst, weight)

    def _more(self, number: int) -> np.ndarray:
        """New nodes of the plan."""
        self.count += number
        return np.arange(self.count - number, self.count)


def _by_dst(src, dst, weight):
    order = np.lexsort((src, dst))
    return src[order], dst[order], weight[order]


def _channels(wiring: Wiring) -> np.ndarray:
    """The channel of each input or output node in the data or the result, (V,); -1 for others."""
    channel = np.full(wiring.num_nodes, -1)
    for nodes in (wiring.inputs.numpy(), wiring.outputs.numpy()):
        channel[nodes] = np.arange(len(nodes))
    return channel


def _static(network: StaticNeuralGraph) -> _Unrolled:
    unrolled, wiring, functions = _Unrolled(network), network.wiring, network.functions
    place, channel = np.full(wiring.num_nodes, -1), _channels(wiring)
    is_output = wiring.role == OUTPUT
    for level, stage in enumerate(network.stages):
        read = is_output[stage.nodes]
        inner, outer = stage.nodes[~read].numpy(), stage.nodes[read].numpy()
        if level == 0:
            place[inner] = unrolled.add(0, inner, "input", None, functions, channels=channel[inner])
            continue
        if len(inner):
            place[inner] = unrolled.add(level, inner, "parents", functions, functions)
        if len(outer):
            place[outer] = unrolled.add(level, outer, "parents", functions, None, outputs=channel[outer])
    unrolled.connect(place, place)
    return unrolled


def _discrete(network: DiscreteTimeNeuralGraph) -> _Unrolled:
    unrolled, wiring = _Unrolled(network), network.wiring
    held, moving, others = (mask.nonzero().flatten().numpy() for mask in
                            (wiring.holds, ~wiring.holds, wiring.role != INPUT))
    channel, sources, results = _channels(wiring), wiring.inputs.numpy(), wiring.outputs.numpy()
    by_step = [network.functions] * network.steps if network.tied else \
        [network.functions, *network.later_functions]

    def inputs(nodes, functions):
        return unrolled.add(0, nodes, "input", None, functions, channels=channel[nodes])

    place = np.full(wiring.num_nodes, -1)
    place[sources] = inputs(sources, by_step[0])
    place[others] = unrolled.add(0, others, "zero", None, by_step[0])
    for step in range(1, network.steps):
        now = np.full(wiring.num_nodes, -1)
        now[moving] = unrolled.add(step, moving, "parents", by_step[step - 1], by_step[step])
        unrolled.connect(place, now)
        if len(held):
            now[held] = place[held] if network.tied else inputs(held, by_step[step])
        place = now
    last = np.full(wiring.num_nodes, -1)
    last[results] = unrolled.add(network.steps, results, "parents", by_step[-1], None,
                                 outputs=channel[results])
    unrolled.connect(place, last)
    return unrolled


def _split(edges, levels):
    """Edge numbers, sorted by level, as one array per level."""
    if not len(edges):
        return []
    cuts = np.flatnonzero(np.diff(levels[edges])) + 1
    return np.split(edges, cuts)


def _some(group: Group, mask) -> Group | None:
    """The part of a group that is in the mask."""
    keep = mask[group.nodes]
    return group.of(keep) if keep.any() else None


def _parts(operations) -> list[Part]:
    """Operations, each with its rows, as parts, as few as their order allows.

    Norms of running statistics become affine.
    """
    parts: list[Part] = []
    open_for = 3  # 3: a norm may still come, 2: an activation, 1: a convolution, 0: nothing

    def part(at: int) -> Part:
        nonlocal open_for
        if not parts or open_for < at:
            parts.append(Part())
        open_for = at - 1
        return parts[-1]

    def array(tensor):
        return np.ascontiguousarray(tensor.detach().cpu().numpy())

    for operation, rows in operations:
        if isinstance(operation, (BatchNorm, InstanceNorm, Bias)):
            target = part(3)
            if isinstance(operation, Bias):
                shift = operation.bias[rows]
                target.norm, scale = "affine", torch.ones_like(shift)
            elif isinstance(operation, InstanceNorm):
                target.norm, scale, shift = "instance", operation.weight[rows], operation.bias[rows]
            else:
                scale = operation.weight[rows] / (operation.running_var[rows] + EPSILON).sqrt()
                target.norm, shift = "affine", operation.bias[rows] - operation.running_mean[rows] * scale
            target.scale, target.shift = array(scale), array(shift)
        elif isinstance(operation, Activation):
            part(2).activation = operation.name
        elif isinstance(operation, DepthwiseConv):
            target = part(1)
            target.kernel = array(operation.weight[rows][:, 0])
            target.stride, target.zero_pad = operation.stride, operation.zero_pad
        else:
            raise InputError(f"cannot compile nodes with a {type(operation).__name__}.")
    return parts


def _is_zero_of_zero(group: Group) -> np.ndarray:
    """Which nodes' messages are 0 everywhere if their sum is, whatever the size of maps, (n,) bool."""
    value = torch.zeros(len(group.nodes), dtype=torch.float64)
    for part in group.parts:
        if part.norm:
            scale = 0.0 if part.norm == "instance" else torch.from_numpy(part.scale)
            value = value * scale + torch.from_numpy(part.shift)
        value = ACTIVATIONS[part.activation](value)
        if part.kernel is not None:  # borders: only 0 stays the same everywhere
            value = value.where(value == 0, torch.nan)
    return (value == 0).numpy()
