"""The candidate graph: what it is, how to make one, in which order to visit it, how to carry it."""

from ..nodes import ACTIVATIONS, IDENTITY, NORMS, STATIC, NodeFunction
from .assembling import DYNAMIC
from .exchange import from_networkx, to_networkx
from .files import FORMATS, read, write
from .layout import layout
from .reading import ROLES
from .stages import Chunk, Stage, synchronous_stages, topological_stages
from .wiring import Wiring

__all__ = [
    "ACTIVATIONS", "DYNAMIC", "FORMATS", "IDENTITY", "NORMS", "ROLES", "STATIC", "Chunk",
    "NodeFunction", "Stage", "Wiring", "from_networkx", "layout", "read", "to_networkx",
    "synchronous_stages", "topological_stages", "write",
]


def __dir__() -> list[str]:
    return __all__
