"""What a type checker sees of the package: the names that ``__init__.py`` imports when they are first used."""

from .nodes import NodeFunction as NodeFunction
from . import nodes as nodes
from .nodes import register_activation as register_activation
from .nodes import register_operation as register_operation
from .wiring import Wiring as Wiring
from .wiring import generators as _generators
from .wiring import from_networkx as from_networkx
from .networks import to_networkx as to_networkx
from .wiring import read as read
from .wiring import write as write
from . import selectors as selectors
from .selectors import TopK as TopK
from .selectors import RandomGraph as RandomGraph
from .selectors import Complete as Complete
from . import backends as backends
from .networks import StaticNeuralGraph as StaticNeuralGraph
from .networks import DiscreteTimeNeuralGraph as DiscreteTimeNeuralGraph
from .networks import ContinuousTimeNeuralGraph as ContinuousTimeNeuralGraph
from .networks import canonicalise as canonicalise
from . import layers as layers
from .layers import SparseConv2d as SparseConv2d
from .layers import SparseLinear as SparseLinear
from .layers import sparsify as sparsify
from .layers import densify as densify
from . import sharing as sharing
from . import testing as testing
from .rewiring import rewire as rewire
from . import models as models
from . import inference as inference
from .inference import compile as compile
from .export import export_onnx as export_onnx
from . import analysis as analysis
from .analysis import plots as plots
from . import growing as growing
from . import data as data
from . import training as training
from .explorer import explore as explore
from .compat import load_dnw_checkpoint as load_dnw_checkpoint
from . import errors as errors
from ._version import __version__ as __version__

wirings = _generators
