"""Sums over the real edges only, compiled for the CPU."""

from __future__ import annotations

import warnings

import torch

from .. import kernels
from ..errors import ONLY_FIRST_DERIVATIVES, InputError
from ..kernels.edges import EdgeList
from ..wiring import Stage
from .backend import Backend

if kernels.AVAILABLE:
    from ..kernels.operators import edge_dots, joined, weighted_sums
else:
    from ..kernels.plain import edge_dots, joined, weighted_sums

SHORT = 16      # maps of fewer pixels are joined over the batch into longer rows
PIECE = 2048    # numbers of a row that one matrix product runs over
DENSE_DOTS = 6  # a matrix product computes this many dot products in the time of one sampled one


class Sparse(Backend):
    """Forward and node gradients over real edges only: k H W multiply-adds per sample.

    The gradient of the candidate edges is one matrix product per stage, <Z_u, dL/dI_v> for all pairs,
    where more than a sixth of the pairs are asked for, otherwise a dot product per edge. Gradients
    can be taken once; for second derivatives use the dense backend.

    On the CPU, in float32 or float64: less is computed in float32 and rounded at the end. Without
    numba, torch's own sparse products do the same, slower.
    """

    fuses_nodes = kernels.AVAILABLE

    def __init__(self):
        if not kernels.AVAILABLE:
            warnings.warn("numba is not installed or switched off, so the sparse backend uses torch's "
                          "own operations, which are slower: pip install numba", stacklevel=3)

    def propagate(self, stage, messages, selection):
        if messages.device.type != "cpu":
            raise InputError(f"the sparse backend computes on the CPU, but the network is on "
                             f"{messages.device}: use backend='dense' or 'auto' there.")
        weight, (height, width) = stage.values(selection.weight), messages.shape[2:]
        dtype = torch.promote_types(torch.promote_types(messages.dtype, weight.dtype), torch.float32)
        sums = _Propagate.apply(messages.to(dtype).flatten(2), weight.to(dtype),
                                _Edges.of(stage, selection))
        return sums.unflatten(2, (height, width)).to(messages.dtype)


class _Edges:
    """The real edges of one selection into one stage, and how their gradients are computed."""

    def __init__(self, stage: Stage, real: torch.Tensor, reaches_all: bool):
        self.sizes = len(stage.nodes), len(stage.sources)
        self.stage, self.reaches_all = stage, reaches_all
        src, dst = stage.ends
        if stage.is_sorted:
            self.by_dst, self._by_src = EdgeList.of(real, dst, src, self.sizes[0]), None
        else:  # sums run over sources in their order, whatever the order of edges
            self._by_src = EdgeList.of(real, src, dst, self.sizes[1])
            self.by_dst = self._by_src.transposed(self.sizes[0])

    @classmethod
    @torch.inference_mode(False)  # what is kept while evaluating must serve training too
    def of(cls, stage: Stage, selection) -> _Edges:
        key = (Sparse, stage)
        if key not in selection.cache:
            selection.cache[key] = cls(stage, stage.values(selection.real), selection.reaches_all)
        return selection.cache[key]

    @property
    @torch.inference_mode(False)
    def by_src(self):
        if self._by_src is None:
            self._by_src = self.by_dst.transposed(self.sizes[1])
        return self._by_src

    def dots(self, messages: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """<Z_u, dL/dI_v> over batch and pixels: of all candidates, or of real edges and 0 elsewhere."""
        stage, (rows, columns) = self.stage, self.sizes
        asked = len(stage.edges) if self.reaches_all else len(self.by_dst.index)
        if asked * DENSE_DOTS > rows * columns:
            matrix = _all_dots(gradient, messages)
            if stage.is_full_matrix:
                dots = matrix.flatten()
            else:
                dots = matrix.flatten()[stage.position]
            if self.reaches_all:
                return dots
            real = torch.zeros(len(dots), dtype=torch.bool)
            real[self.by_dst.place.long()] = True
            return dots.where(real, dots.new_zeros(()))
        if self.reaches_all:
            return edge_dots(messages, gradient, *stage.ends)
        dots = edge_dots(messages, gradient, self.by_dst.index, self.by_dst.rows)
        return dots.new_zeros(len(stage.edges)).index_copy(0, self.by_dst.place.long(), dots)


class _Propagate(torch.autograd.Function):
    """Sums (B, n_dst, L) of messages (B, n_src, L) over real edges."""

    @staticmethod
    def forward(ctx, messages, weight, edges):
        messages = _with_unit_stride(messages)
        kept = weight[edges.by_dst.place]
        ctx.save_for_backward(messages, weight)
        ctx.edges = edges
        return _sums(messages, edges.by_dst, kept)

    @staticmethod
    def backward(ctx, gradient):
        if torch.is_grad_enabled():
            raise InputError(ONLY_FIRST_DERIVATIVES)
        messages, weight = ctx.saved_tensors
        gradient = _with_unit_stride(gradient)
        to_messages = to_weight = None
        if ctx.needs_input_grad[0]:
            edges = ctx.edges.by_src
            to_messages = _sums(gradient, edges, weight[edges.place])
        if ctx.needs_input_grad[1]:
            to_weight = ctx.edges.dots(messages, gradient)
        return to_messages, to_weight, None


def _sums(x, edges, weight):
    """Sums (B, rows, L) over the lists; short maps as one long row per node."""
    batch, _, length = x.shape
    if length >= SHORT or batch == 1:
        return weighted_sums(x, edges.first, edges.index, weight)
    sums = weighted_sums(joined(x)[None], edges.first, edges.index, weight)
    return sums[0].unflatten(1, (batch, length)).transpose(0, 1)


def _all_dots(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """<x_v, y_u> for all pairs, (m, n), from (B, m, L) and (B, n, L), a piece of the batch at a time."""
    samples = max(1, PIECE // x.shape[2])
    dots = x.new_zeros(x.shape[1], y.shape[1])
    for some, others in zip(x.split(samples), y.split(samples)):
        dots.addmm_(joined(some), joined(others).T)
    return dots


def _with_unit_stride(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(2) == 1 else x.contiguous()
