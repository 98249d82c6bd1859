"""Norm, activation and depthwise convolution as one compiled operation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from .. import kernels
from ..errors import ONLY_FIRST_DERIVATIVES, InputError
from ..kernels.operators import channel_moments, map_backward, map_forward
from ..kernels.shapes import BATCH, FIXED, INSTANCE, NO_NORM
from .activation import ACTIVATIONS, Activation
from .conv import DepthwiseConv
from .norm import EPSILON, MOMENTUM, BatchNorm, InstanceNorm
from .operation import Operation, Rows

SMALL = 2**15  # numbers of an activation alone that a call of ours takes longer for than torch does
WORTH_IT = DepthwiseConv, BatchNorm, InstanceNorm  # a call, however few numbers there are
TYPES: dict[str, tuple[torch.dtype, ...]] = {"cpu": (torch.float32, torch.float64)}  # of numbers that there are kernels for
if kernels.TRITON:
    TYPES["cuda"] = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def apply(operations: Iterable[Operation], x: torch.Tensor, rows: Rows,
          out: torch.Tensor | None = None) -> tuple[torch.Tensor, bool]:
    """What ``operations`` do one after the other, as few compiled passes over x (B, n, *space).

    If the last of them is compiled and ``out`` is given, of the right shape and type, the result is
    written there.

    Returns:
        The result, and whether it was written into ``out``.
    """
    written = False
    if x.dim() == 2 or x.dtype not in TYPES.get(x.device.type, ()) or \
            x.numel() < SMALL and not any(isinstance(operation, WORTH_IT) for operation in operations):
        return _one_by_one(operations, x, rows), written
    parts = list(_parts(operations))
    for part in parts:
        if isinstance(part, _Part):
            x, written = part(x, rows, out if part is parts[-1] else None)
        else:
            x, written = part(x, rows), False
    return x, written


def _one_by_one(operations: Iterable[Operation], x: torch.Tensor, rows: Rows) -> torch.Tensor:
    for operation in operations:
        x = operation(x, rows)
    return x


class _Part:
    """At most one norm, one activation and one convolution, in this order."""

    def __init__(self):
        self.norm = self.activation = self.convolution = None

    def _is_worth_it(self, x: torch.Tensor, out: torch.Tensor | None) -> bool:
        """Whether there is a kernel for maps and convolutions of this size, and what it saves is more than a call.

        An activation alone is torch's, unless it is written where a copy would bring it.
        """
        if self.norm is None and self.convolution is None and out is None:
            return False
        if x.device.type == "cpu":
            return True
        if isinstance(self.norm, BatchNorm) and self.norm.training:
            return False  # cuDNN's take the GPU hardly longer, and the processor less to start
        from ..kernels import gpu_maps  # Triton is loaded where it is used
        return gpu_maps.serves(x, 0 if self.convolution is None else self.convolution.kernel_size)

    def takes(self, operation: Operation) -> bool:
        """Whether the operation can be the next one; if so it is."""
        if self.convolution is not None:
            return False
        if isinstance(operation, DepthwiseConv) and not operation.zero_pad and operation.dims == 2:
            self.convolution = operation
        elif isinstance(operation, Activation) and not self.activation and \
                ACTIVATIONS[operation.activation].slope is not None:
            self.activation = operation
        elif isinstance(operation, BatchNorm | InstanceNorm) and not (self.norm or self.activation):
            self.norm = operation
        else:
            return False
        return True

    def __call__(self, x, rows, out):
        """The result, and whether it was written into ``out``."""
        space = x.shape[2:]
        if len(space) != 2:  # without a convolution, any map is one row of numbers
            out = out.flatten(2)[:, :, None] if out is not None and out.shape == x.shape else None
            y, written = self(x.flatten(2)[:, :, None], rows, out)
            return y.unflatten(3, space).squeeze(2), written
        if not self._is_worth_it(x, out):
            given = (self.norm, self.activation, self.convolution)
            return _one_by_one((operation for operation in given if operation is not None), x, rows), False
        norm, kind, mean, rstd = self.norm, NO_NORM, None, None
        if isinstance(norm, InstanceNorm):
            norm.check_values(x)
            kind = INSTANCE
        x = _with_contiguous_maps(x)
        if isinstance(norm, BatchNorm):
            kind, mean, rstd = _batch_moments(norm, x, rows)
        weight, bias = (None, None) if norm is None else (norm.weight[rows], norm.bias[rows])
        kernel, stride = None, 1
        if self.convolution is not None:
            kernel, stride = self.convolution.weight[rows], self.convolution.stride
        slope = ACTIVATIONS[self.activation.activation].slope if self.activation is not None else 1.0
        shape = *x.shape[:2], *(-(-side // stride) for side in x.shape[2:])
        fits = out is not None and out.shape == shape and out.dtype == x.dtype
        if not fits:
            out = x.new_empty(shape)
        return _Maps.apply(x, weight, bias, kernel, mean, rstd, (out,), kind, slope, stride), fits


def _parts(operations) -> Iterator:
    """The operations grouped, in order; one that cannot be compiled stands alone."""
    part = None
    for operation in operations:
        if part is not None and part.takes(operation):
            continue
        if part is not None:
            yield part
        part = _Part()
        if not part.takes(operation):
            yield operation
            part = None
    if part is not None:
        yield part


def _batch_moments(norm: BatchNorm, x, rows):
    if not norm.training:
        return FIXED, norm.running_mean[rows], (norm.running_var[rows] + EPSILON).rsqrt()
    norm.check_values(x)
    mean, rstd, variance = channel_moments(x.detach(), EPSILON)
    count = x.shape[0] * x.shape[2] * x.shape[3]
    for running, now in ((norm.running_mean, mean), (norm.running_var, variance * (count / (count - 1)))):
        running.data[rows] = running[rows].lerp(now.to(running.dtype), MOMENTUM)
    return BATCH, mean, rstd


class _Maps(torch.autograd.Function):
    """norm, activation, convolution; gradients can be taken once."""

    @staticmethod
    def forward(ctx, x, weight, bias, kernel, mean, rstd, out, norm, slope, stride):
        (y,) = out  # in a tuple, so that autograd takes it for new
        own_mean, own_rstd = map_forward(y, x, weight, bias, mean, rstd, kernel, norm, slope, stride,
                                         EPSILON)
        if norm == INSTANCE:
            mean, rstd = own_mean, own_rstd
        ctx.save_for_backward(x, weight, bias, kernel, mean, rstd)
        ctx.settings = norm, slope, stride
        return y

    @staticmethod
    def backward(ctx, gradient):
        if torch.is_grad_enabled():
            raise InputError(ONLY_FIRST_DERIVATIVES)
        x, weight, bias, kernel, mean, rstd = ctx.saved_tensors
        gradients = map_backward(_with_contiguous_maps(gradient), x, weight, bias, mean, rstd, kernel,
                                 *ctx.settings)
        return *(g if t is not None else None for g, t in zip(gradients, (x, weight, bias, kernel))), \
            None, None, None, None, None, None


def _with_contiguous_maps(x: torch.Tensor) -> torch.Tensor:
    height, width = x.shape[2:]
    if (width == 1 or x.stride(3) == 1) and (height == 1 or x.stride(2) == width):
        return x
    return x.contiguous()
