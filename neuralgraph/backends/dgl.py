"""DGL message passing."""

from __future__ import annotations

from typing import Any

import torch

from .._dgl import load
from ..errors import ONLY_FIRST_DERIVATIVES, InputError
from ..selectors import Selection
from ..wiring import Stage
from .backend import Backend, Shared
from .layout import Layout
from .transforms import is_transformed, where

NAME = "the backend 'dgl'"


class DGL(Backend):
    """Message passing on one bipartite DGL block per stage, forward and backward.

    Forward: the message of an edge is w_uv z_u, reduced by sum, on the block of real edges. Backward:
    the same on the reversed block for the nodes, and a dot product per candidate edge for the
    weights. Features are nodes-first and two-dimensional, (n, B H W), the layout in which DGL's
    kernels fuse the product with the sum, and at least float32: less is computed in float32 and
    rounded at the end. First derivatives only. DGL's wheels are CPU-only, so tensors elsewhere are
    refused.

    Raises:
        MissingPackageError: where DGL is not installed.
    """

    package = "dgl"

    def __init__(self) -> None:
        load(NAME)

    def propagate(self, stage: Stage, messages: torch.Tensor, selection: Selection,
                  shared: Shared | None = None) -> torch.Tensor:
        if messages.device.type != "cpu" or is_transformed(messages):
            raise InputError(f"the DGL backend computes on the CPU and outside torch, got {where(messages)}: use "
                             "network.backend='dense' there, or network.cpu().")
        batch, _, *space = messages.shape
        layout = Layout.of(stage)
        real = layout.values(selection.real)
        key = (type(self), stage)
        if key not in selection.cache:
            selection.cache[key] = layout.block(real), layout.block(real, reverse=True)
        forward, backward = selection.cache[key]
        features = messages.transpose(0, 1).reshape(messages.shape[1], -1)
        weight = layout.weight(selection)
        dtype = torch.promote_types(torch.promote_types(features.dtype, weight.dtype), torch.float32)
        asked = layout.candidates if selection.reaches_all else forward
        sums = _MessagePassing.apply(features.to(dtype), weight.to(dtype), real, forward, backward, asked)
        return sums.view(-1, batch, *space).transpose(0, 1).to(messages.dtype)


def _ops() -> Any:
    return load(NAME).ops


class _MessagePassing(torch.autograd.Function):
    """Sums over real edges, with gradients for the edges of ``asked``."""

    @staticmethod
    def forward(ctx, features, weight, real, forward, backward, asked):
        kept = weight[real].unsqueeze(1)
        ctx.save_for_backward(features, kept, real)
        ctx.backward_block, ctx.asked = backward, asked
        if forward.num_edges() == 0 or features.shape[1] == 0:
            return features.new_zeros(forward.num_dst_nodes(), features.shape[1])
        with torch.device("cpu"):  # DGL makes its results on torch's default device
            return _ops().u_mul_e_sum(forward, features, kept)

    @staticmethod
    def backward(ctx, gradient):
        if torch.is_grad_enabled():
            raise InputError(ONLY_FIRST_DERIVATIVES)
        features, kept, real = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_features = to_weight = None
        if ctx.needs_input_grad[0]:
            to_features = torch.zeros_like(features)
            if ctx.backward_block.num_edges():
                with torch.device("cpu"):
                    to_features = _ops().u_mul_e_sum(ctx.backward_block, gradient, kept)
        if ctx.needs_input_grad[1]:
            dots = features.new_zeros(0)
            if ctx.asked.num_edges():
                with torch.device("cpu"):
                    dots = _ops().u_dot_v(ctx.asked, features, gradient).flatten()
            if len(dots) == len(real):
                to_weight = dots
            else:
                to_weight = dots.new_zeros(len(real)).masked_scatter(real, dots)
        return to_features, to_weight, None, None, None, None
