"""Neural networks that are graphs: one channel per node, one weight per edge, a learned wiring.

Everything public is reached as ``neuralgraph.NAME``:

- graphs: Wiring, and wirings, the module of their generators; from_networkx, to_networkx, read, write
- networks: StaticNeuralGraph, DiscreteTimeNeuralGraph, ContinuousTimeNeuralGraph; what a node computes: NodeFunction, nodes,
  register_operation, register_activation; how sums are computed: backends; canonicalise
- which edges are real: TopK, RandomGraph, Complete, all others in selectors; rewire, for a training loop of your own
- ordinary models: sparsify, densify, SparseConv2d, SparseLinear, layers, sharing
- training: models, data, training, growing; load_dnw_checkpoint, of the authors' files
- use: compile, inference, export_onnx
- study: explore, plots, analysis
- errors; testing, of what you add

>>> import neuralgraph as ng
>>> ng.StaticNeuralGraph(ng.wirings.blocks([3, 32, 32, 10]), ng.TopK(k=400)).selection().real.sum().item()
400

A name is imported when it is first used, so that ``import neuralgraph`` (and the command line's help) does not wait for
PyTorch.
"""

from importlib import import_module

from . import _dgl as _dgl  # before anybody imports DGL
from ._version import __version__

# public name -> (module, name in it or None for the module itself)
_PUBLIC = {
    "NodeFunction": ("nodes", "NodeFunction"),
    "nodes": ("nodes", None),
    "register_activation": ("nodes", "register_activation"),
    "register_operation": ("nodes", "register_operation"),
    "Wiring": ("wiring", "Wiring"),
    "wirings": ("wiring.generators", None),
    "from_networkx": ("wiring", "from_networkx"),
    "to_networkx": ("networks", "to_networkx"),
    "read": ("wiring", "read"),
    "write": ("wiring", "write"),
    "selectors": ("selectors", None),
    "TopK": ("selectors", "TopK"),
    "RandomGraph": ("selectors", "RandomGraph"),
    "Complete": ("selectors", "Complete"),
    "backends": ("backends", None),
    "StaticNeuralGraph": ("networks", "StaticNeuralGraph"),
    "DiscreteTimeNeuralGraph": ("networks", "DiscreteTimeNeuralGraph"),
    "ContinuousTimeNeuralGraph": ("networks", "ContinuousTimeNeuralGraph"),
    "canonicalise": ("networks", "canonicalise"),
    "layers": ("layers", None),
    "SparseConv2d": ("layers", "SparseConv2d"),
    "SparseLinear": ("layers", "SparseLinear"),
    "sparsify": ("layers", "sparsify"),
    "densify": ("layers", "densify"),
    "sharing": ("sharing", None),
    "rewire": ("rewiring", "rewire"),
    "models": ("models", None),
    "inference": ("inference", None),
    "compile": ("inference", "compile"),
    "export_onnx": ("export", "export_onnx"),
    "analysis": ("analysis", None),
    "plots": ("analysis.plots", None),
    "growing": ("growing", None),
    "data": ("data", None),
    "training": ("training", None),
    "explore": ("explorer", "explore"),
    "load_dnw_checkpoint": ("compat", "load_dnw_checkpoint"),
    "testing": ("testing", None),
    "errors": ("errors", None),
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'neuralgraph' has no attribute {name!r}")
    module, member = _PUBLIC[name]
    value = import_module(f".{module}", __name__)
    value = value if member is None else getattr(value, member)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
