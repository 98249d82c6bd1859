"""Depthwise convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import WiringError
from .lowered import Convolve, Lowered, array
from .operation import Operation, Rows

if TYPE_CHECKING:
    from .function import NodeFunction

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class DepthwiseConv(Operation):
    """One kernel per channel, no bias, padding kernel_size // 2: a side n becomes ceil(n / stride).

    With ``zero_pad`` the result is surrounded by zeros up to the old size, the odd one out at the end.

    Kernels start uniform in (-1/sqrt(n), 1/sqrt(n)) for a kernel of n numbers, the default of a torch
    convolution with that fan-in: for 3x3 in (-1/3, 1/3).
    """

    name = "conv"
    learned = {"kernel": "weight"}
    weights = ("kernel",)

    def __init__(self, function: NodeFunction, channels: int, dims: int):
        super().__init__(function, channels, dims)
        self.kernel_size, self.stride, self.zero_pad = function.kernel_size, function.stride, function.zero_pad
        self.weight = nn.Parameter(torch.empty(channels, 1, *[self.kernel_size] * dims))

    @classmethod
    def check(cls, function: NodeFunction, dims: int) -> None:
        if dims == 0:
            raise WiringError("the step 'conv' slides a kernel over a map, and with dims=0 there is none: leave "
                              "it out, or build the network with dims=1, 2 or 3.")

    @classmethod
    def shrinks(cls, function: NodeFunction) -> int:
        return 1 if function.zero_pad else function.stride

    def reset(self, generator: torch.Generator) -> None:
        bound = self.kernel_size**(-self.dims / 2)
        with torch.no_grad():
            self.weight.uniform_(-bound, bound, generator=generator)

    def value(self, attribute: str) -> torch.Tensor:
        return self.weight[:, 0]

    def forward(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        y = CONVOLUTIONS[self.dims](x, self.weight[rows], stride=self.stride, padding=self.kernel_size // 2,
                                    groups=x.shape[1])
        return padded_back(y, x.shape[2:]) if self.zero_pad else y

    def scale(self) -> torch.Tensor:
        return self.weight.flatten(1).norm(dim=1)

    def is_homogeneous(self) -> bool:
        return True

    def divide(self, before: torch.Tensor, after: torch.Tensor) -> None:
        self.weight.mul_((before / after).view(-1, *[1] * (self.weight.dim() - 1)))

    def multiply_adds(self, space: tuple[int, ...]) -> int:
        return self.kernel_size**self.dims * math.prod(-(-side // self.stride) for side in space)

    def lower(self, rows: Rows) -> list[Lowered]:
        return [Convolve(array(self.weight[rows][:, 0]), self.stride, self.zero_pad)]

    def extra_repr(self) -> str:
        return (f"{len(self.weight)}, kernel_size={self.kernel_size}, stride={self.stride}"
                + (", zero_pad=True" if self.zero_pad else ""))


def padded_back(y: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
    """Maps with zeros around them up to these sides, the odd one out at the end."""
    borders: list[int] = []
    for side, small in zip(reversed(sides), reversed(y.shape[2:])):  # F.pad wants the last first
        borders += [(side - small) // 2, side - small - (side - small) // 2]
    return F.pad(y, borders)
