"""Ordinary layers whose initial values come from a generator, never from global random state."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import skip_init


def conv(inputs: int, outputs: int, kernel_size: int, *, generator: torch.Generator, stride: int = 1,
         groups: int = 1, bias: bool = True) -> nn.Conv2d:
    """A 2-D convolution of padding kernel_size // 2 with torch's default initial distribution."""
    layer = skip_init(nn.Conv2d, inputs, outputs, kernel_size, stride=stride,
                      padding=kernel_size // 2, groups=groups, bias=bias)
    return _draw(layer, fan_in=inputs // groups * kernel_size**2, generator=generator)


def linear(inputs: int, outputs: int, *, generator: torch.Generator) -> nn.Linear:
    """A fully connected layer with bias and torch's default initial distribution."""
    return _draw(skip_init(nn.Linear, inputs, outputs), fan_in=inputs, generator=generator)


@torch.no_grad()
def _draw(layer, fan_in, generator):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weight and bias."""
    for parameter in layer.parameters():
        parameter.uniform_(-fan_in**-0.5, fan_in**-0.5, generator=generator)
    return layer
