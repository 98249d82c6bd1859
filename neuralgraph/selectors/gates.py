"""Gates and noise that are drawn at every forward of a training, and learned."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import SelectionError
from .candidates import Candidates
from .fixed import Uncounted
from .registry import register
from .selector import Selector, check_finite, check_number
from .topk import RankingSelector

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1  # of the hard concrete distribution
LOG_ALPHA = math.log(100)             # at most, either way
K1, K2, K3 = 0.63576, 1.87320, 1.48695  # of the approximation of the divergence
LARGEST = 8.0                           # log alpha of a weight that is all noise


class Noisy(Selector):
    """Mixed into selectors whose effective weights are drawn in training.

    What was drawn belongs to the mask of the same forward: :meth:`effective` finds it by that mask, and finds
    none for the masks of evaluation.
    """

    _drawn: tuple[torch.Tensor, torch.Tensor] | None = None

    def drawn(self, real: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """This mask, with its noise kept for the forward that uses it."""
        self._drawn = real, noise
        return real

    def noise(self, real: torch.Tensor) -> torch.Tensor | None:
        """What was drawn for this very mask; None for one that was chosen without."""
        return self._drawn[1] if self._drawn is not None and self._drawn[0] is real else None

    def __getstate__(self):
        return {**super().__getstate__(), "_drawn": None}


@register("l0")
class L0(Noisy, Uncounted):
    """A gate on every candidate that can be exactly 0, and a penalty on the gates that are not expected to be.

    In training, with u ~ U(0, 1) per candidate and forward from torch's global generator,

        effective weight  w z,    z = clip(s (zeta - gamma) + gamma, 0, 1)
        s = sigmoid((log u - log(1 - u) + log alpha) / beta);    in evaluation s = sigmoid(log alpha)

    with beta = 2/3, gamma = -0.1 and zeta = 1.1. The loss gains ``strength`` times the expected number of gates
    that are not 0, sum of sigmoid(log alpha - beta log(-gamma / zeta)) ("Learning Sparse Neural Networks through L0
    Regularization", Louizos et al., 2018). Real is what has z > 0: how many, ``num_real``, follows from the
    penalty and cannot be set. log alpha is a parameter, ``selector.log_alpha``, kept within +-log 100, and starts
    at log((1 - drop) / drop) + N(0, 0.01^2). The penalty is added by :func:`neuralgraph.rewire`.

    Args:
        k: None.
        strength: lambda of the penalty. By plain SGD gates that the loss has no use for close where strength times
            the sum of all rates (over 1 - momentum) is 10 to 20; a much larger one closes all.
        drop: the share of gates that is closed at first, above 0 and below 1; the paper's is 0.3 to 0.5.
    """

    because = "finds the number of real edges by its penalty"

    def __init__(self, k: None = None, strength: float = 1e-2, drop: float = 0.5):
        super().__init__("masked")
        self.k = k
        self.strength = check_number("strength", strength, 0)
        if not 0 < check_number("drop, a share,", drop, 0, 1) < 1:
            raise SelectionError(f"drop, a share, must be above 0 and below 1, got {drop!r}.")
        self.drop = drop

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        draw = torch.randn(candidates.num, generator=generator, dtype=weight.dtype)
        self.log_alpha = nn.Parameter(math.log((1 - self.drop) / self.drop) + 0.01 * draw)

    def gate(self, noise: torch.Tensor | None = None) -> torch.Tensor:
        """z (n,), of log u - log(1 - u) or as evaluation has it."""
        logit = self.log_alpha if noise is None else (self.log_alpha + noise) / BETA
        return (logit.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    @torch.no_grad()
    def sample(self, weight: torch.Tensor) -> torch.Tensor:
        check_finite(self.log_alpha)
        least = torch.finfo(self.log_alpha.dtype).eps
        noise = torch.rand_like(self.log_alpha).clamp(least, 1 - least).logit()
        return self.drawn(self.gate(noise) > 0, noise)

    @torch.no_grad()
    def select(self, weight: torch.Tensor) -> torch.Tensor:
        check_finite(self.log_alpha)
        return self.gate() > 0

    @property
    def num_real(self) -> int | None:
        return None if self.candidates is None else int(self.select(self.log_alpha).sum())

    def effective(self, weight: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        return weight * self.candidates.spread(self.gate(self.noise(real))).view(weight.shape)

    def penalty(self, weight: torch.Tensor) -> torch.Tensor:
        return self.strength * (self.log_alpha - BETA * math.log(-GAMMA / ZETA)).sigmoid().sum()

    def update(self, step: int, total_steps: int, weight: torch.Tensor,
               gradient: torch.Tensor | None) -> None:
        with torch.no_grad():
            self.log_alpha.clamp_(-LOG_ALPHA, LOG_ALPHA)

    def extra_repr(self) -> str:
        return f"strength={self.strength}, drop={self.drop}"


@register("variational-dropout")
class VariationalDropout(Noisy, RankingSelector):
    """Learned noise on every weight; what is mostly noise is left out in evaluation.

    In training, with e ~ N(0, 1) per candidate and forward from torch's global generator,

        effective weight  w (1 + sqrt(alpha) e),    log alpha = log sigma^2 - log w^2 within -8 to 8

    and the loss gains ``strength`` times the sum over the candidates of the divergence from the prior,

        KL = 0.63576 - 0.63576 sigmoid(1.8732 + 1.48695 log alpha) + log(1 + 1 / alpha) / 2

    ("Variational Dropout Sparsifies Deep Neural Networks", Molchanov et al., 2017). In evaluation the weights have
    no noise, and real are those of log alpha below ``threshold``, or the k of least log alpha. log sigma^2 is a
    parameter, ``selector.log_variance``, and starts at -10. The penalty is added by :func:`neuralgraph.rewire`.

    Differs from the paper: there the noise is that of the sums (local reparameterisation), drawn for every
    sample and output; here it is that of the weights and one draw serves the batch. Both have the same mean and
    the same variance for each sample, but with one draw the samples' noise is alike, so gradients vary more. The
    noise of a kernel is common to its weights, and w^2 the sum of their squares. As the derivative of the
    divergence grows with 1 / w, it wants an optimizer that bounds its steps, such as Adam.

    Args:
        k: number of real edges in evaluation; None where ``threshold`` decides.
        strength: of the divergence; the paper's is 1 / number of training samples, for a mean loss.
        threshold: without k, of log alpha; by default 3.
        per, group: of k, as for :class:`TopK`.
    """

    k_is = "optional"

    def __init__(self, k: int | None = None, strength: float = 1e-4, threshold: float | None = None,
                 per: str = "graph", group: int | None = None):
        super().__init__(k, "masked", per, group)
        self.strength = check_number("strength", strength, 0)
        if threshold is not None:
            check_number("threshold", threshold, -LARGEST, LARGEST)
            if k is not None:
                raise SelectionError(f"threshold decides how many edges are real, as k={k!r} does: give one of them.")
        self.threshold = threshold

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        super().prepare(candidates, weight, generator)
        self.log_variance = nn.Parameter(torch.full((candidates.num,), -10.0, dtype=weight.dtype))

    def log_alpha(self, weight: torch.Tensor) -> torch.Tensor:
        """log alpha of each candidate (n,), from the weights (W,)."""
        square = self.candidates.magnitude(weight).square()
        return (self.log_variance - (square + 1e-8).log()).clamp(-LARGEST, LARGEST)

    def sample(self, weight: torch.Tensor) -> torch.Tensor:
        noise = torch.randn_like(self.log_variance)
        return self.drawn(torch.ones_like(noise, dtype=torch.bool), noise)

    @torch.no_grad()
    def select(self, weight: torch.Tensor) -> torch.Tensor:
        check_finite(self.log_variance)
        log_alpha = self.log_alpha(weight)
        if self.k is not None:
            return self.groups().top(-log_alpha)
        return log_alpha < (3.0 if self.threshold is None else self.threshold)

    def effective(self, weight: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        noise = self.noise(real)
        if noise is None:
            return super().effective(weight, real)
        factor = 1 + (self.log_alpha(weight.reshape(-1)) / 2).exp() * noise
        return weight * self.candidates.spread(factor).view(weight.shape)

    def penalty(self, weight: torch.Tensor) -> torch.Tensor:
        log_alpha = self.log_alpha(weight)
        divergence = K1 - K1 * (K2 + K3 * log_alpha).sigmoid() + F.softplus(-log_alpha) / 2
        return self.strength * divergence.sum()

    def extra_repr(self) -> str:
        real = f"threshold={3.0 if self.threshold is None else self.threshold}" if self.k is None else f"k={self.k}"
        return f"{real}, strength={self.strength}{self.competition_repr()}"
