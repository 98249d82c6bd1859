"""The candidate graph: what it is, how to make one, in which order to visit it, how to carry it."""

from .exchange import from_networkx, read, to_networkx, write
from .function import ACTIVATIONS, IDENTITY, NORMS, STATIC, STEPS, NodeFunction
from .generators import DYNAMIC
from .stages import Chunk, Stage, synchronous_stages, topological_stages
from .wiring import ROLES, Wiring

__all__ = [
    "ACTIVATIONS", "DYNAMIC", "IDENTITY", "NORMS", "ROLES", "STATIC", "STEPS", "Chunk",
    "NodeFunction", "Stage", "Wiring", "from_networkx", "read", "to_networkx",
    "synchronous_stages", "topological_stages", "write",
]
