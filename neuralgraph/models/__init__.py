"""Whole models by name: stem, one or more networks, head."""

from __future__ import annotations

import inspect

from ..errors import InputError, UnknownNameError, lookup
from .classifier import Classifier
from .tiny import tiny_static

MODELS = {
    "tiny-static": tiny_static,
}


def names() -> list[str]:
    """The names that :func:`create` knows.

    >>> "tiny-static" in names()
    True
    """
    return list(MODELS)


def create(name: str, **options) -> Classifier:
    """A model by name; the options are those of its function in :data:`MODELS`.

    Raises:
        UnknownNameError: for a name or an option that does not exist, with the nearest one.

    >>> model = create("tiny-static", num_classes=3, k=5000)
    >>> model.num_real_edges
    5000
    """
    build = lookup("model", name, MODELS)
    known = inspect.signature(build).parameters
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of {name!r}", option, known)
    for option in ("num_classes", "in_channels", "image_size"):
        value = options.get(option, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{option} must be a positive integer, got {value!r}.")
    return build(**options)


__all__ = ["MODELS", "Classifier", "create", "names", "tiny_static"]
