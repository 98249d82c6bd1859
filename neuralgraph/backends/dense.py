"""The oracle: one dense product per stage."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from .._torch import is_compiling
from ..selectors import Selection
from ..wiring import Stage
from .backend import Backend, Shared
from .layout import Layout
from .transforms import is_transformed

PRODUCTS: dict[int, Callable[..., torch.Tensor]] = {0: F.linear, 1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CHUNK = 2**22  # numbers held at once
SMALL = 2**18  # multiply-adds that a convolution would wait longer for its threads than it computes


class Dense(Backend):
    """A product with the matrix [dst, src] that is zero where no edge is real (a 1x1 convolution of maps).

    Costs n_dst n_src H W multiply-adds per sample whatever k is. The plainest way, and the one that
    all others are tested against.
    """

    def propagate(self, stage: Stage, messages: torch.Tensor, selection: Selection,
                  shared: Shared | None = None) -> torch.Tensor:
        layout = Layout.of(stage)
        matrix = layout.matrix(layout.weight(selection))
        sums = _product(matrix, messages)
        if messages.device.type != "cpu" or is_compiling() or is_transformed(messages) or \
                math.isfinite(sums.detach().sum()):
            return sums
        finite = messages.isfinite()
        if finite.all():
            return sums
        sums = _product(matrix, messages.where(finite, 0))
        return _add_not_finite(sums, stage, messages.where(~finite, 0), selection)


def _product(matrix: torch.Tensor, messages: torch.Tensor) -> torch.Tensor:
    """The sums (B, n_dst, ...) of messages (B, n_src, ...)."""
    space = messages.shape[2:]
    if len(space) and messages.device.type == "cpu" and not is_compiling() and \
            matrix.numel() * len(messages) * space.numel() < SMALL:
        if space.numel() == 1:
            return F.linear(messages.flatten(1), matrix).view(len(messages), -1, *space)
        rows = messages.flatten(2).transpose(1, 2)  # (B, L, n_src)
        return F.linear(rows, matrix).transpose(1, 2).unflatten(2, space)
    return PRODUCTS[len(space)](messages, matrix.view(*matrix.shape, *[1] * len(space)))


def _add_not_finite(sums, stage, messages, selection):
    """Adds the messages that are not finite along real edges, where alone they belong: 0 inf is not 0."""
    layout = Layout.of(stage)
    real, weight = layout.values(selection.real), layout.weight(selection)
    wrong = (messages != 0).transpose(0, 1).flatten(1).any(1)
    edges = (real & wrong[layout.src.long()]).nonzero().flatten()
    for some in edges.split(max(1, CHUNK // max(1, messages[:, 0].numel()))):
        factor = weight[some].view(-1, *[1] * (messages.dim() - 2))
        arriving = factor * messages[:, layout.src[some].long()]
        sums = sums.index_add(1, layout.dst[some].long(), arriving.to(sums.dtype))
    return sums
