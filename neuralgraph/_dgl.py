"""The only door to DGL: ``from neuralgraph._dgl import dgl``, beside any modern PyTorch.

Since 2.0 ``import dgl`` also imports two modules that message passing never uses and that
often cannot load: ``dgl.graphbolt`` (a library built for one exact PyTorch version, and up to
DGL 2.3 the removed ``torchdata.datapipes``) and ``dgl.data.movielens`` (an undeclared pandas).
While DGL is imported here each of the two is tried as usual, and one that fails is replaced by
an empty module whose members raise ImportError, with the cause, once somebody calls them.
A module that does load is left alone; DGL 1.1 has neither.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
import warnings

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
            spec.loader = _TolerantLoader(spec.loader)
        return spec


def _import_dgl():
    os.environ.setdefault("DGLBACKEND", "pytorch")  # otherwise DGL writes into the user's home
    sys.meta_path.insert(0, _TolerantFinder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", SyntaxWarning)
            import dgl
    except (ImportError, OSError) as error:
        raise ImportError(
            f"cannot import DGL ({type(error).__name__}: {error}). neuralgraph needs torch, "
            "dgl>=1.1.3 and packaging; a slim Linux image also needs the system library libgomp1."
        ) from error
    finally:
        sys.meta_path.remove(_TolerantFinder)
    if dgl.backend_name != "pytorch":
        raise ImportError(
            f"DGL runs on the backend {dgl.backend_name!r}; neuralgraph needs 'pytorch'. "
            "Set the environment variable DGLBACKEND=pytorch."
        )
    return dgl


dgl = _import_dgl()
