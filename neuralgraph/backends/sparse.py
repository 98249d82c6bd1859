"""Sums over the real edges only, compiled for the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import torch

from .. import kernels
from ..errors import ONLY_FIRST_DERIVATIVES, InputError
from ..kernels.edges import EdgeList
from ..selectors import Selection
from ..wiring import Stage
from .backend import Backend, Shared
from .layout import Layout
from .pool import first_gradient
from .transforms import is_transformed, where

if kernels.AVAILABLE:
    from ..kernels.matrix_units import factor_terms
    from ..kernels.operators import channel_rows, edge_dots, weighted_sums, weighted_sums_into
else:
    from ..kernels.plain import channel_rows, edge_dots, factor_terms, weighted_sums, weighted_sums_into

SHORT = 16      # maps of fewer pixels are joined over the batch into longer rows
PIECE = 2048    # numbers of a row that one matrix product runs over
DENSE_DOTS = 5, 20, 12  # dot products that a matrix product computes in the time of one by itself: exact, of one term, of two


class Sparse(Backend):
    """Forward and node gradients over real edges only: k H W multiply-adds per sample.

    The gradient of the candidate edges is one matrix product per stage, <Z_u, dL/dI_v> for all pairs,
    where more than a fifth of the pairs are asked for, otherwise a dot product per edge. CPUs with matrix
    units (AMX) take its factors as one or two bfloat16 where :func:`torch.set_float32_matmul_precision` allows
    "medium" or "high", and then from a twentieth or a twelfth on. Gradients can be taken once; for second
    derivatives use the dense backend.

    On the CPU, in float32 or float64: less is computed in float32 and rounded at the end. Without
    numba, torch's own sparse products do the same, slower.
    """

    fuses_nodes = kernels.AVAILABLE

    def __init__(self):
        if not kernels.AVAILABLE:
            warnings.warn("numba is not installed or switched off, so the sparse backend uses torch's "
                          "own operations, which are slower: pip install numba", stacklevel=3)

    def propagate(self, stage: Stage, messages: torch.Tensor, selection: Selection,
                  shared: Shared | None = None) -> torch.Tensor:
        if messages.device.type != "cpu" or is_transformed(messages):
            raise InputError(f"the sparse backend computes on the CPU and outside torch, got {where(messages)}: use "
                             "backend='dense' or 'auto' there.")
        weight, space = Layout.of(stage).weight(selection), messages.shape[2:]
        dtype = torch.promote_types(torch.promote_types(messages.dtype, weight.dtype), torch.float32)
        edges, reaches_all = _Edges.of(stage, selection), selection.reaches_all
        joint, terms, pool, rows = None, 0, None, None
        if torch.is_grad_enabled():
            terms = factor_terms() if dtype == torch.float32 else 0
            if shared is not None and dtype == messages.dtype:
                pool, rows = shared.pool, slice(shared.first, shared.last)
                if not terms and edges.multiplies(reaches_all, terms):
                    joint = _Joint(shared)
        how = reaches_all, terms, joint
        if pool is None:
            sums = _Propagate.apply(_flat(messages).to(dtype), weight.to(dtype), edges, how, None)
        else:
            sums, pool.state = _Propagate.apply(pool.state, weight.to(dtype), edges, how, rows)
        return sums.reshape(*sums.shape[:2], *space).to(messages.dtype)


class _Edges:
    """The real edges of one selection into one stage, and how their gradients are computed."""

    def __init__(self, layout: Layout, real: torch.Tensor):
        self.layout = layout
        if layout.is_sorted:
            self.by_dst, self._by_src = EdgeList.of_entries(real, layout.entries, layout.shape), None
        else:  # sums run over sources in their order, whatever the order of edges
            src, dst = (torch.from_numpy(np.concatenate(some)).int() for some in zip(*layout.ends.pieces()))  # not kept
            self._by_src = EdgeList.of(real, src, dst, layout.shape[1])
            self.by_dst = self._by_src.transposed(layout.shape[0])

    def multiplies(self, reaches_all: bool, terms: int) -> bool:
        """Whether a matrix product computes the dot products of all pairs."""
        asked = len(self.layout.ends) if reaches_all else len(self.by_dst.index)
        return asked * DENSE_DOTS[terms] > self.layout.shape[0] * self.layout.shape[1]

    @classmethod
    @torch.inference_mode(False)  # what is kept while evaluating must serve training too
    def of(cls, stage: Stage, selection) -> _Edges:
        key = (Sparse, stage)
        if key not in selection.cache:
            layout = Layout.of(stage)
            selection.cache[key] = cls(layout, layout.values(selection.real))
        return selection.cache[key]

    @property
    @torch.inference_mode(False)
    def by_src(self):
        if self._by_src is None:
            self._by_src = self.by_dst.transposed(self.layout.shape[1])
        return self._by_src

    def dots(self, messages: torch.Tensor, gradient: torch.Tensor, reaches_all: bool, terms: int,
             joint: _Joint | None) -> torch.Tensor:
        """<Z_u, dL/dI_v> over batch and pixels: of all candidates, or of real edges and 0 elsewhere."""
        layout = self.layout
        if self.multiplies(reaches_all, terms):
            if terms:
                matrix = torch.ops.neuralgraph.pair_products.default(messages, gradient, terms).T
            else:
                pieces = map(channel_rows, _pieces(messages)) if joint is None else joint.pieces(messages)
                matrix = gradient.new_empty(layout.shape)
                for number, (some, other) in enumerate(zip(_pieces(gradient), pieces)):
                    matrix.addmm_(channel_rows(some), other.T, beta=min(number, 1))  # the first overwrites what is there
            dots = matrix.flatten()
            if layout.entries is not None:
                dots = dots.index_select(0, layout.entries)
            if reaches_all:
                return dots
            real = torch.zeros_like(dots, dtype=torch.bool)
            real[self.by_dst.place.long()] = True
            return dots.where(real, dots.new_zeros(()))
        if reaches_all:
            return edge_dots(messages, gradient, layout.src, layout.dst)
        dots = edge_dots(messages, gradient, self.by_dst.index, self.by_dst.rows)
        return dots.new_zeros(len(layout.ends)).index_copy(0, self.by_dst.place.long(), dots)


class _Propagate(torch.autograd.Function):
    """Sums (B, n_dst, L) of messages (B, n_src, L) over real edges.

    Of messages that are some ``rows`` of a pool's state, from the state, which is a result too.
    """

    @staticmethod
    def forward(ctx, messages, weight, edges, how, rows):
        ctx.set_materialize_grads(False)
        state, ctx.shape, ctx.rows = messages, messages.shape, rows
        if rows is not None:
            messages = _flat(state.data[:, rows].data)
        messages = _with_unit_stride(messages)
        kept = weight[edges.by_dst.place]
        ctx.save_for_backward(messages, weight)
        ctx.edges, ctx.how = edges, how
        sums = _sums(messages, edges.by_dst, kept)
        return sums if rows is None else (sums, state.data)

    @staticmethod
    def backward(ctx, gradient, total=None):
        if torch.is_grad_enabled():
            raise InputError(ONLY_FIRST_DERIVATIVES)
        if gradient is None:
            return total, None, None, None, None
        messages, weight = ctx.saved_tensors
        gradient = _with_unit_stride(gradient)
        to_weight = None
        if ctx.needs_input_grad[0]:
            edges = ctx.edges.by_src
            total = _add_to_messages(total, gradient, edges, weight[edges.place], ctx.shape, ctx.rows)
        if ctx.needs_input_grad[1]:
            to_weight = ctx.edges.dots(messages, gradient, *ctx.how)
        return total, to_weight, None, None, None


def _add_to_messages(total, gradient, edges, weight, shape, rows):
    """The gradient of messages, or of a pool's state, to which is added that of some rows."""
    if rows is None:
        return _sums(gradient, edges, weight)
    is_first = total is None
    if is_first:
        total = first_gradient(gradient, shape, rows)
    part = _flat(total[:, rows])
    if not _are_joined(part):
        weighted_sums_into(part, gradient, edges.first, edges.index, weight, not is_first)
    elif is_first:
        part[:] = _sums(gradient, edges, weight)
    else:
        part += _sums(gradient, edges, weight)
    return total


class _Joint:
    """Messages that several stages read, joined over the batch once for the gradients of all.

    What is joined for one stage is kept until the first in the forward pass of those that read a part of it
    is done, since gradients usually come in the reverse order; in any other order they are right too.
    """

    def __init__(self, shared: Shared):
        self.cache, self.first, self.last = shared.cache, shared.first, shared.last
        self.readers = self.cache.setdefault("readers", [])
        self.number = len(self.readers)
        self.readers.append((self.first, self.last))

    def pieces(self, messages: torch.Tensor) -> Iterable[torch.Tensor]:
        """The messages (B, n, L) by pieces of the batch b, as (n, b L)."""
        kept = self.cache.get("kept")
        if kept is None or not kept[0] <= self.first <= self.last <= kept[1]:
            until = next(number for number, (first, last) in enumerate(self.readers)
                         if self.first <= first <= last <= self.last)
            if until == self.number:  # nobody else will want them
                return map(channel_rows, _pieces(messages))
            kept = self.first, self.last, until, tuple(map(channel_rows, _pieces(messages)))
            self.cache["kept"] = kept
        elif self.number == kept[2]:
            self.cache.pop("kept", None)
        return [piece[self.first - kept[0]:self.last - kept[0]] for piece in kept[3]]


def _sums(x, edges, weight):
    """Sums (B, rows, L) over the lists; short maps as one long row per node."""
    if not _are_joined(x):
        return weighted_sums(x, edges.first, edges.index, weight)
    sums = weighted_sums(channel_rows(x)[None], edges.first, edges.index, weight)
    return sums[0].unflatten(1, (len(x), x.shape[2])).transpose(0, 1)


def _flat(x):
    return x.reshape(*x.shape[:2], -1)


def _are_joined(x):
    return x.shape[2] < SHORT and len(x) > 1


def _pieces(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """x (B, n, L) by pieces of the batch that a matrix product runs over at a time."""
    return x.split(max(1, PIECE // x.shape[2]))


def _with_unit_stride(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(2) == 1 else x.contiguous()
