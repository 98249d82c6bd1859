"""Propagation: sums over real edges, by exchangeable ways."""

from ..errors import InputError, lookup
from .auto import Auto
from .backend import Backend, Shared
from .dense import Dense
from .dgl import DGL
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


__all__ = ["BACKENDS", "Auto", "DGL", "Backend", "Dense", "Shared", "Sparse", "create"]


def __dir__() -> list[str]:
    return __all__
