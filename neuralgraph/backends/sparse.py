"""Sums over the real edges only, compiled for the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

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
        edges = _Edges.of(stage, selection)
        is_shared = dtype == messages.dtype and edges.multiplies and torch.is_grad_enabled()
        sums = _Propagate.apply(messages.to(dtype).flatten(2), weight.to(dtype), edges,
                                _Joint.of(messages) if is_shared else None)
        return sums.unflatten(2, (height, width)).to(messages.dtype)


class _Edges:
    """The real edges of one selection into one stage, and how their gradients are computed."""

    def __init__(self, stage: Stage, real: torch.Tensor, reaches_all: bool):
        self.sizes = len(stage.nodes), len(stage.sources)
        self.stage, self.reaches_all = stage, reaches_all
        src, dst = stage.src, stage.dst
        if stage.is_sorted:
            self.by_dst, self._by_src = EdgeList.of(real, dst, src, self.sizes[0]), None
        else:  # sums run over sources in their order, whatever the order of edges
            self._by_src = EdgeList.of(real, src, dst, self.sizes[1])
            self.by_dst = self._by_src.transposed(self.sizes[0])

    @property
    def multiplies(self) -> bool:
        """Whether a matrix product computes the dot products of all pairs."""
        asked = len(self.stage.src) if self.reaches_all else len(self.by_dst.index)
        return asked * DENSE_DOTS > self.sizes[0] * self.sizes[1]

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

    def dots(self, messages: torch.Tensor, gradient: torch.Tensor, joint: _Joint | None) -> torch.Tensor:
        """<Z_u, dL/dI_v> over batch and pixels: of all candidates, or of real edges and 0 elsewhere."""
        stage, (rows, columns) = self.stage, self.sizes
        if self.multiplies:
            pieces = map(joined, _pieces(messages)) if joint is None else joint.pieces(messages)
            matrix = gradient.new_zeros(rows, columns)
            for some, other in zip(_pieces(gradient), pieces):
                matrix.addmm_(joined(some), other.T)
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
            return edge_dots(messages, gradient, stage.src, stage.dst)
        dots = edge_dots(messages, gradient, self.by_dst.index, self.by_dst.rows)
        return dots.new_zeros(len(stage.src)).index_copy(0, self.by_dst.place.long(), dots)


class _Propagate(torch.autograd.Function):
    """Sums (B, n_dst, L) of messages (B, n_src, L) over real edges."""

    @staticmethod
    def forward(ctx, messages, weight, edges, joint):
        messages = _with_unit_stride(messages)
        kept = weight[edges.by_dst.place]
        ctx.save_for_backward(messages, weight)
        ctx.edges, ctx.joint = edges, joint
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
            to_weight = ctx.edges.dots(messages, gradient, ctx.joint)
        return to_messages, to_weight, None, None


class _Joint:
    """Messages that several stages read, joined over the batch once for the gradients of all.

    Gradients are computed from the last stage to the first, so the stage that reads the most comes before
    those whose messages are among its own; they are kept until the first of these in the graph is done.
    """

    def __init__(self, cache: dict, first: int, count: int):
        self.cache, self.first, self.last = cache, first, first + count
        self.readers = cache.setdefault("readers", [])
        self.number = len(self.readers)
        self.readers.append((self.first, self.last))

    @classmethod
    def of(cls, messages: torch.Tensor) -> _Joint | None:
        """What the network says in the attribute ``shared`` of messages that lie side by side."""
        shared = getattr(messages, "shared", None)
        return None if shared is None else cls(*shared, messages.shape[1])

    def pieces(self, messages: torch.Tensor) -> Iterable[torch.Tensor]:
        """The messages (B, n, L) by pieces of the batch b, as (n, b L)."""
        kept = self.cache.get("kept")
        if kept is None or not kept[0] <= self.first <= self.last <= kept[1]:
            until = next(number for number, (first, last) in enumerate(self.readers)
                         if self.first <= first <= last <= self.last)
            if until == self.number:  # nobody else will want them
                return map(joined, _pieces(messages))
            kept = self.first, self.last, until, tuple(map(joined, _pieces(messages)))
            self.cache["kept"] = kept
        elif self.number == kept[2]:
            self.cache.pop("kept", None)
        return [piece[self.first - kept[0]:self.last - kept[0]] for piece in kept[3]]


def _sums(x, edges, weight):
    """Sums (B, rows, L) over the lists; short maps as one long row per node."""
    batch, _, length = x.shape
    if length >= SHORT or batch == 1:
        return weighted_sums(x, edges.first, edges.index, weight)
    sums = weighted_sums(joined(x)[None], edges.first, edges.index, weight)
    return sums[0].unflatten(1, (batch, length)).transpose(0, 1)


def _pieces(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """x (B, n, L) by pieces of the batch that a matrix product runs over at a time."""
    return x.split(max(1, PIECE // x.shape[2]))


def _with_unit_stride(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(2) == 1 else x.contiguous()
