"""Weights that several layers, nodes, blocks or steps have in common, softly or altogether."""

from .folding import Similarity, bake, fold, is_shared, parameter_groups, plain, similarity
from .share import WHAT, share
from .templates import Assembled, Mixed, Templates
from .tie import tie

__all__ = ["WHAT", "Assembled", "Mixed", "Similarity", "Templates", "bake", "fold", "is_shared", "parameter_groups",
           "plain", "share", "similarity", "tie"]


def __dir__() -> list[str]:
    return __all__
