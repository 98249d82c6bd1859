"""All selectors, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import InputError, SelectionError, UnknownNameError, lookup
from .selector import Selector

Kind = TypeVar("Kind", bound=type[Selector])
SELECTORS: dict[str, Callable[..., Selector]] = {}


def register(*names: str, **fixed: Any) -> Callable[[Kind], Kind]:
    """A decorator that makes a subclass of :class:`Selector` one of :data:`SELECTORS`.

    Args:
        names: by which :func:`create`, models, recipes and the command line know it.
        fixed: arguments of the class that these names stand for.

    Raises:
        InputError: for a name that another selector has.

    >>> @register("heaviest")
    ... class Heaviest(SELECTORS["dnw"]):
    ...     pass
    >>> create("heaviest", k=3)
    Heaviest(k=3, gradient='ste')
    >>> del SELECTORS["heaviest"]
    """
    def add(kind: Kind) -> Kind:
        for name in names:
            if SELECTORS.get(name, kind) is not kind:
                raise InputError(f"there is a selector {name!r} already: choose another name.")
            SELECTORS[name] = _Variant(kind, fixed) if fixed else kind
        return kind
    return add


class _Variant:
    """A class with some arguments given."""

    def __init__(self, kind, fixed):
        self.kind, self.fixed = kind, fixed
        signature = inspect.signature(kind)
        self.__signature__ = signature.replace(parameters=[
            parameter for name, parameter in signature.parameters.items() if name not in fixed])

    def __call__(self, *arguments, **options):
        return self.kind(*arguments, **options, **self.fixed)


def options_of(name: str) -> dict[str, inspect.Parameter]:
    """The arguments of a selector beside k, by name."""
    build = lookup("selector", name, SELECTORS)
    return {option: parameter for option, parameter in inspect.signature(build).parameters.items()
            if option != "k"}


def k_is(name: str) -> str:
    """Whether a selector's k is "needed", "optional" or "found" by itself, so that it takes none.

    >>> k_is("dnw"), k_is("complete")
    ('needed', 'found')
    """
    build = lookup("selector", name, SELECTORS)
    kind: Any = getattr(build, "kind", build)
    return kind.k_is


def create(name: str, k: int | None = None, **options: Any) -> Selector:
    """The selector of that name with k real edges.

    Args:
        name: a key of :data:`SELECTORS`.
        k: number of real edges; None where :func:`k_is` says that it is optional or found.
        options: further arguments of the selector's class.

    >>> create("targeted-dropout", k=100, drop=0.9)
    TargetedDropout(k=100, drop=0.9)
    """
    known = options_of(name)
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of the selector {name!r}", option, known)
    if k is None and k_is(name) == "needed":
        raise SelectionError(f"the selector {name!r} needs k, the number of real edges.")
    return SELECTORS[name](k, **options)
