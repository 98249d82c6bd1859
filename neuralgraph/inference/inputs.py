"""What compiled models refuse, since kernels read and write numbers by their addresses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..backends.transforms import has_numbers
from ..errors import InputError
from ..networks.network import autocasts


def check_numbers(*inputs: torch.Tensor) -> None:
    """Raises InputError where the numbers of tensors are not in memory, or torch would compute in other types."""
    if autocasts("cpu"):
        raise InputError("a compiled model computes in the type of its weights, which torch.autocast would change: call it in "
                         "torch.autocast('cpu', enabled=False), or use the model it was compiled from.")
    new = torch.empty(0, device="cpu")  # a fake one where every new tensor is
    if torch.jit.is_tracing() or torch._C._are_functorch_transforms_active() or \
            not all(has_numbers(x) and type(x).__torch_dispatch__ is torch.Tensor.__torch_dispatch__ for x in (new, *inputs)):
        raise InputError("a compiled model runs for its numbers: torch can neither trace, export nor transform it. Use the "
                         "model it was compiled from.")
    for x in inputs:
        if x.layout != torch.strided:
            raise InputError(f"a compiled model takes dense tensors, got one of the layout {x.layout}: use x.to_dense().")


def check_stays(module: nn.Module, convert: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype) -> None:
    """Raises InputError for what would move a compiled model or change its type (``module.half()``, ``module.to(...)``)."""
    before = torch.empty(0, dtype=dtype, device="cpu")
    after = convert(before)
    if after.dtype != dtype or after.device.type != "cpu":
        raise InputError(f"a {type(module).__name__} stays {dtype} on the CPU, but should become {after.dtype} on "
                         f"{after.device}: convert the model and compile it again; for a GPU use the model itself.")
