"""Looking at wirings: dead nodes, degrees, paths, cost."""

from .cost import TABLE_3, Cost, cost, executed_multiply_adds, micronet_score
from .strength import strengths
from .structure import DeadNodes, block_counts, dead_nodes, degrees, longest_path

__all__ = ["TABLE_3", "Cost", "DeadNodes", "block_counts", "cost", "dead_nodes", "degrees",
           "executed_multiply_adds", "longest_path", "micronet_score", "strengths"]
