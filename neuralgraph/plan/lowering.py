"""The one module that unrolls a network: dead nodes go, constants and norms are folded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..errors import InputError
from ..networks import ContinuousTimeNeuralGraph, DiscreteTimeNeuralGraph, NeuralGraph, StaticNeuralGraph
from ..networks.functions import NodeFunctions
from ..nodes import Lowered
from ..sharing import plain
from ..wiring import Wiring
from ..wiring.wiring import INPUT, OUTPUT
from .checking import checked
from .plain import refuse_special
from .plan import Group, Plan
from .steps import by_dst, is_zero_of_zero, simplified


def lower(network: NeuralGraph, needed: np.ndarray | None = None) -> Plan:
    """The plan of a trained network: what it computes in evaluation, to rounding, and no more.

    Args:
        needed: which outputs are read, (outputs,) bool; by default all.

    Raises:
        InputError: for a network that is no static one and has no fixed number of steps, one with hooks or
            changed methods, of another type than float32 and float64, or with an operation that does not
            say how it is lowered; it names what cannot be.
    """
    network = plain(network)
    kind = type(network).__name__
    refuse_special(network, "the network", (StaticNeuralGraph, DiscreteTimeNeuralGraph, ContinuousTimeNeuralGraph))
    if network.weight.dtype not in (torch.float32, torch.float64):
        raise InputError(f"can compile or export networks of float32 and float64, but this {kind} is of "
                         f"{network.weight.dtype}: use network.float().")
    if isinstance(network, StaticNeuralGraph):
        unrolled = _static(network)
    elif isinstance(network, DiscreteTimeNeuralGraph) and network.steps is not None:
        unrolled = _discrete(network)
    else:
        more = " with steps=None" if isinstance(network, DiscreteTimeNeuralGraph) else ""
        raise InputError(f"cannot compile or export a {kind}{more}: its number of updates is not known before "
                         "it runs; static networks and discrete-time ones of a fixed number of steps can be.")
    return checked(unrolled.pruned(needed))


def lower_all(networks: Sequence[NeuralGraph]) -> list[Plan]:
    """The plans of networks of which each takes the outputs of the one before, of what is read of each."""
    plans: list[Plan] = []
    needed = None
    for network in reversed(networks):
        plans.insert(0, lower(network, needed))
        needed = np.zeros(plans[0].num_inputs, bool)
        needed[list(plans[0].read)] = True
    return plans


class _Unrolled:
    """All nodes and real edges, before anything is left out."""

    def __init__(self, network: NeuralGraph):
        self.network, self.wiring = network, network.wiring
        self.count = 0
        self.groups: list[Group] = []
        self.edges: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        selection = network.selection()
        real = selection.real.cpu()
        self.real_src, self.real_dst = (ends.numpy() for ends in self.wiring.ends.of(real))
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
            steps: list[Lowered] = []
            for functions, side in ((receive, "receive"), (send, "send")):
                if functions is not None:
                    rows = functions.rows(nodes[some])
                    for operation in getattr(functions.groups[function], side):
                        steps += operation.lower(rows)
            some = some.numpy()
            self.groups.append(Group(
                level, numbers[some],
                {"input": "input", "zero": "sum"}.get(kind, self.wiring.functions[function].aggregate),
                scale, simplified(steps), None if channels is None else channels[some],
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
                    found[group.nodes] = is_zero_of_zero(group.steps, len(group.nodes))
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
        src, dst, weight = self._fold(src, dst, weight, varies, product, before)
        src, dst, weight = self._copy_constants(src, dst, weight, before, groups)
        wiring, output = self.wiring, self.wiring.outputs[0]
        scale = int(wiring.scale[output]) * wiring.functions[int(wiring.function[output])].receive_stride
        return Plan(self.network.weight.dtype, len(wiring.inputs), len(wiring.outputs), scale, groups, src,
                    dst, weight, before, self.network.dims)

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
        return by_dst(np.concatenate([src, stand_in[fed]]), np.concatenate([dst, fed]),
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
        return by_dst(src, dst, weight)

    def _more(self, number: int) -> np.ndarray:
        """New nodes of the plan."""
        self.count += number
        return np.arange(self.count - number, self.count)


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
    unrolled, wiring, steps = _Unrolled(network), network.wiring, network.steps
    assert steps is not None  # see lower
    held, moving, others = (mask.nonzero().flatten().numpy() for mask in
                            (wiring.holds, ~wiring.holds, wiring.role != INPUT))
    channel, sources, results = _channels(wiring), wiring.inputs.numpy(), wiring.outputs.numpy()
    by_step = [network.functions] * steps if network.tied else \
        [network.functions, *network.later_functions]

    def inputs(nodes, functions):
        return unrolled.add(0, nodes, "input", None, functions, channels=channel[nodes])

    place = np.full(wiring.num_nodes, -1)
    place[sources] = inputs(sources, by_step[0])
    place[others] = unrolled.add(0, others, "zero", None, by_step[0])
    for step in range(1, steps):
        now = np.full(wiring.num_nodes, -1)
        now[moving] = unrolled.add(step, moving, "parents", by_step[step - 1], by_step[step])
        unrolled.connect(place, now)
        if len(held):
            now[held] = place[held] if network.tied else inputs(held, by_step[step])
        place = now
    last = np.full(wiring.num_nodes, -1)
    last[results] = unrolled.add(steps, results, "parents", by_step[-1], None,
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
