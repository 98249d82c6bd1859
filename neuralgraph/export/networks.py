"""Plans as ONNX nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..errors import InputError
from ..nodes import Affine, Convolve, Lowered, Normalize, Pointwise, scalar
from ..plan import Group, Plan, check_space, constants, reduced
from .graph import OnnxGraph


def add_plan(graph: OnnxGraph, plan: Plan, x: str, space: tuple[int, ...]) -> str:
    """The result of a plan for data of these sides, (batch, num_outputs, *space').

    Sums over edges are products with matrices that are zero where no edge is real. What does not depend on the
    data becomes constants.

    Raises:
        InputError: for a function that has no ONNX form, by name, or maps that are too small.
    """
    check_space(plan, space)
    return _Writer(graph, plan, x, space).result()


@dataclass
class _Written:
    """The messages of some nodes: the tensor's name, and each node's place in it."""

    name: str
    nodes: np.ndarray


class _Writer:
    def __init__(self, graph: OnnxGraph, plan: Plan, x: str, space: tuple[int, ...]):
        self.graph, self.plan, self.x, self.space = graph, plan, x, space
        self.constants = constants(plan, space)
        self.written: list[_Written] = []
        count = 1 + max((int(g.nodes.max()) for g in (*plan.groups, *plan.before)), default=0)
        self.owner = np.full(count, -1)  # which of ``written`` has a node
        self.place = np.full(count, -1)

    def result(self) -> str:
        outputs: list[tuple[np.ndarray, str]] = []
        for group in self.plan.groups:
            y = self._entering(group)
            for step in group.steps:
                y = self._step(step, y, group)
            if group.outputs is not None:
                outputs.append((group.outputs, y))
                continue
            self.owner[group.nodes] = len(self.written)
            self.place[group.nodes] = np.arange(len(group.nodes))
            self.written.append(_Written(y, group.nodes))
        order = torch.from_numpy(np.concatenate([channels for channels, _ in outputs]))
        y = self.graph.concat([name for _, name in outputs])
        in_order = torch.equal(order, torch.arange(len(order)))
        return y if in_order else self.graph.gather(y, order.argsort())

    def _entering(self, group: Group) -> str:
        """What the function of the group's nodes acts on."""
        if group.kind == "input":
            channels = torch.from_numpy(group.channels)
            is_all = torch.equal(channels, torch.arange(self.plan.num_inputs))
            return self.x if is_all else self.graph.gather(self.x, channels)
        begin, end = (np.searchsorted(self.plan.dst, group.nodes, side) for side in ("left", "right"))
        edges = np.concatenate([np.arange(*ends) for ends in zip(begin, end)])
        row = np.arange(len(group.nodes)).repeat(end - begin)
        src, weight = self.plan.src[edges], self.plan.weight[edges]
        return (self._sums if group.kind == "sum" else self._products)(group, row, src, weight)

    def _sums(self, group: Group, row, src, weight) -> str:
        varies = self.owner[src] >= 0
        owners = np.unique(self.owner[src[varies]]).tolist()
        if owners:
            start = dict(zip(owners, np.cumsum([0, *(len(self.written[o].nodes) for o in owners)])))
            columns = np.array([start[o] for o in self.owner[src[varies]].tolist()]) + self.place[src[varies]]
            width = sum(len(self.written[o].nodes) for o in owners)
            matrix = torch.zeros(len(group.nodes), width, dtype=torch.float64)
            matrix[torch.from_numpy(row[varies]), torch.from_numpy(columns)] = \
                torch.from_numpy(weight[varies]).double()
            total = self.graph.matrix(self.graph.concat([self.written[o].name for o in owners]), matrix,
                                      self.plan.dims)
        else:
            total = self._zeros(group)
        constant = self._constant_sum(group, row[~varies], src[~varies], weight[~varies])
        return total if constant is None else self.graph.add("Add", total, self.graph.constant(constant))

    def _zeros(self, group: Group) -> str:
        """Of the group's shape, for as many samples as come."""
        zero = torch.zeros(len(group.nodes), self.plan.num_inputs)
        return self.graph.matrix(self.x, zero, self.plan.dims, stride=group.scale)

    def _constant_sum(self, group: Group, row, src, weight) -> torch.Tensor | None:
        if not len(src):
            return None
        total = torch.zeros(1, len(group.nodes), *reduced(self.space, group.scale), dtype=torch.float64)
        for r, node, w in zip(row.tolist(), src.tolist(), weight.tolist()):
            total[:, r] += w * self.constants[node].double()
        return total

    def _products(self, group: Group, row, src, weight) -> str:
        """Slot after slot: the first parents of all nodes, the second ones, ...; 1 where there is none."""
        shape = reduced(self.space, group.scale)
        total = self.graph.add("Add", self._zeros(group), self.graph.constant(torch.tensor(1.0)))
        counts = np.bincount(row, minlength=len(group.nodes))
        first = np.concatenate([[0], counts.cumsum()[:-1]])
        for slot in range(int(counts.max()) if len(counts) else 0):
            there = np.flatnonzero(counts > slot)
            edge = first[there] + slot
            matrices: dict[int, torch.Tensor] = {}
            rest = torch.zeros(1, len(group.nodes), *shape, dtype=torch.float64)
            rest[:, torch.from_numpy(np.flatnonzero(counts <= slot))] = 1
            for node, e in zip(there.tolist(), edge.tolist()):
                owner = int(self.owner[src[e]])
                if owner < 0:
                    rest[:, node] = float(weight[e]) * self.constants[int(src[e])].double()
                    continue
                if owner not in matrices:
                    matrices[owner] = torch.zeros(len(group.nodes), len(self.written[owner].nodes))
                matrices[owner][node, self.place[src[e]]] = float(weight[e])
            factor = self.graph.constant(rest)
            for owner, matrix in matrices.items():
                term = self.graph.matrix(self.written[owner].name, matrix, self.plan.dims)
                factor = self.graph.add("Add", factor, term)
            total = self.graph.add("Mul", total, factor)
        return total

    def _step(self, step: Lowered, x: str, group: Group) -> str:
        dims, graph = self.plan.dims, self.graph

        def per_channel(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).view(-1, *[1] * dims)

        if isinstance(step, Affine):
            if (step.scale != 1).any():
                x = graph.add("Mul", x, graph.constant(per_channel(step.scale)))
            return x if not step.shift.any() else graph.add("Add", x, graph.constant(per_channel(step.shift)))
        if isinstance(step, Normalize):
            return graph.add("InstanceNormalization", x, graph.constant(torch.from_numpy(step.scale)),
                             graph.constant(torch.from_numpy(step.shift)), epsilon=step.epsilon)
        if isinstance(step, Pointwise):
            return add_function(graph, step, x, dims)
        if isinstance(step, Convolve):
            return self._convolve(step, x, group)
        raise InputError(f"there is no ONNX form of the step {step.kind!r}.")

    def _convolve(self, step: Convolve, x: str, group: Group) -> str:
        dims, side = self.plan.dims, step.kernel.shape[-1]
        scale = group.scale
        for before in group.steps:
            if before is step:
                break
            scale *= before.shrinks
        space = reduced(self.space, scale)
        y = self.graph.conv(x, torch.from_numpy(step.kernel)[:, None], stride=[step.stride] * dims,
                            padding=[side // 2] * (2 * dims), groups=len(step.kernel))
        small = reduced(space, step.stride)
        if not step.zero_pad or small == space:
            return y
        before = [(a - b) // 2 for a, b in zip(space, small)]
        return self.graph.pad(y, before, [a - b - c for a, b, c in zip(space, small, before)])


def add_function(graph: OnnxGraph, step: Pointwise, x: str, dims: int) -> str:
    """An elementwise function by its registered ONNX form.

    Raises:
        InputError: if it has none.
    """
    form = scalar(step.name).onnx
    if form is None:
        raise InputError(f"nodes with {step.name!r} cannot be exported: it has no ONNX form; give it one (onnx=...) "
                         "where it is registered.")
    if isinstance(form, str):
        return graph.add(form, x)
    p = torch.from_numpy(step.parameters).T
    return form(graph, x, p.reshape(*p.shape, *[1] * dims)) if len(p) else form(graph, x)
