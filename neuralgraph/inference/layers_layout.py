"""Compiled layers laid out for one number of samples: where tensors are, and what is run in which order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..errors import InputError
from ..kernels import layers as program
from ..kernels.launch import GRAIN, team_size
from ..plan.layers import Call, Convolution, Input, LayerPlan, Pool, Size, Step, leaves, size_at, with_leaves
from ..wiring.devices import on_cpu
from .convolving import Convolving, Pooling, sides_of
from .rows import popped

DENSE = 0.2  # of its weights has a layer that is left to torch, which is five times as fast by the multiplication
DENSE_FOURS = 0.6  # the same where four outputs read the same
FEW = 8  # channels that an output of a convolution reads, below which torch is not fast either
ALIGNMENT = 64  # bytes


def is_sparse(step: Convolution) -> bool:
    """Whether a layer is computed edge by edge, and not by torch."""
    few = step.weight.shape[1] < FEW
    return few and not step.is_linear or step.density < (DENSE if step.fours is None else DENSE_FOURS)


@dataclass
class _Native:
    """Instructions begin..end, one after the other, and the places of addresses that are not known before."""

    begin: int
    end: int
    team: int
    patches: list[tuple[int, str, Step]]


@dataclass
class _Torch:
    """A call of torch, or a dense layer of it."""

    step: Step
    compute: Callable[[dict[Step, torch.Tensor]], torch.Tensor]


class LayersLayout:
    """A plan for one number of samples: where tensors are, and what is run in which order."""

    def __init__(self, plan: LayerPlan, batch: int, threads: int):
        self.plan, self.batch, self.threads = plan, batch, threads
        self.shapes = {step: tuple(size_at(size, batch) for size in step.shape) for step in (*plan.inputs, *plan.steps)}
        self.native: dict[Step, Convolving | Pooling] = {}
        for step in plan.steps:
            if isinstance(step, Pool):
                self.native[step] = Pooling(step, self.shapes[step.source], self.shapes[step], plan.dtype, threads)
            elif isinstance(step, Convolution) and is_sparse(step):
                self.native[step] = Convolving(step, self.shapes[step.source], self.shapes[step], plan.dtype, threads)
        self.places, self.size = self._places()
        self.private = max((c.private for c in self.native.values()), default=0)
        self.actions = self._actions()
        self.code = np.zeros(len(self.native), program.INSTRUCTION)
        for record, instruction in zip(self.code, self.native.values()):
            instruction.write(record)
        calls = [(step.arguments, step.options) for step in plan.steps if isinstance(step, Call)]
        self.constants = {_storage(leaf) for leaf in leaves((plan.outputs, calls)) if isinstance(leaf, torch.Tensor)}
        self.free: list[tuple[torch.Tensor, torch.Tensor, np.ndarray, dict[Step, torch.Tensor]]] = []

    def _places(self) -> tuple[dict[Step, int], int]:
        """Where the results of sparse layers begin in the workspace, in numbers, and its size.

        A place is used again when all that reads it, or a view of it, is done.
        """
        steps = self.plan.steps
        last = {step: number for number, step in enumerate(steps)}
        for output in self.plan.outputs:
            last[output] = len(steps)
        for number in reversed(range(len(steps))):
            step = steps[number]
            until = last[step] if isinstance(step, Call) and step.is_view else number
            for source in step.sources:
                last[source] = max(last.get(source, 0), until)
        unit = ALIGNMENT // self.plan.dtype.itemsize
        places: dict[Step, int] = {}
        live: list[tuple[int, int, int]] = []  # begin, end, the last step that reads it
        size = 0
        for number, step in enumerate(steps):
            if step not in self.native:
                continue
            live = sorted(one for one in live if one[2] >= number)
            need, begin = -(-math.prod(self.shapes[step]) // unit) * unit, 0
            for first, end, _ in live:
                if first - begin >= need:
                    break
                begin = max(begin, end)
            places[step] = begin
            live.append((begin, begin + need, last[step]))
            size = max(size, begin + need)
        return places, size

    def _actions(self) -> list[_Native | _Torch]:
        actions: list[_Native | _Torch] = []
        number, most = 0, team_size()
        for step in self.plan.steps:
            if step not in self.native:
                compute = self._dense(step) if isinstance(step, Convolution) else self._called(step)
                actions.append(_Torch(step, compute))
                continue
            team = min(most, self.threads, 1 + self.native[step].work // GRAIN)
            before = actions[-1] if actions else None
            if not isinstance(before, _Native):
                before = _Native(number, number, 1, [])
                actions.append(before)
            before.end, before.team = number + 1, max(before.team, team)
            for name, source in (("x", self.native[step].step.source), ("other", getattr(step, "added", None))):
                if source is not None and source not in self.native:
                    before.patches.append((number, name, source))
            number += 1
        return actions

    def _dense(self, step: Convolution) -> Callable[[dict[Step, torch.Tensor]], torch.Tensor]:
        weight, bias = torch.from_numpy(step.weight), torch.from_numpy(step.bias)
        shape = self.shapes[step]
        source, added = step.source, step.added
        settings = step.stride, step.padding, step.dilation, step.groups
        after = _after(step, self.shapes[step.source], shape)
        flat = weight[:, :, 0, 0].contiguous() if step.is_linear else weight
        one_sided = not step.is_linear and len(shape) == 3

        def compute(values: dict[Step, torch.Tensor]) -> torch.Tensor:
            x = values[source]
            if step.is_linear:
                y = nn.functional.linear(x, flat, bias)
            else:
                if one_sided:
                    x = x.unsqueeze(2)
                if after is not None:
                    x = nn.functional.pad(x, after)
                stride, padding, dilation, groups = settings
                y = torch.conv2d(x, weight, bias, stride, (0, 0) if after is not None else padding, dilation, groups)
                if one_sided:
                    y = y.squeeze(2)
            if added is not None:
                y = y.add_(values[added])
            if step.slope != 1:
                y = torch.relu_(y) if step.slope == 0 else nn.functional.leaky_relu_(y, step.slope)
            return y if step.limit == math.inf else y.clamp_(max=step.limit)
        return compute

    def _called(self, step: Step) -> Callable[[dict[Step, torch.Tensor]], torch.Tensor]:
        assert isinstance(step, Call)

        def fixed(leaf: Any) -> Any:
            return leaf if isinstance(leaf, (Step, torch.Tensor)) or not isinstance(leaf, Size) or isinstance(leaf, bool) \
                else size_at(leaf, self.batch)

        arguments, options, function = with_leaves(step.arguments, fixed), with_leaves(step.options, fixed), step.function
        if all(not isinstance(leaf, Step) for leaf in leaves((arguments[1:], options))) and arguments and \
                isinstance(arguments[0], Step):
            source, rest = arguments[0], arguments[1:]
            return lambda values: function(values[source], *rest, **options)

        def compute(values: dict[Step, torch.Tensor]) -> torch.Tensor:
            def filled(leaf: Any) -> Any:
                return values[leaf] if isinstance(leaf, Step) else leaf
            return function(*with_leaves(arguments, filled), **with_leaves(options, filled))
        return compute

    @on_cpu
    def _workspace(self):
        """Memory for one run at a time, and what stands in it."""
        unit = ALIGNMENT // self.plan.dtype.itemsize
        memory = torch.empty(self.size + unit, dtype=self.plan.dtype)
        skip = -memory.data_ptr() % ALIGNMENT // self.plan.dtype.itemsize
        private = torch.empty(self.threads, self.private + unit, dtype=self.plan.dtype)
        code, values = self.code.copy(), {}
        for record, (step, native) in zip(code, self.native.items()):
            source, added = native.step.source, getattr(step, "added", None)
            begin = skip + self.places[step]
            values[step] = memory[begin:begin + math.prod(self.shapes[step])].view(self.shapes[step])
            record["out"] = values[step].data_ptr()
            if source in self.native:
                record["x"] = values[source].data_ptr()
            if added in self.native:
                record["other"] = values[added].data_ptr()
        return memory, private, code, values

    def _expected(self, step: Step, x: torch.Tensor) -> torch.Tensor:
        """What a kernel may read at its address."""
        if not isinstance(x, torch.Tensor) or x.shape != self.shapes[step] or x.dtype != self.plan.dtype or \
                x.device.type != "cpu" or x.layout != torch.strided:
            got = f"{x.dtype} {tuple(x.shape)} on {x.device}" if isinstance(x, torch.Tensor) else type(x).__name__
            raise InputError(f"expected {self.plan.dtype} {self.shapes[step]} on the CPU of {step.name!r}, got {got}.")
        return x.contiguous()

    def run(self, inputs: tuple[torch.Tensor, ...]) -> Any:
        workspace = popped(self.free) or self._workspace()
        memory, private, code, own = workspace
        values: dict[Step, torch.Tensor] = dict(own)
        for step in self.plan.inputs:
            values[step] = inputs[step.number].as_subclass(torch.Tensor).detach()
        taken = np.zeros(len(code), np.int64)
        for action in self.actions:
            if isinstance(action, _Torch):
                values[action.step] = action.compute(values)
                continue
            for number, name, source in action.patches:
                values[source] = x = self._expected(source, values[source])
                code[name][number] = x.data_ptr()
            barrier = np.zeros(2, np.int64)
            program.run(self.plan.dtype, action.team, program.run.fields(
                team=action.team, code=code.ctypes.data, begin=action.begin, end=action.end, private=private.data_ptr(),
                private_size=private.shape[1], barrier=barrier.ctypes.data, taken=taken.ctypes.data))
        results, taken_over = [], {*self.constants, _storage(memory)}  # results are the caller's
        for output in self.plan.outputs:
            result = values[output] if isinstance(output, Step) else output
            if isinstance(result, Size) and not isinstance(result, bool):
                result = size_at(result, self.batch)
            elif isinstance(result, torch.Tensor):
                if _storage(result) in taken_over:
                    result = result.clone()
                if not isinstance(output, Input):
                    taken_over.add(_storage(result))
            results.append(result)
        self.free.append(workspace)
        return pytree.tree_unflatten(results, self.plan.tree)


def _storage(x: torch.Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _after(step: Convolution, source: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """Padding for torch where it is not the same on both sides: left, right, top, bottom; otherwise None."""
    if step.is_linear:
        return None
    sides, results = sides_of(source), sides_of(shape)
    ends = [(result - 1) * stride + dilation * (kernel - 1) + 1 - side - before for result, stride, dilation, kernel, side,
            before in zip(results, step.stride, step.dilation, step.weight.shape[2:], sides, step.padding)]
    if all(end <= before for end, before in zip(ends, step.padding)):
        return None
    return step.padding[1], max(ends[1], 0), step.padding[0], max(ends[0], 0)
