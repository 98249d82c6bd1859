"""Finds what would make the plan of an ordinary model dangerous to run."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import sympy
import torch

from .checking import LARGEST, MOST, REAL, must
from .layers import BATCH, Call, Convolution, Input, LayerPlan, Pool, Size, Step


def checked_layers(plan: LayerPlan) -> LayerPlan:
    """The plan, if it is one.

    Arrays have the type and shape they should, a step reads earlier ones only, and the shapes of what sparse layers and
    poolings read and make fit their settings. So kernels stay in their own memory; what torch computes between them is
    compared with the shape that the plan says when it is run.

    Raises:
        InputError: that says what is wrong.
    """
    must(plan.dtype in REAL, f"numbers are {plan.dtype}")
    first, last = plan.batch
    must(_is_number(first, 1) and (last is None or _is_number(last, first)), f"it is for {plan.batch} samples")
    must(bool(plan.inputs), "it has no inputs")
    for number, given in enumerate(plan.inputs):
        must(type(given) is Input and given.number == number, f"argument {number} is missing")
        _check_shape(given.shape)
        must(bool(given.shape) and given.shape[0] == (BATCH if last is None else first) and
             all(isinstance(side, int) for side in given.shape[1:]), f"argument {number} has the shape {given.shape}")
    known: set[Step] = set(plan.inputs)
    must(len(known) == len(plan.inputs), "an argument stands twice")
    for step in plan.steps:
        must(step not in known, f"the step {step.name!r} stands twice")
        must(all(source in known for source in step.sources), f"{step.name!r} is computed before what it reads")
        _check_shape(step.shape)
        if isinstance(step, Convolution):
            _check_convolution(step, plan.dtype)
        elif isinstance(step, Pool):
            _check_pool(step)
        else:
            must(isinstance(step, Call), f"{step.name!r} is no step")
        known.add(step)
    for output in plan.outputs:
        must(output in known if isinstance(output, Step) else
             output is None or isinstance(output, (torch.Tensor, bool, int, float, str, sympy.Expr)), "a result is missing")
    return plan


def _check_shape(shape: tuple[Size, ...]) -> None:
    must(isinstance(shape, tuple) and all(isinstance(side, sympy.Expr) or _is_number(side, 0) for side in shape),
         f"a shape is {shape!r}")


def _check_convolution(step: Convolution, dtype: torch.dtype) -> None:
    weight, source, name = step.weight, step.source.shape, f"the layer {step.name!r}"
    must(isinstance(weight, np.ndarray) and weight.ndim == 4 and weight.dtype == REAL[dtype] and weight.size > 0,
         f"{name} has no weights")
    outputs, per_group, *kernel = weight.shape
    must(isinstance(step.bias, np.ndarray) and step.bias.shape == (outputs,) and step.bias.dtype == REAL[dtype],
         f"the bias of {name} does not fit")
    must(_is_number(step.groups, 1) and outputs % step.groups == 0, f"{name} has {step.groups!r} groups")
    must(type(step.slope) is float and math.isfinite(step.slope) and type(step.limit) is float and step.limit >= 0,
         f"the activation of {name} is {step.slope!r}, {step.limit!r}")
    must(type(step.is_linear) is bool, f"{name} is of no kind")
    for settings, least in ((step.stride, 1), (step.padding, 0), (step.dilation, 1)):
        must(_are_pair(settings, least), f"{name} has the settings {settings!r}")
    must(step.added is None or step.added.shape == step.shape, f"what is added to {name} does not fit")
    if step.is_linear:
        plain = kernel == [1, 1] and step.groups == 1 and step.stride == step.dilation == (1, 1) and step.padding == (0, 0)
        must(plain and len(source) > 0 and source[-1] == per_group and step.shape == (*source[:-1], outputs),
             f"the shapes of {name} do not fit")
        return
    dims = len(source) - 2
    must(dims in (1, 2) and len(step.shape) == len(source) and source[1] == per_group * step.groups and
         step.shape[:2] == (source[0], outputs), f"the shapes of {name} do not fit")
    must(dims == 2 or (kernel[0], step.stride[0], step.padding[0], step.dilation[0]) == (1, 1, 0, 1),
         f"{name} has two dimensions, its maps have one")
    _check_sides(name, source[2:], step.shape[2:], [
        {(side + 2 * before + more - dilation * (taps - 1) - 1) // stride + 1 for more in (0, 1)}
        for side, before, dilation, taps, stride in zip(_sides(name, source[2:]), step.padding[-dims:], step.dilation[-dims:],
                                                        kernel[-dims:], step.stride[-dims:])])


def _check_pool(step: Pool) -> None:
    source, name = step.source.shape, f"the pooling {step.name!r}"
    must(len(source) == 4, f"the shapes of {name} do not fit")
    for settings, least in ((step.kernel, 1), (step.stride, 1), (step.padding, 0)):
        must(_are_pair(settings, least), f"{name} has the settings {settings!r}")
    must(all(2 * before <= taps for before, taps in zip(step.padding, step.kernel)), f"{name} has a border of whole windows")
    must(type(step.is_mean) is bool and _is_number(step.divisor, 0), f"{name} is of no kind")
    must(step.shape[:2] == source[:2], f"the shapes of {name} do not fit")
    sides = _sides(name, source[2:])
    if len(step.shape) == 2:  # of whole maps
        must(step.kernel == sides and step.padding == (0, 0), f"the shapes of {name} do not fit")
        return
    _check_sides(name, source[2:], step.shape[2:], [
        {(side + 2 * before - taps) // stride + 1} for side, before, taps, stride in
        zip(sides, step.padding, step.kernel, step.stride)])


def _sides(name: str, sides: Iterable[Size]) -> tuple[int, ...]:
    found = tuple(side for side in sides if isinstance(side, int))
    must(len(found) == len(tuple(sides)) and all(side > 0 for side in found), f"the maps of {name} are of no size")
    return found


def _check_sides(name: str, source: tuple[Size, ...], result: tuple[Size, ...], possible: list[set[int]]) -> None:
    must(len(result) == len(possible) and all(isinstance(side, int) and side > 0 and side in sizes
                                              for side, sizes in zip(result, possible)),
         f"{name} cannot make maps of {result} pixels of such of {source}")


def _is_number(value: object, least: int) -> bool:
    return type(value) is int and least <= value < MOST


def _are_pair(value: object, least: int) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(_is_number(side, least) and side < LARGEST for side in value)
