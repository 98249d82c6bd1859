"""Looking at wirings: dead nodes, degrees, paths, cost."""

from .cost import Cost, cost
from .structure import DeadNodes, block_counts, dead_nodes, degrees, longest_path

__all__ = ["Cost", "DeadNodes", "block_counts", "cost", "dead_nodes", "degrees", "longest_path"]
