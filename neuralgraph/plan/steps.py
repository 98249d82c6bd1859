"""What plans do to lists of steps and of edges."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from ..nodes import Affine, Convolve, Lowered, Normalize, Pointwise, scalar
from ..nodes.conv import padded_back


def simplified(steps: Iterable[Lowered]) -> list[Lowered]:
    """The same with neighbouring affine steps made one."""
    result: list[Lowered] = []
    for step in steps:
        before = result[-1] if result else None
        if isinstance(step, Affine) and isinstance(before, Affine):
            result[-1] = Affine(before.scale * step.scale, before.shift * step.scale + step.shift)
        elif not (isinstance(step, Pointwise) and step.name == "identity"):
            result.append(step)
    return result


def apply(step: Lowered, x: torch.Tensor, dims: int) -> torch.Tensor:
    """What a step does to maps (B, n, *space), by torch: the meaning of a plan."""
    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(x.dtype)

    def per_channel(values: np.ndarray) -> torch.Tensor:
        return tensor(values).view(-1, *[1] * dims)

    if isinstance(step, Affine):
        return x * per_channel(step.scale) + per_channel(step.shift)
    if isinstance(step, Normalize):
        space = tuple(range(2, x.dim()))
        centred = x - x.mean(space, keepdim=True)
        spread = centred.square().mean(space, keepdim=True)
        return centred * (spread + step.epsilon).rsqrt() * per_channel(step.scale) + per_channel(step.shift)
    if isinstance(step, Pointwise):
        p = tensor(step.parameters).T
        arguments = (p.reshape(*p.shape, *[1] * dims),) if len(p) else ()
        return scalar(step.name)(x, *arguments)
    if isinstance(step, Convolve):
        return convolve(step, x, tensor(step.kernel), dims)
    raise TypeError(f"unknown step {step!r}")


def convolve(step: Convolve, x: torch.Tensor, kernel: torch.Tensor, dims: int) -> torch.Tensor:
    """A depthwise convolution as its definition has it: a sum over the kernel's taps of shifted maps."""
    border = kernel.shape[-1] // 2
    padded = torch.nn.functional.pad(x, [border] * (2 * dims))
    result = x.new_zeros(())
    for tap in np.ndindex(*kernel.shape[1:]):
        window = (slice(None), slice(None), *(slice(t, t + side, step.stride) for t, side in zip(tap, x.shape[2:])))
        weight = (slice(None), *tap)
        result = result + padded[window] * kernel[weight].view(-1, *[1] * dims)
    return padded_back(result, x.shape[2:]) if step.zero_pad else result


def is_zero_of_zero(steps: list[Lowered], count: int) -> np.ndarray:
    """Which of ``count`` nodes' messages are 0 everywhere if their sum is, whatever the size of maps."""
    value = torch.zeros(1, count, dtype=torch.float64)
    for step in steps:
        if isinstance(step, Normalize):  # of a constant map
            value = torch.from_numpy(step.shift).double()[None]
        elif isinstance(step, Convolve):  # borders: only 0 stays the same everywhere
            value = value.where(value == 0, torch.nan)
        else:
            value = apply(step, value, 0)
    return (value[0] == 0).numpy()


def by_dst(src: np.ndarray, dst: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges sorted by destination, then source."""
    order = np.lexsort((src, dst))
    return src[order], dst[order], weight[order]
