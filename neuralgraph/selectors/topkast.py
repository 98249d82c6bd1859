"""A few candidates forward, some more backward."""

from __future__ import annotations

import torch

from .registry import register
from .selector import check_number
from .topk import RankingSelector


class _Passed(torch.autograd.Function):
    """A given value forward; backward 1 on a mask, 0 elsewhere."""

    @staticmethod
    def forward(ctx, weight, value, mask):
        ctx.save_for_backward(mask)
        return value

    @staticmethod
    def backward(ctx, gradient):
        mask, = ctx.saved_tensors
        return gradient.where(mask, gradient.new_zeros(())), None, None


@register("top-kast")
class TopKAST(RankingSelector):
    """The k candidates of largest |w| are real, and gradients reach the M next largest too.

        effective weight  w 1{A},    dL/dw = g 1{B},    A = top k, B = top k + M
        the loss gains  strength (sum of w^2 over A + sum of w^2 over B without A / D),    D = k / E

    where g is the gradient at the effective weight and E the number of candidates ("Top-KAST: Top-K Always Sparse
    Training", Jayakumar et al., 2020). The penalty, which :func:`neuralgraph.rewire` adds, is what makes absent
    weights small, so that they must be worth their coming in. ``backward=1`` and ``strength=0`` is DNW,
    ``backward=0`` the No Update Rule.

    Args:
        k: number of real edges, 0 to the number of candidates.
        backward: the share of absent candidates that gradients reach: M = ceil(backward (E - k)).
        strength: lambda of the penalty.
        per, group: what candidates compete within, as for :class:`TopK`.
    """

    def __init__(self, k: int, backward: float = 0.5, strength: float = 1e-4, per: str = "graph",
                 group: int | None = None):
        super().__init__(k, "ste", per, group)
        self.backward = check_number("backward, a share,", backward, 0, 1)
        self.strength = check_number("strength", strength, 0)

    @property
    def reaches_all(self) -> bool:
        return self.backward > 0

    def reached(self, weight: torch.Tensor) -> torch.Tensor:
        """B, a mask (n,), from the weights (W,)."""
        groups = self.groups()
        return groups.top(self.candidates.magnitude(weight.detach()), groups.remaining(self.backward))

    def effective(self, weight: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        mask = self.candidates.spread(self.reached(weight.reshape(-1))).view(weight.shape)
        value = weight.detach().where(self.candidates.spread(real).view(weight.shape), weight.new_zeros(()))
        return _Passed.apply(weight, value, mask)

    def penalty(self, weight: torch.Tensor) -> torch.Tensor | None:
        if not self.k or not self.strength:
            return None
        square, real = self.candidates.gather(weight.square()), self.select(weight)
        absent = self.reached(weight) & ~real
        return self.strength * (square[real].sum() + square[absent].sum() * self.candidates.num / self.k)

    def extra_repr(self) -> str:
        return f"k={self.k}, backward={self.backward}, strength={self.strength}{self.competition_repr()}"
