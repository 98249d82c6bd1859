"""The steps of nodes as the compiled engine takes them: norm, activation, convolution, several at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from ..nodes import Affine, Convolve, Lowered, Normalize, Pointwise, scalar


@dataclass
class MapPass:
    """A norm, an activation and a convolution of some nodes, in this order, each optional."""

    norm: Affine | Normalize | None = None
    activation: Pointwise | None = None
    convolution: Convolve | None = None

    def takes(self, step: Lowered) -> bool:
        """Whether the step can be the next one; if so it is."""
        if self.convolution is not None:
            return False
        if isinstance(step, Convolve):
            self.convolution = step
        elif isinstance(step, Pointwise) and self.activation is None:
            self.activation = step
        elif isinstance(step, (Affine, Normalize)) and self.norm is None and self.activation is None:
            self.norm = step
        else:
            return False
        return True

    @property
    def shrinks(self) -> int:
        return 1 if self.convolution is None else self.convolution.shrinks


def passes_of(steps: list[Lowered]) -> list[MapPass]:
    """As few passes as the order of the steps allows."""
    passes: list[MapPass] = []
    for step in steps:
        if not (passes and passes[-1].takes(step)):
            passes.append(MapPass())
            passes[-1].takes(step)
    return passes


def taken(weight: np.ndarray, bias: np.ndarray, owner: np.ndarray, passes: list) -> tuple:
    """What sums take over of the passes after them: weights, biases, the slope below 0, and the passes that are left.

    Args:
        owner: the node of each weight, by its place in the group.
    """
    if not passes:
        return weight, bias, 1.0, passes
    (first, space), slope = passes[0], 1.0
    if isinstance(first.norm, Affine):
        scale = first.norm.scale.astype(np.float64)
        scaled = [weight * np.append(scale, np.zeros(3))[owner], bias * scale + first.norm.shift]
        if not all(_fits(values, weight.dtype) for values in scaled):
            return weight, bias, 1.0, passes
        (weight, bias), first = scaled, replace(first, norm=None)
    if first.norm is None and first.activation is not None and scalar(first.activation.name).slope is not None:
        slope, first = scalar(first.activation.name).slope, replace(first, activation=None)
    return weight, bias, slope, passes[1:] if first == MapPass() else [(first, space), *passes[1:]]


def _fits(values: np.ndarray, dtype: np.dtype) -> bool:
    """Whether another type holds the numbers to its rounding: none is too large, and none too small to be 0."""
    size = np.abs(values)
    return not ((size > np.finfo(dtype).max) | (size < np.finfo(dtype).tiny) & (size > 0)).any() and \
        bool(np.isfinite(values).all())


def check_compiles(steps: list[Lowered]) -> None:
    """Raises InputError for a function of which only the form for tensors is known."""
    for step in steps:
        if isinstance(step, Pointwise):
            form = scalar(step.name)
            if form.slope is None and form.formula is None:
                raise InputError(f"nodes with {step.name!r} cannot be compiled: it has no formula; give it one where "
                                 "it is registered.")


def cropped(kernel: np.ndarray, longest: int) -> np.ndarray:
    """The kernels without what no pixel of a map with sides up to ``longest`` ever meets."""
    edge = max(0, kernel.shape[-1] // 2 - (longest - 1))
    window = slice(edge, kernel.shape[-1] - edge)
    where = (slice(None), *[window] * (kernel.ndim - 1))
    return kernel[where]
