"""Modules that are imported when something of them is first asked for, and what a type checker is told of torch's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, TypeVar

from torch import nn

Member = TypeVar("Member", bound=nn.Module)
Model = TypeVar("Model", bound=nn.Module)  # what becomes a model of its own class


class Lazy:
    """A module that is imported when something of it is first asked for: whoever opens a compiled model needs no other."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)


def module_list(modules: Iterable[Member]) -> Sequence[Member]:
    """A :class:`torch.nn.ModuleList`, whose class does not say what is in it."""
    return nn.ModuleList(modules)  # type: ignore[return-value]  # torch's is not generic
