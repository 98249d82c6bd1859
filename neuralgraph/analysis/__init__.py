"""Looking at wirings: dead nodes, degrees, paths, cost, and whether chance would have made them."""

from .circuits import Attribution, Circuit, attribution, circuit
from .cost import TABLE_3, Cost, cost, executed_multiply_adds, micronet_score
from .null_models import NullModel, null_model
from .statistics import STATISTICS
from .strength import strengths
from .structure import DeadNodes, block_counts, dead_nodes, degrees, longest_path

__all__ = ["STATISTICS", "TABLE_3", "Attribution", "Circuit", "Cost", "DeadNodes", "NullModel", "attribution",
           "block_counts", "circuit", "cost", "dead_nodes", "degrees",
           "executed_multiply_adds", "longest_path", "micronet_score", "null_model", "strengths"]


def __dir__() -> list[str]:
    return __all__
