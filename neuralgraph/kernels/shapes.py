"""What the operators on maps have in common on every device: where a norm's moments come from, and empty results."""

from __future__ import annotations

import torch

NO_NORM, FIXED, INSTANCE, BATCH = range(4)  # where mean and rstd come from


def empty_moments(x: torch.Tensor, norm: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Empty tensors for the mean and rstd of each map, if INSTANCE wants them."""
    shape = x.shape[:2] if norm == INSTANCE else (0,)
    kind = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty(shape, dtype=kind), x.new_empty(shape, dtype=kind)


def empty_gradients(x: torch.Tensor, kernel: torch.Tensor | None, norm: int) -> tuple[torch.Tensor, ...]:
    """Empty tensors for the gradients of x, weight, bias and kernel."""
    channels, kind = 0 if norm == NO_NORM else x.shape[1], torch.promote_types(x.dtype, torch.float32)
    return (x.new_empty(x.shape), x.new_empty(channels, dtype=kind), x.new_empty(channels, dtype=kind),
            x.new_empty(0 if kernel is None else kernel.shape, dtype=kind))
