"""What a type checker sees of the package: the names that ``__init__.py`` imports when they are first used."""

from . import (
    analysis as analysis,
    backends as backends,
    data as data,
    errors as errors,
    growing as growing,
    inference as inference,
    layers as layers,
    models as models,
    nodes as nodes,
    selectors as selectors,
    sharing as sharing,
    testing as testing,
    training as training,
)
from ._version import __version__ as __version__
from .analysis import plots as plots
from .compat import load_dnw_checkpoint as load_dnw_checkpoint
from .explorer import explore as explore
from .export import export_onnx as export_onnx
from .inference import compile as compile
from .layers import SparseConv2d as SparseConv2d, SparseLinear as SparseLinear, densify as densify, sparsify as sparsify
from .networks import (
    ContinuousTimeNeuralGraph as ContinuousTimeNeuralGraph,
    DiscreteTimeNeuralGraph as DiscreteTimeNeuralGraph,
    StaticNeuralGraph as StaticNeuralGraph,
    canonicalise as canonicalise,
    to_networkx as to_networkx,
)
from .nodes import (
    NodeFunction as NodeFunction,
    register_activation as register_activation,
    register_operation as register_operation,
)
from .rewiring import rewire as rewire
from .selectors import Complete as Complete, RandomGraph as RandomGraph, TopK as TopK
from .wiring import Wiring as Wiring, from_networkx as from_networkx, read as read, write as write
