"""The norms of nodes: the step ``norm`` is the one that a node function names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InputError, WiringError
from .lowered import Affine, Lowered, Normalize, array
from .operation import Operation, Rows

if TYPE_CHECKING:
    from .function import NodeFunction

EPSILON = 1e-5
MOMENTUM = 0.1


class Norm(Operation):
    """y = weight (x - mean) / sqrt(var + 1e-5) + bias; members say over what mean and variance go."""

    name = "norm"
    learned = {"norm_weight": "weight", "norm_bias": "bias"}
    normalises = True

    def __init__(self, function: NodeFunction, channels: int, dims: int):
        super().__init__(function, channels, dims)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    @classmethod
    def of(cls, function: NodeFunction) -> type[Operation]:
        kind = NORMS[function.norm]
        assert kind is not None  # a node function leaves steps that do nothing out
        return kind

    def scale(self) -> torch.Tensor:
        return self.weight.abs()

    def is_homogeneous(self) -> bool:
        return True

    def divide(self, before: torch.Tensor, after: torch.Tensor) -> None:
        self.weight.div_(after)
        self.bias.div_(after)


class BatchNorm(Norm):
    """Moments over batch and space.

    In training they are those of the batch, and the running ones move towards them by 0.1; in
    evaluation the running ones are used (Ioffe and Szegedy, 2015).
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    learned = {**Norm.learned, "norm_mean": "running_mean", "norm_var": "running_var"}

    def __init__(self, function: NodeFunction, channels: int, dims: int):
        super().__init__(function, channels, dims)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def check_values(self, x: torch.Tensor) -> None:
        """Refuses to train on a single value, which has no variance."""
        if self.training and x.numel() == x.shape[1]:
            raise InputError(
                "batch norm in training needs more than one value per channel, got a batch of one "
                "sample of one pixel: use a larger batch, or network.eval()."
            )

    def forward(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        self.check_values(x)
        mean, var = self.running_mean[rows], self.running_var[rows]
        y = F.batch_norm(x, mean, var, self.weight[rows], self.bias[rows], self.training, MOMENTUM,
                         EPSILON)
        if self.training and isinstance(rows, torch.Tensor):  # a copy was updated, not a view
            # .data, since autograd keeps the views of other stages and would take this for a change
            self.running_mean.data[rows], self.running_var.data[rows] = mean, var
        return y

    def lower(self, rows: Rows) -> list[Lowered]:
        scale = self.weight[rows] / (self.running_var[rows] + EPSILON).sqrt()
        return [Affine(array(scale), array(self.bias[rows] - self.running_mean[rows] * scale))]


class InstanceNorm(Norm):
    """Moments over the space of each sample.

    The same in training and evaluation; no running statistics (Ulyanov et al., 2016).
    """

    @classmethod
    def check(cls, function: NodeFunction, dims: int) -> None:
        if dims == 0:
            raise WiringError("an instance norm takes mean and variance over the pixels of each map, and with "
                              "dims=0 there are none, so that it would be constant: use norm='batch'.")

    @staticmethod
    def check_values(x: torch.Tensor) -> None:
        """Refuses maps of one pixel, which are their own mean: nothing could be learned from them."""
        if x.shape[2:].numel() == 1:
            raise InputError(one_pixel(x.shape[2:]))

    def forward(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        self.check_values(x)
        return F.instance_norm(x, weight=self.weight[rows], bias=self.bias[rows], eps=EPSILON)

    def lower(self, rows: Rows) -> list[Lowered]:
        return [Normalize(array(self.weight[rows]), array(self.bias[rows]), EPSILON)]


def one_pixel(space: tuple[int, ...]) -> str:
    """What to say of an instance norm on maps of one pixel."""
    return (f"an instance norm needs maps of more than one pixel, got {'x'.join(map(str, space))}: a pixel "
            "alone is its own mean, so that the norm would be constant. Use larger maps, norm='batch', or "
            "for vectors a network with dims=0.")


# A name's place here is its code in a DGL graph: append, never reorder.
NORMS: dict[str, type[Norm] | None] = {"none": None, "batch": BatchNorm, "instance": InstanceNorm}
