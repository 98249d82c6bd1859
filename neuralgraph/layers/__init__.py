"""Sparse layers for ordinary models."""

from .holding import freeze, thaw
from .sparse import (Sparse, SparseConv1d, SparseConv2d, SparseConv3d, SparseConvTranspose1d, SparseConvTranspose2d,
                     SparseConvTranspose3d, SparseEmbedding, SparseLinear, SparseMultiheadAttention, choices_of)
from .sparsify import LayerSummary, Summary, densify, sparsify, summary

__all__ = ["LayerSummary", "Sparse", "SparseConv1d", "SparseConv2d", "SparseConv3d", "SparseConvTranspose1d",
           "SparseConvTranspose2d", "SparseConvTranspose3d", "SparseEmbedding", "SparseLinear",
           "SparseMultiheadAttention", "Summary", "choices_of", "densify", "freeze", "sparsify", "summary", "thaw"]
