"""What a type checker is told of modules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from torch import nn

Member = TypeVar("Member", bound=nn.Module)
Model = TypeVar("Model", bound=nn.Module)  # what becomes a model of its own class


def module_list(modules: Iterable[Member]) -> Sequence[Member]:
    """A :class:`torch.nn.ModuleList`, whose class does not say what is in it."""
    return nn.ModuleList(modules)  # type: ignore[return-value]  # torch's is not generic
