"""Finds what would make a plan wrong or dangerous to run."""

from __future__ import annotations

import math
from typing import TypeGuard

import numpy as np
import torch

from ..errors import InputError
from ..nodes import Affine, Convolve, Lowered, Normalize, Pointwise, scalar
from .plan import Group, Plan

REAL = {torch.float32: np.float32, torch.float64: np.float64}
LARGEST = 2**15   # strides and sides of kernels are below it
MOST = 2**31      # levels, channels and products of strides are below it


def checked(plan: Plan) -> Plan:
    """The plan, if it is one.

    Every array has the type and shape it should, every number is finite and in its bounds, edges lead from
    nodes of one level to nodes of a later one with maps of equal size, inputs and outputs exist, and what is
    read was written. So an engine that follows the plan stays in its own memory.

    Raises:
        InputError: that says what is wrong.
    """
    _check_plan(plan)
    _check_order(plan)
    return plan


def must(holds: bool, what: str) -> None:
    if not holds:
        raise InputError(f"this is no plan: {what}.")


def _check_plan(plan: Plan) -> None:
    must(plan.dtype in REAL, f"numbers are {plan.dtype}")
    must(plan.dims in range(4), f"maps have {plan.dims!r} dimensions")
    for name in ("num_inputs", "num_outputs", "output_scale"):
        must(_is_number(getattr(plan, name), 1), f"{name} is {getattr(plan, name)!r}")
    for name in ("src", "dst"):
        must(_is_array(getattr(plan, name), np.int64), f"{name} is missing or of a wrong type")
    must(_is_array(plan.weight, REAL[plan.dtype]), "weight is missing or of a wrong type")
    must(len(plan.src) == len(plan.dst) == len(plan.weight), "edges differ in number")
    must(bool(np.isfinite(plan.weight).all()), "a weight is not finite")
    must(not {id(g) for g in plan.before} & {id(g) for g in plan.groups}, "a group stands twice")
    for group in (*plan.before, *plan.groups):
        _check_group(plan, group, is_before=any(group is other for other in plan.before))


def _check_group(plan: Plan, group: Group, is_before: bool) -> None:
    count = len(group.nodes) if _is_array(group.nodes, np.int64) else 0
    must(count > 0, "a group has no nodes")
    must(group.kind in ("input", "sum", "product"), f"a group is of the kind {group.kind!r}")
    must(_is_number(group.level, 0), f"a level is {group.level!r}")
    must(_is_number(group.scale, 1), f"a scale is {group.scale!r}")
    must(isinstance(group.steps, list), "steps are no list")
    for step in group.steps:
        _check_step(plan, step, count)
    must(group.scale * group.stride < MOST, "strides are too large")
    if group.kind == "input":
        must(_are_channels(group.channels, count, plan.num_inputs), "channels of the data do not fit")
        must(group.scale == 1 and not is_before, "an input has a scale, or does not depend on the data")
    else:
        must(group.channels is None, "a node that is no input reads the data")
    if group.outputs is not None:
        must(_are_channels(group.outputs, count, plan.num_outputs), "channels of the result do not fit")
        must(group.scale * group.stride == plan.output_scale, "outputs differ in size")
        must(not is_before, "an output does not depend on the data")


def _check_step(plan: Plan, step: Lowered, count: int) -> None:
    real = REAL[plan.dtype]
    if isinstance(step, (Affine, Normalize)):
        for values in (step.scale, step.shift):
            must(_is_array(values, real, (count,)), f"a step {step.kind!r} does not fit its nodes")
        must(not (isinstance(step, Normalize) and plan.dims == 0), "a number has no moments")
        epsilon = getattr(step, "epsilon", 1.0)
        must(isinstance(epsilon, float) and 0 < epsilon < math.inf, f"epsilon is {epsilon!r}")
    elif isinstance(step, Pointwise):
        must(isinstance(step.name, str), f"a function has the name {step.name!r}")
        scalar(step.name)  # which names what is not registered
        values = step.parameters
        must(isinstance(values, np.ndarray) and values.ndim == 2 and len(values) == count
             and (values.size == 0 or values.dtype == real) and bool(np.isfinite(values).all()),
             f"the values of {step.name!r} do not fit its nodes")
    elif isinstance(step, Convolve):
        kernel = step.kernel
        side = kernel.shape[-1] if isinstance(kernel, np.ndarray) and kernel.ndim > 1 else 0
        must(plan.dims > 0 and side % 2 == 1 and side < LARGEST
             and _is_array(kernel, real, (count, *[side] * plan.dims)), "a kernel does not fit its nodes")
        must(_is_number(step.stride, 1) and step.stride < LARGEST, f"a stride is {step.stride!r}")
        must(isinstance(step.zero_pad, bool), f"zero_pad is {step.zero_pad!r}")
    else:
        must(False, f"{step!r} is no step")


def _check_order(plan: Plan) -> None:
    src, dst, groups = plan.src, plan.dst, [*plan.before, *plan.groups]
    every = np.concatenate([np.zeros(0, np.int64), *(g.nodes for g in groups)])
    must(bool((every >= 0).all()) and len(np.unique(every)) == len(every), "nodes are not distinct")
    most = 10 * (len(every) + len(src)) + 10**6  # numbers of nodes may have gaps, but not any
    must(not len(every) or int(every.max()) < most, "numbers of nodes are too large")
    must(bool(np.isin(src, every).all() and np.isin(dst, every).all()), "an edge ends nowhere")
    must(bool((np.diff(dst) >= 0).all()), "edges are not sorted")
    size = int(every.max()) + 1 if len(every) else 0
    must(len(np.unique(dst * size + src)) == len(src), "an edge is there twice")
    results = np.concatenate([np.zeros(0, np.int64), *(g.outputs for g in groups if g.outputs is not None)])
    must(len(np.unique(results)) == len(results), "an output is there twice")
    level, enters, leaves = (np.zeros(size, np.int64) for _ in range(3))
    is_before, is_read, is_input = (np.zeros(size, bool) for _ in range(3))
    for number, group in enumerate(groups):
        level[group.nodes], enters[group.nodes] = group.level, group.scale
        leaves[group.nodes] = group.scale * group.stride
        is_before[group.nodes] = number < len(plan.before)
        is_read[group.nodes], is_input[group.nodes] = group.outputs is not None, group.kind == "input"
    for which in (plan.before, plan.groups):
        must(all(a.level <= b.level for a, b in zip(which, which[1:])), "levels are not sorted")
    must(not is_input[dst].any(), "an edge ends in an input")
    must(bool((leaves[src] == enters[dst]).all()), "maps differ in size")
    must(not is_read[src].any(), "an output is read by a node")
    earlier = np.where(is_before[dst] == is_before[src], level[src] < level[dst], is_before[src])
    must(bool(earlier.all()), "a node is read before it is computed")


def _is_number(value: object, least: int) -> bool:
    return type(value) is int and least <= value < MOST


def _is_array(value: object, dtype, shape: tuple[int, ...] | None = None) -> TypeGuard[np.ndarray]:
    return isinstance(value, np.ndarray) and value.dtype == dtype and \
        (value.ndim == 1 if shape is None else value.shape == shape) and \
        (value.dtype.kind != "f" or bool(np.isfinite(value).all()))


def _are_channels(channels: object, count: int, most: int) -> bool:
    return _is_array(channels, np.int64, (count,)) and bool(((channels >= 0) & (channels < most)).all())
