"""The only door to DGL, which is imported when something first needs it: ``load("what needs it")``.

Since 2.0 ``import dgl`` also imports two modules that message passing never uses and that
often cannot load: ``dgl.graphbolt`` (a library built for one exact PyTorch version, and up to
DGL 2.3 the removed ``torchdata.datapipes``) and ``dgl.data.movielens`` (an undeclared pandas).
Once neuralgraph is imported each of the two is tried as usual, whoever imports DGL, and one that fails is
replaced by an empty module whose members raise ImportError, with the cause, once somebody calls them.
A module that does load is left alone; DGL 1.1 has neither.

DGL has no wheels for Python 3.13 and later. What needs it says so there; everything else works without it.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
import warnings
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import MissingPackageError

if TYPE_CHECKING:
    from dgl import DGLGraph

__all__ = ["DGLGraph", "INSTALL", "is_installed", "load"]

INSTALL = "pip install 'dgl>=1.1.3,<2.5', which has wheels for Python up to 3.12"

_OPTIONAL = ("dgl.graphbolt", "dgl.data.movielens")


def _leave_stub(module, cause: Exception) -> None:
    """Empties ``module``; whatever is asked of it is a class that cannot be instantiated."""
    name = module.__name__
    message = f"{name} did not load beside this PyTorch: {type(cause).__name__}: {cause}"
    for key in [key for key in sys.modules if key.startswith(name + ".")]:
        del sys.modules[key]
    for key in [key for key in vars(module) if not key.startswith("__")]:
        delattr(module, key)

    def refuse(*args, **kwargs):
        raise ImportError(message)

    def __getattr__(attribute):
        if attribute.startswith("__"):
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        # A class, because DGL hands some of these names to isinstance.
        stub = type(attribute, (), {"__module__": name, "__new__": refuse})
        setattr(module, attribute, stub)
        return stub

    module.__getattr__ = __getattr__


class _TolerantLoader:
    """Runs a module's own loader and outlives its failure."""

    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self._loader
        try:
            self._loader.exec_module(module)
        except Exception as cause:  # ImportError, FileNotFoundError, OSError, ...
            _leave_stub(module, cause)


class _TolerantFinder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in _OPTIONAL:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            loader: Any = _TolerantLoader(spec.loader)
            spec.loader = loader
        return spec


sys.meta_path.insert(0, _TolerantFinder)
_loaded: ModuleType | None = None


def is_installed() -> bool:
    """Whether there is a package of that name; it may fail to load all the same."""
    return find_spec("dgl") is not None


def load(what: str) -> Any:
    """The module ``dgl``.

    Args:
        what: needs it, for the message.

    Raises:
        MissingPackageError: where it is not installed or does not load.
    """
    global _loaded
    if _loaded is None:
        os.environ.setdefault("DGLBACKEND", "pytorch")  # otherwise DGL writes into the user's home
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.simplefilter("ignore", SyntaxWarning)
                import dgl
        except (ImportError, OSError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name == "dgl":
                raise MissingPackageError(what, "DGL", mend=f"{INSTALL}. Everything else works without it.") from None
            raise MissingPackageError(
                what, "DGL", cause=f"cannot be imported ({type(error).__name__}: {error})",
                mend="it needs torch, packaging and, on a slim Linux image, the system library libgomp1.") from error
        if dgl.backend_name != "pytorch":
            raise MissingPackageError(what, "DGL", cause=f"runs on the backend {dgl.backend_name!r}",
                                      mend="set the environment variable DGLBACKEND=pytorch.")
        _loaded = dgl
    return _loaded


def __getattr__(name: str) -> Any:
    if name == "dgl":
        return load("neuralgraph._dgl.dgl")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
