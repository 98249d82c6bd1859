"""A threshold without a jump."""

from __future__ import annotations

import torch

from .registry import register
from .selector import check_number
from .topk import RankingSelector


class _Feather(torch.autograd.Function):
    """A given value forward; backward 1 where real and theta elsewhere."""

    @staticmethod
    def forward(ctx, weight, value, mask, theta):
        ctx.save_for_backward(mask)
        ctx.theta = theta
        return value

    @staticmethod
    def backward(ctx, gradient):
        mask, = ctx.saved_tensors
        return gradient.where(mask, ctx.theta * gradient), None, None, None


@register("feather")
class Feather(RankingSelector):
    """The k candidates of largest |w|, shrunk so that the weights pass through 0 as they come and go.

        effective weight  sgn(w) (|w|^3 - tau^3)^(1/3)  of the k largest, 0 elsewhere
        dL/dw = g of these, theta g elsewhere

    where g is the gradient at the effective weight and tau the largest |w| that is not real ("Feather: An
    Elegant Solution to Effective DNN Sparsification", Glandorf et al., 2023). The number of real candidates
    falls from all to k:

        k_u = k + (E - k) (1 - u / ramp)^3   while the share u of all steps is below ramp

    A kernel is shrunk as a whole, by its norm. Differs from the paper: k is met exactly.

    Args:
        k: number of real edges in the end, 0 to the number of candidates.
        theta: by default 1 up to a sparsity 1 - k / E of 95 %, and 0.5 above.
        ramp: see above; the paper's is a half.
        per, group: what candidates compete within, as for :class:`TopK`.
    """

    scheduled = True

    def __init__(self, k: int, theta: float | None = None, ramp: float = 0.5, per: str = "graph",
                 group: int | None = None):
        super().__init__(k, "ste", per, group)
        self.theta = theta if theta is None else check_number("theta", theta, 0, 1)
        self.ramp = check_number("ramp", ramp, 0, 1)

    def remaining(self) -> torch.Tensor:
        clock = self.clock.cpu().double()
        left = 1 - clock[0] / clock[1].clamp(min=1) / self.ramp if self.ramp else clock.new_zeros(())
        return self.groups().remaining(left.clamp(min=0)**3)

    @property
    def reaches_all(self) -> bool:
        return self._share_outside > 0

    @property
    def _share_outside(self) -> float:
        """theta."""
        if self.theta is not None:
            return self.theta
        return 1.0 if 20 * self.k >= self.candidates.num else 0.5

    def effective(self, weight: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        candidates = self.candidates
        size = candidates.magnitude(weight.detach().reshape(-1))
        tau = self.groups().greatest(size.where(~real, size.new_zeros(())))
        shrunk = (size**3 - tau**3).clamp(min=0).pow(1 / 3) / size
        factor = shrunk.where(real & (size > tau), size.new_zeros(()))
        value, mask = (candidates.spread(part).view(weight.shape) for part in (factor, real))
        return _Feather.apply(weight, weight.detach() * value, mask, self._share_outside)

    def extra_repr(self) -> str:
        return f"k={self.k}, ramp={self.ramp}{self.competition_repr()}"
