"""Lists of modules whose members a type checker knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from torch import nn

Member = TypeVar("Member", bound=nn.Module)


def module_list(modules: Iterable[Member]) -> Sequence[Member]:
    """A :class:`torch.nn.ModuleList`, whose class does not say what is in it."""
    return nn.ModuleList(modules)  # type: ignore[return-value]  # torch's is not generic
