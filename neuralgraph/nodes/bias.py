"""A bias per channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from .lowered import Affine, Lowered, array
from .operation import Operation, Rows

if TYPE_CHECKING:
    from .function import NodeFunction


class Bias(Operation):
    """y = x + bias, the bias of an ordinary unit; starts at 0."""

    name = "bias"
    learned = {"bias": "bias"}

    def __init__(self, function: NodeFunction, channels: int, dims: int):
        super().__init__(function, channels, dims)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        return x + self.per_channel(self.bias[rows])

    def is_homogeneous(self) -> bool:
        return True

    def divide(self, before: torch.Tensor, after: torch.Tensor) -> None:
        self.bias.div_(after)

    def lower(self, rows: Rows) -> list[Lowered]:
        bias = self.bias[rows]
        return [Affine(array(torch.ones_like(bias)), array(bias))]
