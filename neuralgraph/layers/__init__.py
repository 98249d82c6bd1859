"""Sparse layers for ordinary models."""

from .sparse import SparseConv2d, SparseLinear, densify, sparsify

__all__ = ["SparseConv2d", "SparseLinear", "densify", "sparsify"]
