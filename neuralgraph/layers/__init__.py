"""Sparse layers for ordinary models."""

from .absorb import absorb_scales
from .holding import freeze, thaw
from .shrink import Shrunk, shrink
from .slimming import scale_penalty, slim
from .sparse import (
                     Sparse,
                     SparseConv1d,
                     SparseConv2d,
                     SparseConv3d,
                     SparseConvTranspose1d,
                     SparseConvTranspose2d,
                     SparseConvTranspose3d,
                     SparseEmbedding,
                     SparseLinear,
                     SparseMultiheadAttention,
                     choices_of,
)
from .sparsify import densify, sparsify
from .summaries import LayerSummary, Summary, summary

__all__ = ["LayerSummary", "Shrunk", "Sparse", "SparseConv1d", "SparseConv2d", "SparseConv3d", "SparseConvTranspose1d",
           "SparseConvTranspose2d", "SparseConvTranspose3d", "SparseEmbedding", "SparseLinear",
           "SparseMultiheadAttention", "Summary", "absorb_scales", "choices_of", "densify", "freeze", "scale_penalty",
           "shrink", "slim", "sparsify", "summary", "thaw"]


def __dir__() -> list[str]:
    return __all__
