"""Channel operations: each acts on every channel alone, with its own parameters.

Every operation maps x (B, n, H, W) and ``rows``, the n of its N channels that x holds (a slice or
an index tensor), to (B, n, H', W').
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InputError
from ..wiring import ACTIVATIONS, NodeFunction

EPSILON = 1e-5
MOMENTUM = 0.1

Rows = slice | torch.Tensor


class Operation(nn.Module, ABC):
    """One step of a node function, for N channels at once.

    ``learned`` names the tensors of the operation that a wiring can carry: the name in the wiring
    to the name of the parameter or buffer here.
    """

    learned: dict[str, str] = {}

    @abstractmethod
    def forward(self, x: torch.Tensor, rows: Rows) -> torch.Tensor: ...

    def reset(self, generator: torch.Generator) -> None:
        """Draws initial parameters; operations without random ones do nothing."""


class BatchNorm(Operation):
    """y = weight (x - mean) / sqrt(var + 1e-5) + bias, statistics over batch and space.

    In training the statistics are those of the batch, and the running ones move towards them by
    0.1; in evaluation the running ones are used (Ioffe and Szegedy, 2015).
    """

    learned = {"norm_weight": "weight", "norm_bias": "bias",
               "norm_mean": "running_mean", "norm_var": "running_var"}

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def check(self, x: torch.Tensor) -> None:
        """Refuses to train on a single value, which has no variance."""
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            raise InputError(
                "batch norm in training needs more than one value per channel, got a batch of one "
                "1x1 map: use a larger batch, or network.eval()."
            )

    def forward(self, x, rows):
        self.check(x)
        mean, var = self.running_mean[rows], self.running_var[rows]
        y = F.batch_norm(x, mean, var, self.weight[rows], self.bias[rows], self.training, MOMENTUM,
                         EPSILON)
        if self.training and isinstance(rows, torch.Tensor):  # a copy was updated, not a view
            # .data, since autograd keeps the views of other stages and would take this for a change
            self.running_mean.data[rows], self.running_var.data[rows] = mean, var
        return y


class InstanceNorm(Operation):
    """y = weight (x - mean) / sqrt(var + 1e-5) + bias, statistics over the space of each sample.

    The same in training and evaluation; no running statistics (Ulyanov et al., 2016). A 1x1 map is
    its own mean, so it becomes ``bias``.
    """

    learned = {"norm_weight": "weight", "norm_bias": "bias"}

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x, rows):
        weight, bias = self.weight[rows], self.bias[rows]
        if x.shape[2] * x.shape[3] == 1:  # torch refuses to divide by a variance of nothing
            return (x - x) * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)
        return F.instance_norm(x, weight=weight, bias=bias, eps=EPSILON)


class Activation(Operation):
    """y = f(x) with f from :data:`neuralgraph.wiring.ACTIVATIONS`."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def forward(self, x, rows):
        return ACTIVATIONS[self.name](x)

    def extra_repr(self):
        return self.name


class DepthwiseConv(Operation):
    """One kernel per channel, no bias, padding kernel_size // 2: a side n becomes ceil(n / stride).

    With ``zero_pad`` the result is surrounded by zeros up to the old size, the odd one out at the end.

    Kernels start uniform in (-1/s, 1/s) for a kernel of side s, the default of a torch convolution
    with fan-in s^2.
    """

    learned = {"kernel": "weight"}

    def __init__(self, channels: int, kernel_size: int, stride: int, zero_pad: bool = False):
        super().__init__()
        self.kernel_size, self.stride, self.zero_pad = kernel_size, stride, zero_pad
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel_size, kernel_size))

    def reset(self, generator):
        with torch.no_grad():
            self.weight.uniform_(-1 / self.kernel_size, 1 / self.kernel_size, generator=generator)

    def forward(self, x, rows):
        y = F.conv2d(x, self.weight[rows], stride=self.stride, padding=self.kernel_size // 2,
                     groups=x.shape[1])
        if not self.zero_pad:
            return y
        height, width = x.shape[2] - y.shape[2], x.shape[3] - y.shape[3]
        return F.pad(y, (width // 2, width - width // 2, height // 2, height - height // 2))

    def extra_repr(self):
        return (f"{len(self.weight)}, kernel_size={self.kernel_size}, stride={self.stride}"
                + (", zero_pad=True" if self.zero_pad else ""))


class Bias(Operation):
    """y = x + bias, the bias of an ordinary unit; starts at 0."""

    learned = {"bias": "bias"}

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x, rows):
        return x + self.bias[rows].view(-1, 1, 1)


NORM_OPERATIONS = {"batch": BatchNorm, "instance": InstanceNorm}
STEP_OPERATIONS = {
    "norm": lambda f, channels: NORM_OPERATIONS[f.norm](channels),
    "activation": lambda f, channels: Activation(f.activation),
    "conv": lambda f, channels: DepthwiseConv(channels, f.kernel_size, f.stride, f.zero_pad),
    "bias": lambda f, channels: Bias(channels),
}


def build(step: str, function: NodeFunction, channels: int) -> Operation:
    """The operation of one step of ``function`` for that many channels."""
    return STEP_OPERATIONS[step](function, channels)
