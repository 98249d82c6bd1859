"""What differs between versions of PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

if hasattr(torch.compiler, "is_compiling"):
    is_compiling = torch.compiler.is_compiling
else:  # before torch 2.3
    is_compiling = torch._utils.is_compiling


def not_compiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that ``torch.compile`` does not look into.

    As ``torch.compiler.disable`` makes it, which imports torch's compiler, for a second, when it is only named.
    """
    @functools.wraps(function)
    def call(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        if is_compiling():
            return torch.compiler.disable(function)(*arguments, **options)
        return function(*arguments, **options)
    return call
