"""Finding a wiring among weights that are never trained."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import lookup
from .registry import register
from .selector import check_finite
from .topk import RankingSelector


class _Gate(torch.autograd.Function):
    """1{real} forward, the identity to the scores backward."""

    @staticmethod
    def forward(ctx, score, mask):
        return mask.to(score.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


@register("edge-popup")
class EdgePopup(RankingSelector):
    """The k candidates of largest |s|; the scores s are trained and the weights stay as they are.

        effective weight  w 1{|s| among the k largest};    dL/ds_uv = <Z_u, dL/dI_v> w_uv sgn(s_uv)

    ("What's Hidden in a Randomly Weighted Neural Network?", Ramanujan et al., 2020.) The scores are a
    parameter, ``selector.scores``: make the optimizer after the network. They start uniform in
    (-1/sqrt(n), 1/sqrt(n)) with n the candidates into the node. What else the network learns, such as kernels
    and norms, is trained as always; freeze it to find a wiring alone.

    Args:
        k: number of real edges, 0 to the number of candidates.
        weights: "as-they-are", or "signed-constant": sgn(w) sqrt(2 / (n k / E)), whose variance survives the
            k of E candidates.
        per, group, always, never: as for :class:`TopK`.
    """

    freezes_weight = True

    def __init__(self, k: int, weights: str = "as-they-are", per: str = "graph", group: int | None = None,
                 always: torch.Tensor | None = None, never: torch.Tensor | None = None):
        super().__init__(k, "ste", per, group, always, never)
        lookup("weights", weights, dict.fromkeys(("as-they-are", "signed-constant")))
        self.weights = weights

    def prepare(self, candidates, weight, generator):
        super().prepare(candidates, weight, generator)
        target = candidates.target()
        fan_in = torch.bincount(target)[target].to(weight.dtype) if len(target) else weight.new_zeros(0)
        draw = torch.rand(candidates.num, generator=generator, dtype=weight.dtype)
        self.scores = nn.Parameter((2 * draw - 1) * fan_in.rsqrt())
        if self.weights == "signed-constant" and self.k:
            # of a kernel, every entry is a weight into the node
            entries = candidates.num_weights / max(1, candidates.num)
            size = candidates.spread((2 * candidates.num / (fan_in * entries * self.k)).sqrt())
            weight.copy_(size.where(weight >= 0, -size))

    def select(self, weight):
        check_finite(self.scores)
        return self.groups().top(self.scores.detach().abs())

    def effective(self, weight, real):
        gate = self.candidates.spread(_Gate.apply(self.scores.abs(), real))
        return weight.detach() * gate.view(weight.shape)

    def extra_repr(self):
        return f"k={self.k}, weights={self.weights!r}"
