"""Weights that are shrunk by a threshold."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import SelectionError
from .candidates import Candidates
from .registry import register
from .selector import check_number
from .topk import RankingSelector


@register("str")
class SoftThreshold(RankingSelector):
    """Every weight is shrunk by a threshold, which is learned or follows from k.

        effective weight  sgn(w) max(|w| - t, 0),    t = sigmoid(s)
        dL/dw = g 1{|w| > t},    dL/ds = -sigmoid'(s) sum of g sgn(w) 1{|w| > t}

    where g is the gradient at the effective weight ("Soft Threshold Weight Reparameterization for Learnable
    Sparsity", Kusupati et al., 2020). s is a parameter, ``selector.threshold``, one for the graph or for each
    layer: where weights decay it does too, towards t = 1/2, which is what makes the network sparse. How many
    candidates are real follows from that. With k, t is the largest |w| outside the k largest instead, nothing but
    weights is learned, and exactly k are real. A kernel is shrunk as a whole, by its norm.

    Args:
        k: number of real edges, 0 to the number of candidates; None for a learned threshold.
        start: of a learned threshold, s at first; by default -10.
        per, group: of k, as for :class:`TopK`; t is that of each group.
    """

    k_is = "optional"

    def __init__(self, k: int | None = None, start: float | None = None, per: str = "graph",
                 group: int | None = None):
        super().__init__(k, "masked", per, group)
        if start is not None:
            check_number("start", start, -1e6, 1e6)
            if k is not None:
                raise SelectionError(f"start is a setting of a learned threshold, but k={k!r} leaves none to learn: "
                                     "leave one of them out.")
        self.start = start
        self.threshold: nn.Parameter | None = None

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        super().prepare(candidates, weight, generator)
        if self.k is None:
            start = -10.0 if self.start is None else self.start
            self.threshold = nn.Parameter(weight.new_full((len(candidates.parts),), start))

    def learned(self) -> torch.Tensor:
        """t of each candidate, (n,)."""
        if self.threshold is None:
            raise SelectionError("this SoftThreshold was made with k and has no threshold to learn: make another one "
                                 "without k.")
        return torch.cat([t.expand(part.num) for t, part in zip(self.threshold.sigmoid(), self.candidates.parts)])

    def select(self, weight: torch.Tensor) -> torch.Tensor:
        if self.k is not None:
            return super().select(weight)
        return self.candidates.magnitude(weight.detach()) > self.learned().detach()

    def effective(self, weight: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        candidates, flat = self.candidates, weight.reshape(-1)
        size = candidates.magnitude(flat)
        if self.k is None:
            t = self.learned()
        else:
            outside = size.detach()
            t = self.groups().greatest(outside.where(~real, outside.new_zeros(())))
        if candidates.num == candidates.num_weights:
            direction = flat.sign()
        else:
            direction = flat / candidates.spread(size).clamp(min=torch.finfo(size.dtype).tiny)
        shrunk = flat - direction * candidates.spread(t)
        mask = candidates.spread(real & (size.detach() > t.detach()))
        return shrunk.where(mask, shrunk.new_zeros(())).view(weight.shape)

    def extra_repr(self) -> str:
        return f"start={-10.0 if self.start is None else self.start}" if self.k is None else \
            f"k={self.k}{self.competition_repr()}"
