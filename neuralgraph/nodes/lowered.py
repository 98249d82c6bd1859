"""The words of a plan: what operations become when a trained network is compiled or exported.

Each acts on the maps of n channels; its arrays have one row per channel.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class Lowered:
    """One step of nodes in a plan."""

    kind: ClassVar[str]  # in files

    def of(self, nodes: np.ndarray) -> Lowered:
        """The step of some of the nodes, by index or mask."""
        return replace(self, **{f.name: value[nodes] for f in fields(self)
                                if isinstance(value := getattr(self, f.name), np.ndarray)})

    @property
    def shrinks(self) -> int:
        """How many times smaller it makes a side."""
        return 1


@dataclass(frozen=True, eq=False)
class Affine(Lowered):
    """y = scale x + shift; both (n,)."""

    kind = "affine"
    scale: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True, eq=False)
class Normalize(Lowered):
    """y = scale (x - mean) / sqrt(var + epsilon) + shift, moments over each map; both (n,)."""

    kind = "normalize"
    scale: np.ndarray
    shift: np.ndarray
    epsilon: float


@dataclass(frozen=True, eq=False)
class Pointwise(Lowered):
    """y = f(x), or f(x, p) with the p of each channel.

    Args:
        name: of an activation, or of an operation that has a ``scalar``; see
            :func:`neuralgraph.nodes.scalar`.
        parameters: p, (n, P); P is 0 for an activation.
    """

    kind = "pointwise"
    name: str
    parameters: np.ndarray


@dataclass(frozen=True, eq=False)
class Convolve(Lowered):
    """One kernel per channel, zero borders of half its side, so that stride 1 keeps the size.

    Args:
        kernel: (n, side, ...) with one side per dimension of a map.
        stride: in pixels.
        zero_pad: surround the result with zeros up to the old size, the odd one out at the end.
    """

    kind = "convolve"
    kernel: np.ndarray
    stride: int = 1
    zero_pad: bool = False

    @property
    def shrinks(self) -> int:
        return 1 if self.zero_pad else self.stride


LOWERED: dict[str, type[Lowered]] = {step.kind: step for step in (Affine, Normalize, Pointwise, Convolve)}


def array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's values as a NumPy array of its own."""
    return np.array(tensor.detach().cpu().numpy())
