"""Checks of what you add: backends, operations and selectors, as the library checks its own.

Each raises AssertionError with what differs, and says nothing where all is well. They need no test framework.
"""

from .backends import check_backend, check_network
from .operations import check_operation
from .selectors import check_selector

__all__ = ["check_backend", "check_network", "check_operation", "check_selector"]


def __dir__() -> list[str]:
    return __all__
