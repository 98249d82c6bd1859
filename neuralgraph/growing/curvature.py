"""Second derivatives where there are none: a kink bends like a softplus."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ..nodes import ACTIVATIONS, Operation
from ..nodes.activation import Activation
from ..nodes.operation import Rows

SHARPNESS = 3.0  # b of the softplus log(1 + exp(b x)) / b


class _Step(torch.autograd.Function):
    """1 above 0 and s elsewhere; its derivative (1 - s) b sigmoid(b x) (1 - sigmoid(b x))."""

    @staticmethod
    def forward(ctx, x, slope):
        ctx.save_for_backward(x)
        ctx.slope = slope
        return torch.where(x > 0, 1.0, slope).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        s = torch.sigmoid(SHARPNESS * ctx.saved_tensors[0])
        return gradient * (1 - ctx.slope) * SHARPNESS * s * (1 - s), None


class _Rectify(torch.autograd.Function):
    """x above 0 and s x elsewhere; its derivative is :class:`_Step`."""

    @staticmethod
    def forward(ctx, x, slope):
        ctx.save_for_backward(x)
        ctx.slope = slope
        return x.where(x > 0, slope * x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * _Step.apply(ctx.saved_tensors[0], ctx.slope), None


def rectify(x: torch.Tensor, slope: float = 0.0) -> torch.Tensor:
    """x above 0 and ``slope`` x elsewhere, with a second derivative.

        r''(x) = (1 - slope) b s (1 - s),    s = sigmoid(b x),  b = 3

    that of the softplus of sharpness b, in place of one that is 0 almost everywhere; value and first
    derivative are exact.

    >>> x = torch.zeros(1, requires_grad=True)
    >>> first, = torch.autograd.grad(rectify(x), x, create_graph=True)
    >>> torch.autograd.grad(first, x)
    (tensor([0.7500]),)
    """
    return x if slope == 1.0 else _Rectify.apply(x, slope)


class Curved(TorchFunctionMode):
    """Within it, torch's own ReLU and leaky ReLU are :func:`rectify`, wherever they are called.

    ``met`` says whether there was a function with a kink.
    """

    def __init__(self):
        super().__init__()
        self.met = False

    def rectify(self, x: torch.Tensor, slope: float = 0.0) -> torch.Tensor:
        self.met = self.met or slope != 1.0
        return rectify(x, slope)

    def run(self, operations: Iterable[Operation], rows: Rows, x: torch.Tensor) -> torch.Tensor:
        """The steps of a node function, in which activations with a kink are :func:`rectify`."""
        for operation in operations:
            slope = ACTIVATIONS[operation.activation].slope if isinstance(operation, Activation) else None
            x = operation(x, rows) if slope is None else self.rectify(x, slope)
        return x

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in _RELU:
            return self.rectify(args[0] if args else kwargs["input"])
        if function in _LEAKY_RELU:
            x, slope = _leaky(*args, **kwargs)
            return self.rectify(x, slope)
        return function(*args, **kwargs)


_RELU = {F.relu, F.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_}
_LEAKY_RELU = {F.leaky_relu, F.leaky_relu_}


def _leaky(input, negative_slope=0.01, inplace=False):
    return input, negative_slope

