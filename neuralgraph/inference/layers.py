"""Ordinary models compiled: their sparse layers by kernels of this library, the rest by torch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from .. import kernels
from ..errors import InputError
from ..plan.capturing import capture
from ..plan.layers import Call, Convolution, LayerPlan, Pool, Size, Step, leaves, size_at, with_leaves

if kernels.AVAILABLE:
    from ..kernels import layers as program
    from ..kernels.launch import GRAIN, Crowds, team_size
    from .convolving import Convolving, Pooling, sides_of
    from .layout import popped

KEPT = 16  # numbers of samples and threads whose layouts are kept
DENSE = 0.2  # of its weights has a layer that is left to torch, which is five times as fast by the multiplication
DENSE_FOURS = 0.6  # the same where four outputs read the same
FEW = 8  # channels that an output of a convolution reads, below which torch is not fast either
ALIGNMENT = 64  # bytes
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}  # of the largest output


class CompiledLayers(nn.Module):
    """A copy of an ordinary model for inference on the CPU, whose sparse layers do no more than their edges ask for.

    Takes what the model takes, for any number of samples; results equal those of ``model.eval()`` to rounding. A
    shape of other sizes than the example's is captured when it is first seen. The copy does not follow later changes
    of the model.

    Args:
        model: without sparse layers of this library (see :func:`neuralgraph.densify`).
        example: its arguments, tensors whose first dimension is the batch.
    """

    def __init__(self, model: nn.Module, example: tuple[torch.Tensor, ...]):
        super().__init__()
        if not kernels.AVAILABLE:
            raise InputError("a compiled model needs numba, which is not installed or switched off: pip install numba.")
        self._name = type(model).__name__
        self._dtype = _dtype(model)
        self._check_example(example)
        model = _copied(model).eval().requires_grad_(False).cpu()
        self._model = [model]  # in a list: it is no part of this module
        self._dtypes = [x.dtype for x in example]
        self._ranks = [x.dim() for x in example]
        self._crowds = Crowds()
        self._plans: dict[tuple, list[LayerPlan]] = {}
        self._layouts: dict[tuple, _LayersLayout] = {}  # the least recently used first
        self.eval()
        example = tuple(x.detach().cpu() for x in example)
        self.summary = _summary(self._plan(example))
        self._compare(example)

    def forward(self, *inputs: torch.Tensor) -> Any:
        self._check(inputs)
        return self._computed(inputs)

    @torch.compiler.disable  # numbers leave torch by their addresses
    @torch.no_grad()
    def _computed(self, inputs: tuple[torch.Tensor, ...]) -> Any:
        batch = len(inputs[0])
        if batch == 0:
            one = self._computed(tuple(x.new_zeros(1, *x.shape[1:]) for x in inputs))
            return pytree.tree_map_only(torch.Tensor, lambda y: y[:0], one)
        plan = self._plan(inputs)
        with self._crowds.run((id(plan), batch, torch.get_num_threads())):
            return self._laid_out(plan, batch).run(inputs)

    def _laid_out(self, plan: LayerPlan, batch: int) -> _LayersLayout:
        key = id(plan), batch, torch.get_num_threads()
        layout = self._layouts.pop(key, None)
        if layout is None:
            layout = _LayersLayout(plan, batch, torch.get_num_threads())
        self._layouts[key] = layout
        if len(self._layouts) > KEPT:
            self._layouts.pop(next(iter(self._layouts)), None)
        return layout

    def _check_example(self, example: tuple) -> None:
        for x in example:
            if not isinstance(x, torch.Tensor) or x.dim() < 1 or not x.numel():
                got = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
                raise InputError(f"expected tensors of at least one sample as the example of {self._name}'s input, got {got}.")
        if not example or len({len(x) for x in example}) > 1:
            raise InputError("expected an example of at least one tensor, all of as many samples, got "
                             f"{[len(x) for x in example]}.")

    @torch.no_grad()
    def _compare(self, example: tuple[torch.Tensor, ...]) -> None:
        """Raises InputError where the compiled model does not do what the model does."""
        expected, got = (pytree.tree_leaves(model(*example)) for model in (self._model[0], self))
        for place, (a, b) in enumerate(zip(expected, got)):
            if isinstance(a, torch.Tensor) and a.is_floating_point() and a.numel():
                scale = a.abs().nan_to_num(0, 0, 0).max().item()
                near = torch.isclose(a, b, rtol=0, atol=TOLERANCE[self._dtype] * max(scale, 1e-30), equal_nan=True)
                if not near.all():
                    raise InputError(f"cannot compile this {self._name}: its output {place} does not repeat; what is compiled "
                                     f"differs by up to {(a - b).abs().max().item():.2g} of {scale:.2g}.")

    def _check(self, inputs: tuple) -> None:
        expected = f"this compiled {self._name} takes {len(self._dtypes)} tensors on the CPU"
        if len(inputs) != len(self._dtypes):
            raise InputError(f"{expected}, got {len(inputs)} arguments.")
        for number, (x, dtype, rank) in enumerate(zip(inputs, self._dtypes, self._ranks)):
            if not isinstance(x, torch.Tensor) or x.dtype != dtype or x.dim() != rank or x.device.type != "cpu" or \
                    0 in x.shape[1:]:
                got = f"{x.dtype} {tuple(x.shape)} on {x.device}" if isinstance(x, torch.Tensor) else type(x).__name__
                raise InputError(f"{expected}; argument {number} is expected to be {dtype} with {rank} dimensions, none of "
                                 f"them empty, got {got}.")
            if len(x) != len(inputs[0]):
                raise InputError(f"{expected} of as many samples each, got {[len(x) for x in inputs]}.")
            if torch.is_grad_enabled() and x.requires_grad:
                raise InputError("a compiled model has no gradients: use torch.no_grad(), or the model it was compiled "
                                 "from.")

    def _plan(self, inputs: Sequence[torch.Tensor]) -> LayerPlan:
        """The plan for inputs of these shapes."""
        batch = len(inputs[0])
        known = self._plans.setdefault(tuple(tuple(x.shape[1:]) for x in inputs), [])
        for plan in known:
            first, last = plan.batch
            if first <= batch and (last is None or batch <= last):
                return plan
        try:
            known.append(capture(self._model[0], inputs, self._dtype))
        except InputError as error:
            if len(self._plans) == 1:
                raise
            raise InputError(f"for inputs of shapes {[tuple(x.shape) for x in inputs]}: {error}") from error
        return known[-1]

    def train(self, mode: bool = True) -> CompiledLayers:
        if mode:
            raise InputError("a compiled model cannot be trained; train the model it was compiled from.")
        return super().train(mode)

    def extra_repr(self) -> str:
        return f"{self._name}: {self.summary}"

    def __getstate__(self):
        return {**self.__dict__, "_layouts": {}, "_plans": {}}  # addresses mean nothing elsewhere

    def __deepcopy__(self, memo) -> CompiledLayers:
        new = CompiledLayers.__new__(CompiledLayers)
        nn.Module.__init__(new)
        new.__dict__.update(self.__dict__, _layouts={}, _crowds=Crowds())
        memo[id(self)] = new
        return new


def _copied(model: nn.Module) -> nn.Module:
    """A copy, also of a model that keeps tensors it has computed, as ``torch.nn.utils.prune`` does."""
    computed = {id(value): value.detach().clone() for module in model.modules() for value in vars(module).values()
                if isinstance(value, torch.Tensor) and not value.is_leaf}
    return copy.deepcopy(model, computed)


def _dtype(model: nn.Module) -> torch.dtype:
    kinds = {p.dtype for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()}
    if len(kinds) > 1 or not kinds <= set(TOLERANCE):
        raise InputError(f"can compile models of float32 or of float64, but this {type(model).__name__} is of "
                         f"{', '.join(sorted(map(str, kinds)))}: use model.float().")
    return next(iter(kinds), torch.float32)


def _summary(plan: LayerPlan) -> str:
    layers = [step for step in plan.steps if isinstance(step, Convolution)]
    sparse = [step for step in layers if is_sparse(step)]
    edges = sum(np.count_nonzero(step.weight) for step in sparse)
    calls = sum(isinstance(step, Call) and not step.is_view for step in plan.steps)
    return (f"{len(sparse)} layers by their {edges} edges, {len(layers) - len(sparse)} dense layers and {calls} other "
            "operations by torch")


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


class _LayersLayout:
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

    def run(self, inputs: tuple[torch.Tensor, ...]) -> Any:
        workspace = popped(self.free) or self._workspace()
        memory, private, code, own = workspace
        values: dict[Step, torch.Tensor] = dict(own)
        for step in self.plan.inputs:
            values[step] = inputs[step.number].detach()
        taken = np.zeros(len(code), np.int64)
        for action in self.actions:
            if isinstance(action, _Torch):
                values[action.step] = action.compute(values)
                continue
            for number, name, source in action.patches:
                values[source] = values[source].contiguous()
                code[name][number] = values[source].data_ptr()
            barrier = np.zeros(2, np.int64)
            program.run(self.plan.dtype, action.team, program.run.fields(
                team=action.team, code=code.ctypes.data, begin=action.begin, end=action.end, private=private.data_ptr(),
                private_size=private.shape[1], barrier=barrier.ctypes.data, taken=taken.ctypes.data))
        low, high = memory.data_ptr(), memory.data_ptr() + memory.nbytes
        results = []
        for output in self.plan.outputs:
            result = values[output] if isinstance(output, Step) else output
            if isinstance(result, torch.Tensor) and (low <= result.data_ptr() < high or not isinstance(output, Step)):
                result = result.clone()
            results.append(result)
        self.free.append(workspace)
        return pytree.tree_unflatten(results, self.plan.tree)


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
