"""A bias per channel."""

from __future__ import annotations

import torch
from torch import nn

from .lowered import Affine, array
from .operation import Operation


class Bias(Operation):
    """y = x + bias, the bias of an ordinary unit; starts at 0."""

    name = "bias"
    learned = {"bias": "bias"}

    def __init__(self, function, channels, dims):
        super().__init__(function, channels, dims)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x, rows):
        return x + self.per_channel(self.bias[rows])

    def is_homogeneous(self):
        return True

    def divide(self, before, after):
        self.bias /= after

    def lower(self, rows):
        bias = self.bias[rows]
        return [Affine(array(torch.ones_like(bias)), array(bias))]
