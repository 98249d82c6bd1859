"""The errors of the library: what was expected, what was got, how to mend it."""

from __future__ import annotations

import difflib
import numbers
import operator
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard, TypeVar

__all__ = ["CheckpointError", "DataError", "InputError", "MissingPackageError", "NeuralGraphError", "RunError",
           "SelectionError", "SolverError", "UnknownNameError", "WiringError"]

Member = TypeVar("Member")


def __dir__() -> list[str]:
    return __all__


class NeuralGraphError(Exception):
    """Every error that neuralgraph raises on purpose."""

    def __reduce__(self):  # to come from another process: some are made of more than their message
        return _as_it_was, (type(self), self.args)


def _as_it_was(kind: type[NeuralGraphError], args: tuple) -> NeuralGraphError:
    return kind.__new__(kind, *args)


class WiringError(NeuralGraphError, ValueError):
    """A graph that cannot be a wiring, or a wiring that a network cannot run."""


class SelectionError(NeuralGraphError, ValueError):
    """A selection of edges that cannot be made."""


class InputError(NeuralGraphError, ValueError):
    """A tensor or an argument of the wrong kind, shape or value."""


ONLY_FIRST_DERIVATIVES = (
    "compiled and message-passing backends have first derivatives only, but this gradient was asked for "
    "with create_graph=True: use network.backend = 'dense'.")


class SolverError(NeuralGraphError, RuntimeError):
    """A differential equation that the solver could not integrate."""


class UnknownNameError(NeuralGraphError, LookupError):
    """A name that is not in its family; the message gives the nearest known one, and ``more`` to do."""

    def __init__(self, kind: str, name: object, known: Iterable[str], more: str = ""):
        known = sorted(known)
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        super().__init__(f"unknown {kind} {name!r}{hint} Known: {', '.join(known)}.{more}")


class MissingPackageError(NeuralGraphError, ImportError):
    """A package that only some things need, and that is not installed or does not load."""

    def __init__(self, what: str, package: str, extra: str = "", *, cause: str = "is not installed", mend: str = ""):
        super().__init__(f"{what} needs {package}, which {cause}: " + (mend or f"pip install 'neuralgraph[{extra}]'"))


class DataError(NeuralGraphError, ValueError):
    """Images or labels that cannot be read or used."""


class RunError(NeuralGraphError):
    """A training run that cannot be started, resumed or read."""


class CheckpointError(RunError):
    """A checkpoint file that is damaged, foreign or of another version."""


def lookup(kind: str, name: Any, family: Mapping[str, Member], more: str = "") -> Member:
    """``family[name]``, or :class:`UnknownNameError` that names the nearest member."""
    try:
        return family[name]
    except (KeyError, TypeError):
        raise UnknownNameError(kind, name, family, more) from None


def whole(value: Any) -> int | None:
    """The value as an int, of NumPy's types too; None if it is no whole number (True and False are none)."""
    try:
        is_truth = isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")  # torch's is 1
        return None if is_truth else operator.index(value)
    except TypeError:
        return None


def is_real(value: object) -> TypeGuard[float]:
    """Whether it is a real number, of NumPy's types and fractions too (True and False are some)."""
    return isinstance(value, numbers.Real)


def listed(items: Iterable[object], most: int = 5, number: int | None = None) -> str:
    """The first few items for a message: ``3, 4, 5 and 20 more``; ``number``: of all, where these are but the first."""
    names = [str(item) for item in items]
    number = len(names) if number is None else number
    shown = ", ".join(names[:most])
    return shown if number <= most else f"{shown} and {number - most} more"
