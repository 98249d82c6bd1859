"""The candidate graph: what it is, how to make one, in which order to visit it, how to carry it."""

from ..nodes import ACTIVATIONS, IDENTITY, NORMS, STATIC, NodeFunction
from .exchange import from_networkx, read, to_networkx, write
from .generators import DYNAMIC
from .stages import Chunk, Stage, synchronous_stages, topological_stages
from .wiring import ROLES, Wiring

__all__ = [
    "ACTIVATIONS", "DYNAMIC", "IDENTITY", "NORMS", "ROLES", "STATIC", "Chunk",
    "NodeFunction", "Stage", "Wiring", "from_networkx", "read", "to_networkx",
    "synchronous_stages", "topological_stages", "write",
]
