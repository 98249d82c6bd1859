"""A soft top k that hardens."""

from __future__ import annotations

import torch

from ..errors import SelectionError
from .candidates import Candidates
from .groups import Groups
from .registry import register
from .selector import check_number
from .topk import RankingSelector

ITERATIONS, TOLERANCE = 100, 0.01  # of the transport problem


def soft_top_k(score: torch.Tensor, groups: Groups, keep: torch.Tensor, beta: float) -> torch.Tensor:
    """A mask with values from 0 to 1 that sums up to ``keep`` (G,) in each group: m (P,), of competitors' scores.

    Entropic optimal transport with unit costs. Of the iteration with z = beta (score - tau_k),

        mu = ln k - logsumexp(z + nu),    nu = -softplus(z + mu);    m = exp(z + mu + nu)

    from mu = 0, a round comes to mu <- mu + ln k - ln sum(m), and m to sigmoid(z + mu). It ends once the relative
    change of every mu is below 0.01.
    """
    size, keep = groups.size.to(score.device), keep.to(score.device)
    is_soft = (keep > 0) & (keep < size)
    # any constant would do for tau_k, which mu makes up for, but so rounds begin near their end
    tau = groups.least(score.where(groups.best(score, keep), score.new_full((), torch.inf)))
    z = beta * (score - groups.expanded(tau.where(is_soft, tau.new_zeros(()))))
    mu = torch.zeros_like(tau)
    for _ in range(ITERATIONS):
        total = groups.sums((z + groups.expanded(mu)).sigmoid())
        change = (keep / total).log().where(is_soft, mu.new_zeros(()))
        mu = mu + change
        if (change.abs() <= TOLERANCE * mu.abs()).all():
            break
    m = (z + groups.expanded(mu)).sigmoid()
    return m.where(groups.expanded(is_soft), groups.expanded((keep > 0).to(m.dtype)))


class _Spartan(torch.autograd.Function):
    """A given value forward; backward the derivative of w m, with m as :func:`soft_top_k` has it."""

    @staticmethod
    def forward(ctx, weight, value, m, selector):
        ctx.save_for_backward(weight, m)
        ctx.selector, ctx.beta, ctx.groups = selector, selector.sharpness, selector.groups()
        return value

    @staticmethod
    def backward(ctx, gradient):
        weight, m = ctx.saved_tensors
        candidates, groups = ctx.selector.candidates, ctx.groups
        gradient, weight = gradient.reshape(-1), weight.detach()
        flat = weight.reshape(-1)
        h, v = groups.pooled(candidates.gather(gradient * flat)), m * (1 - m)
        # k - sum(m^2) is sum(m (1 - m)), which stays positive where m sums up to k but for the tolerance
        mean = groups.sums(h * v) / groups.sums(v).clamp(min=torch.finfo(v.dtype).tiny)
        slope = groups.handed_on(ctx.beta * v * (h - groups.expanded(mean)))
        size = candidates.magnitude(flat)
        direction = flat / candidates.spread(size).clamp(min=torch.finfo(size.dtype).tiny)
        result = gradient * candidates.spread(groups.handed_on(m)) + direction * candidates.spread(slope)
        return result.view(weight.shape), None, None, None


@register("spartan")
class Spartan(RankingSelector):
    """The k candidates of largest |w|, times a soft mask through which gradients weigh them against each other.

        effective weight  w m 1{m among the k largest},    m = soft top k of |w|, of sharpness b
        dL/dw = g m + sgn(w) b m (1 - m) (h - sum of h m (1 - m) / (k - sum of m^2)),    h = g w

    where g is the gradient at the effective weight, of every candidate, and sums go over what competes; m is
    :func:`~neuralgraph.selectors.spartan.soft_top_k` ("Spartan: Differentiable Sparsity via Regularized
    Transportation", Tai et al., 2022). k falls linearly from all candidates until the share ``ramp`` of all steps;
    b rises linearly from 1 to ``sharpest`` until the share ``end``, after which m and with it the mask are frozen
    and gradients reach real candidates only. With ``sharpest`` towards infinity m becomes 1{real}: the network is
    DNW's then, and the gradient that of real edges only. A kernel has one m.

    Args:
        k: number of real edges in the end, 0 to the number of candidates.
        sharpest: b in the end, at least 1.
        ramp, end: see above.
        per, group: what candidates compete within, as for :class:`TopK`.
    """

    frozen: torch.Tensor
    scheduled = True

    def __init__(self, k: int, sharpest: float = 20.0, ramp: float = 0.2, end: float = 0.8, per: str = "graph",
                 group: int | None = None):
        super().__init__(k, "ste", per, group)
        if not check_number("ramp", ramp, 0, 1) <= check_number("end", end, 0, 1) or not end:
            raise SelectionError(f"expected 0 <= ramp <= end and an end above 0, got ramp={ramp}, end={end}.")
        self.sharpest, self.ramp, self.end = check_number("sharpest", sharpest, 1), ramp, end

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        super().prepare(candidates, weight, generator)
        self.register_buffer("frozen", torch.zeros(candidates.num, dtype=weight.dtype))  # m, once it is

    @property
    def is_frozen(self) -> bool:
        return bool(self.frozen.any())

    @property
    def sharpness(self) -> float:
        """b of now."""
        return 1 + (self.sharpest - 1) * min(1.0, self.progress / self.end)

    def remaining(self) -> torch.Tensor:
        left = max(0.0, 1 - self.progress / self.ramp) if self.ramp else 0.0
        return self.groups().remaining(left)

    def soft(self, weight: torch.Tensor) -> torch.Tensor:
        """m of what competes, (P,), from the weights (W,)."""
        groups = self.groups()
        score = groups.pooled(self.candidates.magnitude(weight.detach()))
        return soft_top_k(score, groups, self.remaining(), self.sharpness)

    def select(self, weight: torch.Tensor) -> torch.Tensor:
        if self.is_frozen:
            return self.groups().top(self.frozen)
        return super().select(weight)

    @property
    def reaches_all(self) -> bool:
        return not self.is_frozen

    def effective(self, weight: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        if self.is_frozen:
            m = self.frozen.where(real, self.frozen.new_zeros(()))
            return weight * self.candidates.spread(m).view(weight.shape)
        with torch.no_grad():
            m = self.soft(weight.reshape(-1))
            value = self.groups().handed_on(m)
            value = self.candidates.spread(value.where(real, value.new_zeros(()))).view(weight.shape)
        return _Spartan.apply(weight, weight.detach() * value, m, self)

    def update(self, step: int, total_steps: int, weight: torch.Tensor,
               gradient: torch.Tensor | None) -> None:
        if self.progress >= self.end and not self.is_frozen:
            m = self.groups().handed_on(self.soft(weight))
            self.frozen.copy_(m.where(self.select(weight), m.new_zeros(())))

    def extra_repr(self) -> str:
        return f"k={self.k}, sharpest={self.sharpest}{self.competition_repr()}"
