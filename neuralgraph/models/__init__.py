"""Whole models by name: stem, one or more networks, head."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..errors import InputError, UnknownNameError, lookup, whole
from .classifier import Classifier
from .convnet import tiny_convnet
from .mobilenet import mobilenet_dnw, mobilenet_dnw_small, mobilenet_v1
from .mobilenet_expander import mobilenet_expander
from .preprocessing import Preprocessing
from .tiny import tiny_continuous, tiny_discrete, tiny_static

MODELS: dict[str, Callable[..., Classifier]] = {
    "tiny-static": tiny_static,
    "tiny-discrete": tiny_discrete,
    "tiny-continuous": tiny_continuous,
    "tiny-convnet": tiny_convnet,
    "mobilenet-dnw": mobilenet_dnw,
    "mobilenet-dnw-small": mobilenet_dnw_small,
    "mobilenet-v1": mobilenet_v1,
    "mobilenet-expander": mobilenet_expander,
}


def names() -> list[str]:
    """The names that :func:`create` knows.

    >>> "tiny-static" in names()
    True
    """
    return list(MODELS)


def create(name: str, **options: Any) -> Classifier:
    """A model by name; the options are those of its function in :data:`MODELS`.

    Raises:
        UnknownNameError: for a name or an option that does not exist, with the nearest one.

    >>> model = create("tiny-static", num_classes=3, k=5000)
    >>> model.num_real_edges
    5000
    """
    build = lookup("model", name, MODELS)
    known = options_of(name)
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of {name!r}", option, known)
    for option in ("num_classes", "in_channels", "image_size"):
        if option in options:
            number = whole(options[option])
            if number is None or number < 1:
                raise InputError(f"{option} must be a positive integer, got {options[option]!r}.")
            options[option] = number
    return build(**options)


def options_of(name: str) -> set[str]:
    """The options that the model of that name takes."""
    build = lookup("model", name, MODELS)
    build = mobilenet_dnw if build is mobilenet_dnw_small else build
    own = {"small"} if name == "mobilenet-dnw-small" else set()
    return set(inspect.signature(build).parameters) - own


__all__ = ["MODELS", "Classifier", "Preprocessing", "create", "mobilenet_dnw", "mobilenet_dnw_small",
           "mobilenet_expander", "mobilenet_v1", "names", "options_of", "tiny_continuous", "tiny_convnet",
           "tiny_discrete", "tiny_static"]


def __dir__() -> list[str]:
    return __all__
