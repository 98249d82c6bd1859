"""The steps of nodes as the compiled engine takes them: norm, activation, convolution, several at a time."""

from __future__ import annotations

from dataclasses import dataclass

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
