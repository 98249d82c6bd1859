"""Whether a module is what its type says and nothing more, so that something equal may stand in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TypeGuard, TypeVar

from torch import nn
from torch.nn.modules import module as _module

from ..errors import InputError

Layer = TypeVar("Layer", bound=nn.Module)

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
GLOBAL_HOOKS = tuple("_global" + hooks for hooks in HOOKS)
SAFE = {"__init__", "__repr__", "extra_repr", "__doc__", "__module__", "__qualname__", "__annotations__",
        "__annotate_func__", "__annotations_cache__", "__firstlineno__", "__static_attributes__", "__abstractmethods__",
        "_abc_impl"}


def special(module: nn.Module, kinds: Sequence[type[nn.Module]] | None = None, inner: bool = True) -> str | None:
    """What makes a module (and, with ``inner``, one inside it) more than its type says; None if nothing does.

    Hooks, parametrizations, computed weights (``weight_norm``, ``torch.nn.utils.prune``), a ``forward`` of its
    own, and, where ``kinds`` are given, a subclass of them that changes more than how it is made.
    """
    for name, part in module.named_modules() if inner else [("", module)]:
        found = _special(part)
        if found is not None:
            return found + (f" at {name!r}" if name else "")
    if kinds is not None:
        for kind in type(module).__mro__:
            if kind in kinds:
                return None
            if set(vars(kind)) - SAFE:
                return f"methods of the class {kind.__name__}"
        return f"the type {type(module).__name__}"
    return None


def _special(module: nn.Module) -> str | None:
    own = vars(module)  # compiled models ask at each call
    if any(map(own.get, HOOKS)) or any(map(vars(_module).__getitem__, GLOBAL_HOOKS)):
        return "hooks"
    if hasattr(module, "parametrizations"):
        return "parametrizations"
    if "forward" in own or "__call__" in own:
        return "a forward of its own"
    return None


def refuse_special(module: nn.Module, what: str, kinds: Sequence[type[nn.Module]], inner: bool = True) -> None:
    """Raises InputError for a module that something equal to its type cannot stand in for."""
    found = special(module, kinds, inner)
    if found is not None:
        raise InputError(f"cannot compile or export {what}, a {type(module).__name__}, because of {found}: "
                         "what is made of it would not do the same. Remove them, or compile the networks in "
                         "it alone.")


def is_plain(module: nn.Module | None, kind: type[Layer]) -> TypeGuard[Layer]:
    """Whether it is a layer of exactly this kind and nothing more."""
    return type(module) is kind and special(module) is None


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every part has the mode it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
