"""Whether torch runs a network for its numbers, or to see what it does: tracing, exporting, ``torch.func``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch._C import _functorch
from torch._subclasses import FakeTensor

from .._torch import is_compiling
from ..errors import InputError

without_transforms = torch._C._DisableFuncTorch  # a context in which operations run as they are


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """What is computed here is a constant to ``torch.jit.trace``."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def is_transformed(tensor: torch.Tensor) -> bool:
    """Whether torch wants to see every operation on this tensor, so that only its own ones will do."""
    return torch.jit.is_tracing() or torch._C._are_functorch_transforms_active() or \
        (not has_numbers(tensor) and not is_compiling())


def has_numbers(tensor: torch.Tensor) -> bool:
    """Whether there are numbers behind the shape: not where a tensor is meta or fake."""
    kind = type(tensor)
    return kind is not FakeTensor and not (tensor.is_meta and kind in (torch.Tensor, torch.nn.Parameter))


def untransformed(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor beneath those that ``torch.func`` wraps it in, with the same numbers.

    Raises:
        InputError: beneath ``torch.func.vmap`` over the tensor there are many.
    """
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            raise InputError("edges cannot be chosen inside torch.func.vmap over edge weights, or what they are chosen by, "
                             "since each set of weights has its own real edges: loop over the networks.")
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def where(tensor: torch.Tensor) -> str:
    """For messages of backends that cannot compute with a tensor."""
    return f"tensors on {tensor.device}" if tensor.device.type != "cpu" else \
        "tensors that torch traces or transforms"
