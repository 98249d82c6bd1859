"""Other ways to find a wiring: pruning while training."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..errors import SelectionError, lookup
from .selector import MaskSelector, check_k, check_number
from .topk import Groups, RankingSelector, top_k


class L1Anneal(MaskSelector):
    """Start complete, remove the smallest |w| step by step until k remain, with an L1 term.

        k_t = k + (E - k) (1 - tau)^3,   tau = (t - t0) / (t1 - t0) clipped to [0, 1]

    (or linear in tau), updated every ``every`` steps; what is removed stays removed. The loss gains
    ``strength`` times the sum of |w| over the edges that are left, until t1. The paper's Table 2 has a
    row "L1 + Anneal" but neither schedule nor strength: both are this library's choice.

    Args:
        k: number of real edges in the end.
        strength: lambda of the L1 term.
        start: t0, as a share of all training steps.
        end: t1, likewise.
        every: steps between removals.
        shape: "cubic" or "linear".
    """

    def __init__(self, k: int, strength: float = 1e-5, start: float = 0.0, end: float = 0.75,
                 every: int = 100, shape: str = "cubic"):
        super().__init__(k)
        self._power = lookup("shape", shape, {"cubic": 3, "linear": 1})
        if not check_number("start", start, 0, 1) < check_number("end", end, 0, 1):
            raise SelectionError(f"expected 0 <= start < end <= 1, got start={start}, end={end}.")
        check_number("strength", strength, 0)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise SelectionError(f"expected an integer every >= 1, got {every!r}.")
        self.strength, self.start, self.end, self.every = strength, start, end, every
        self.register_buffer("finished", torch.zeros((), dtype=torch.bool))

    def prepare(self, wiring, weight, generator):
        check_k(self.k, self.num_edges)
        self.real = torch.ones(self.num_edges, dtype=torch.bool)

    def remaining(self, progress: float) -> int:
        """k_t when this share of all steps is done."""
        tau = min(1.0, max(0.0, (progress - self.start) / (self.end - self.start)))
        return self.k + math.ceil((self.num_edges - self.k) * (1 - tau)**self._power - 1e-9)

    def advance(self, step, total_steps, weight):
        progress = step / total_steps
        ends_now = progress >= self.end and not self.finished
        if self.finished or (step % self.every and not ends_now):
            return
        keep = self.remaining(progress)
        if keep < self.num_real:
            score = weight.detach().abs().where(self.real, weight.new_full((), -1.0))
            self.real.copy_(top_k(score, keep))
        self.finished.fill_(ends_now)

    def penalty(self, weight):
        if self.finished or not self.strength:
            return None
        return self.strength * weight[self.real].abs().sum()

    def extra_repr(self):
        return f"k={self.k}, strength={self.strength}, end={self.end}"


class TargetedDropout(RankingSelector):
    """While training, drop each of the smallest |w| with probability rho; afterwards all of them.

    The E - k edges of smallest magnitude are targeted (gamma = 1 - k / E); in training each of them is
    left out independently with probability ``drop`` at every forward, in evaluation all are. Nothing
    is rescaled, weights keep their sign, and gradients reach the edges that took part ("Learning
    Sparse Networks Using Targeted Dropout", Gomez et al., 2019; "Discovering Neural Wirings", appendix
    B and Table 6).

    Args:
        k: number of edges that are never targeted, the real ones in evaluation.
        drop: rho; the paper tried 0.9, 0.95, 0.99 and gamma.
        regular: target floor(gamma n) of the n in-edges of each node instead of the smallest of the
            whole graph; the number of real edges in evaluation may then exceed k.
    """

    def __init__(self, k: int, drop: float = 0.95, regular: bool = False):
        super().__init__(k, "masked")
        check_number("drop, a probability,", drop, 0, 1)
        self.drop, self.regular = drop, regular
        # the draws of each forward follow from these, so that a run can be continued exactly
        self.register_buffer("seed", torch.zeros((), dtype=torch.long))
        self.register_buffer("draws", torch.zeros((), dtype=torch.long))

    def prepare(self, wiring, weight, generator):
        super().prepare(wiring, weight, generator)
        self.seed.fill_(int(torch.randint(2**31, (), generator=generator)))

    def fit(self):
        if not self.regular:
            return None
        size = torch.bincount(self.wiring.dst, minlength=self.wiring.num_nodes)
        # integers, so that floor(gamma n) does not depend on rounding
        targeted = size * (self.num_edges - self.k) // max(1, self.num_edges)
        return Groups(self.wiring.dst, size - targeted)

    def sample(self, weight):
        words = np.random.SeedSequence((int(self.seed), int(self.draws))).generate_state(2)
        generator = torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
        self.draws += 1
        survives = torch.rand(len(weight), generator=generator) >= self.drop
        return self.select(weight) | survives.to(weight.device)

    def fingerprint(self):
        return (self.k, self.regular)

    def extra_repr(self):
        return f"k={self.k}, drop={self.drop}" + (", regular" if self.regular else "")
