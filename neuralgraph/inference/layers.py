"""Ordinary models compiled: their sparse layers by kernels of this library, the rest by torch."""

from __future__ import annotations

import copy
import math
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from .. import kernels
from .._torch import not_compiled
from ..errors import InputError
from ..plan.capturing import capture
from ..plan.layers import Call, Convolution, LayerPlan, Size, Step, size_at
from ..wiring.devices import on_cpu
from .inputs import check_numbers, check_stays

if kernels.AVAILABLE:
    from ..kernels.launch import Crowds
    from .layers_layout import LayersLayout, is_sparse

KEPT = 16  # numbers of samples and threads whose layouts are kept
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}  # of the largest output

_capturing = threading.Lock()


def _after_fork() -> None:
    global _capturing
    _capturing = threading.Lock()  # whoever held it is not in the copy of the process


os.register_at_fork(after_in_child=_after_fork)


class CompiledLayers(nn.Module):
    """A copy of an ordinary model for inference on the CPU, whose sparse layers do no more than their edges ask for.

    Takes what the model takes, for any number of samples; results equal those of ``model.eval()`` to rounding. A
    shape of other sizes than the example's is captured when it is first seen; one that was read from a file takes the
    sizes that are in the file. The copy does not follow later changes of the model. Results share no memory with the
    model or with each other.

    Args:
        model: without sparse layers of this library (see :func:`neuralgraph.densify`).
        example: its arguments, tensors whose first dimension is the batch.
    """

    def __init__(self, model: nn.Module, example: tuple[torch.Tensor, ...]):
        name, dtype = type(model).__name__, _dtype(model)
        _check_example(name, example)
        check_numbers(*example)
        self._begin(name, dtype, [x.dtype for x in example], [x.dim() for x in example])
        self._model.append(_copied(model))
        example = tuple(x.detach().cpu() for x in example)
        self.summary = _summary(self._plan(example))
        self._compare(example)

    @classmethod
    def _of_plans(cls, name: str, dtypes: list[torch.dtype], plans: list[LayerPlan]) -> CompiledLayers:
        """One without a model: for inputs of the sizes that there are plans for."""
        new = cls.__new__(cls)
        new._begin(name, plans[0].dtype, dtypes, [len(given.shape) for given in plans[0].inputs])
        for plan in plans:
            new._plans.setdefault(tuple(tuple(given.shape[1:]) for given in plan.inputs), []).append(plan)
        new.summary = _summary(plans[0])
        return new

    def _begin(self, name: str, dtype: torch.dtype, dtypes: list[torch.dtype], ranks: list[int]) -> None:
        nn.Module.__init__(self)
        if not kernels.AVAILABLE:
            raise InputError("a compiled model needs numba, which is not installed or switched off: pip install numba.")
        self._name, self._dtype, self._dtypes, self._ranks = name, dtype, dtypes, ranks
        self._model: list[nn.Module] = []  # of one or none; in a list: it is no part of this module
        self._crowds = Crowds()
        self._plans: dict[tuple, list[LayerPlan]] = {}
        self._layouts: dict[tuple, LayersLayout] = {}  # the least recently used first
        self.eval()

    def forward(self, *inputs: torch.Tensor, **named: Any) -> Any:
        if named:
            raise InputError(f"this compiled {self._name} takes its arguments by place, got {', '.join(named)} by name.")
        self._check(inputs)
        return self._computed(inputs)

    @not_compiled  # numbers leave torch by their addresses
    @torch.no_grad()
    def _computed(self, inputs: tuple[torch.Tensor, ...]) -> Any:
        check_numbers(*inputs)
        batch = len(inputs[0])
        if batch == 0:
            return self._empty(tuple(x.new_zeros(1, *x.shape[1:]) for x in inputs))
        plan = self._plan(inputs)
        with self._crowds.run((id(plan), batch, torch.get_num_threads())):
            return self._laid_out(plan, batch).run(inputs)

    def _empty(self, one: tuple[torch.Tensor, ...]) -> Any:
        """The results of no samples, from those of one."""
        plan = self._plan(one)
        results, tree = pytree.tree_flatten(self._computed(one))
        for place, (output, result) in enumerate(zip(plan.outputs, results)):
            if isinstance(output, Step):
                known, shape = (tuple(size_at(size, batch) for size in output.shape) for batch in (1, 0))
                if math.prod(shape) or plan.batch[1] is not None or known != getattr(result, "shape", None):
                    raise InputError(f"this compiled {self._name} needs at least one sample: its result {place}, of shape "
                                     f"{tuple(getattr(result, 'shape', ()))}, is not one of samples.")
                results[place] = result.new_empty(shape)
            elif isinstance(output, Size):
                results[place] = size_at(output, 0)
        return pytree.tree_unflatten(results, tree)

    def _laid_out(self, plan: LayerPlan, batch: int) -> LayersLayout:
        key = id(plan), batch, torch.get_num_threads()
        layout = self._layouts.pop(key, None)
        if layout is None:
            layout = LayersLayout(plan, batch, torch.get_num_threads())
        self._layouts[key] = layout
        if len(self._layouts) > KEPT:
            self._layouts.pop(next(iter(self._layouts)), None)
        return layout

    @torch.no_grad()
    def _compare(self, example: tuple[torch.Tensor, ...]) -> None:
        """Raises InputError where the compiled model does not do what the model does."""
        try:  # twice: what counts its calls differs the second time
            results = [self._model[0](*example) for _ in range(2)]
        except Exception as error:
            raise InputError(f"this {self._name} cannot be run on its example: {type(error).__name__}: {error}") from error
        got, tree = pytree.tree_flatten(self(*example))
        for expected, arranged in map(pytree.tree_flatten, results):
            if arranged != tree:
                raise InputError(f"cannot compile this {self._name}: it returns {arranged}, what is compiled {tree}.")
            for place, (a, b) in enumerate(zip(expected, got)):
                self._compare_result(place, a, b)

    def _compare_result(self, place: int, a: Any, b: Any) -> None:
        what, facts = f"cannot compile this {self._name}: its output {place}", []
        for x in (a, b):
            facts.append(f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, torch.Tensor) else repr(x))
        if facts[0] != facts[1]:
            raise InputError(f"{what} is {facts[0]}, what is compiled gives {facts[1]}.")
        if isinstance(a, torch.Tensor) and a.is_floating_point() and a.numel():
            scale = a.abs().nan_to_num(0, 0, 0).max().item()
            near = torch.isclose(a, b, rtol=0, atol=TOLERANCE[self._dtype] * max(scale, 1e-30), equal_nan=True)
            if not near.all():
                raise InputError(f"{what} does not repeat; what is compiled differs by up to {(a - b).abs().max().item():.2g} "
                                 f"of {scale:.2g}.")

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
        sizes = tuple(tuple(x.shape[1:]) for x in inputs)
        plan = self._found(sizes, len(inputs[0]))
        if plan is not None:
            return plan
        if not self._model:
            raise InputError(f"this compiled {self._name} was read from a file, which holds it for inputs of "
                             f"{self._known()}, got {_shapes(inputs)}: compile the model again, and before it is saved call "
                             "what comes of it with inputs of all sizes that are needed.")
        with _capturing:  # torch.export runs once at a time
            plan = self._found(sizes, len(inputs[0]))
            if plan is not None:
                return plan
            try:
                plan = on_cpu(capture)(self._model[0], inputs, self._dtype)
            except InputError as error:
                if not self._plans:
                    raise
                raise InputError(f"for inputs of shapes {[tuple(x.shape) for x in inputs]}: {error}") from error
            self._plans.setdefault(sizes, []).append(plan)
            return plan

    def _found(self, sizes: tuple, batch: int) -> LayerPlan | None:
        """The plan that there is for inputs of these sizes and so many samples."""
        for plan in self._plans.get(sizes, []):
            first, last = plan.batch
            if first <= batch and (last is None or batch <= last):
                return plan
        return None

    def _known(self) -> str:
        """The shapes of inputs that there are plans for."""
        return " or ".join(_shapes([(size, *rest) for rest in sizes]) for sizes, plans in self._plans.items()
                           for size in dict.fromkeys("any" if plan.batch[1] is None else plan.batch[0] for plan in plans))

    def save(self, path: str | Path) -> None:
        """Writes a file that :func:`neuralgraph.inference.load` reads, for the sizes of inputs it has seen."""
        from .files import save
        save(self, path)

    def train(self, mode: bool = True) -> CompiledLayers:
        if mode:
            raise InputError("a compiled model cannot be trained; train the model it was compiled from.")
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        check_stays(self, fn, self._dtype)
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return f"{self._name}: {self.summary}"

    def __reduce_ex__(self, protocol):
        if self._model:
            return super().__reduce_ex__(protocol)
        from .files import from_bytes, to_bytes
        return from_bytes, (to_bytes(self),)

    def __getstate__(self):
        return {**self.__dict__, "_layouts": {}, "_plans": {}}  # addresses mean nothing elsewhere

    def __deepcopy__(self, memo) -> CompiledLayers:
        new = CompiledLayers.__new__(CompiledLayers)
        nn.Module.__init__(new)
        new.__dict__.update(self.__dict__, _layouts={}, _crowds=Crowds(),
                            _plans={sizes: [*plans] for sizes, plans in [*self._plans.items()]})
        memo[id(self)] = new
        return new


def _check_example(name: str, example: tuple) -> None:
    for x in example:
        if not isinstance(x, torch.Tensor) or x.dim() < 1 or not x.numel() or x.is_meta:
            got = f"shape {tuple(x.shape)} on {x.device}" if isinstance(x, torch.Tensor) else type(x).__name__
            raise InputError(f"expected tensors of at least one sample, with numbers, as the example of {name}'s input, got "
                             f"{got}.")
    if not example or len({len(x) for x in example}) > 1:
        raise InputError("expected an example of at least one tensor, all of as many samples, got "
                         f"{[len(x) for x in example]}.")


def _copied(model: nn.Module) -> nn.Module:
    """A copy, also of a model that keeps tensors it has computed, as ``torch.nn.utils.prune`` does."""
    computed = {id(value): value.detach().clone() for module in model.modules() for value in vars(module).values()
                if isinstance(value, torch.Tensor) and not value.is_leaf}
    try:
        return copy.deepcopy(model, computed).eval().requires_grad_(False).cpu()
    except Exception as error:
        raise InputError(f"cannot compile this {type(model).__name__}: no copy of it can be put on the CPU and into "
                         f"evaluation ({type(error).__name__}: {error}).") from error


def _dtype(model: nn.Module) -> torch.dtype:
    kinds = {p.dtype for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()}
    if len(kinds) > 1 or not kinds <= set(TOLERANCE):
        raise InputError(f"can compile models of float32 or of float64, but this {type(model).__name__} is of "
                         f"{', '.join(sorted(map(str, kinds)))}: use model.float().")
    return next(iter(kinds), torch.float32)


def _shapes(inputs: Sequence) -> str:
    """Shapes, or tensors, for messages."""
    return ", ".join("(" + ", ".join(map(str, getattr(x, "shape", x))) + ")" for x in inputs)


def _summary(plan: LayerPlan) -> str:
    layers = [step for step in plan.steps if isinstance(step, Convolution)]
    sparse = [step for step in layers if is_sparse(step)]
    edges = sum(np.count_nonzero(step.weight) for step in sparse)
    calls = sum(isinstance(step, Call) and not step.is_view for step in plan.steps)
    return (f"{len(sparse)} layers by their {edges} edges, {len(layers) - len(sparse)} dense layers and {calls} other "
            "operations by torch")
