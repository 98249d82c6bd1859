"""Propagation: sums over real edges, by exchangeable ways."""

from importlib.util import find_spec

from ..errors import InputError, lookup
from .auto import Auto
from .backend import Backend, Shared
from .dense import Dense
from .dgl import DGL
from .pool import Pool
from .sparse import Sparse

BACKENDS: dict[str, type[Backend]] = {"dense": Dense, "dgl": DGL, "sparse": Sparse,
                                      "auto": Auto}


def create(backend: str | Backend) -> Backend:
    """A backend by its name, "dense", "sparse", "dgl" or "auto", or the given one.

    "auto" chooses between "sparse" and "dense", by density and size.

    >>> create("dense")
    Dense()
    """
    if isinstance(backend, Backend):
        return backend
    if not isinstance(backend, str):
        raise InputError(f"expected the name of a backend or a Backend, got {backend!r}.")
    return lookup("backend", backend, BACKENDS)()


def available() -> list[str]:
    """The names of the backends whose packages are installed."""
    return [name for name, kind in BACKENDS.items() if kind.package is None or find_spec(kind.package) is not None]


__all__ = ["BACKENDS", "Auto", "DGL", "Backend", "Dense", "Pool", "Shared", "Sparse", "available", "create"]


def __dir__() -> list[str]:
    return __all__
