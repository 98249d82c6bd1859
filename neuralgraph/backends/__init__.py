"""Propagation: sums over real edges, by exchangeable ways."""

from ..errors import InputError, lookup
from .backend import Backend
from .dense import Dense
from .dgl import DGL

BACKENDS: dict[str, type[Backend]] = {"dense": Dense, "dgl": DGL}


def create(backend: str | Backend) -> Backend:
    """A backend by name, or the given one. "auto" is the fastest here, at present "dense".

    >>> create("auto")
    Dense()
    """
    if isinstance(backend, Backend):
        return backend
    if not isinstance(backend, str):
        raise InputError(f"expected the name of a backend or a Backend, got {backend!r}.")
    return lookup("backend", backend, {**BACKENDS, "auto": Dense})()


__all__ = ["BACKENDS", "DGL", "Backend", "Dense", "create"]
