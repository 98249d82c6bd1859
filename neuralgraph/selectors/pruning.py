"""Other ways to find a wiring: pruning while training."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..errors import SelectionError, lookup
from .candidates import Candidates
from .competition import Competing
from .groups import Groups
from .registry import register
from .selector import MaskSelector, check_every, check_number
from .topk import RankingSelector


@register("l1-anneal")
@register("gradual", strength=0.0)
class L1Anneal(Competing, MaskSelector):
    """Start complete, remove the smallest |w| step by step until k remain, with an L1 term.

        k_t = k + (E - k) (1 - tau)^3,   tau = (t - t0) / (t1 - t0) clipped to [0, 1]

    (or linear in tau), updated every ``every`` steps; what is removed stays removed. The loss gains
    ``strength`` times the sum of |w| (of a kernel, its norm) over what is left, until t1. The paper's Table 2
    has a row "L1 + Anneal" but neither schedule nor strength: both are this library's choice. Without the L1
    term, as ``gradual``, it is automated gradual pruning ("To prune, or not to prune", Zhu and Gupta, 2017,
    equation 1), for good: there, weights that are masked could come back.

    Args:
        k: number of real edges in the end.
        strength: lambda of the L1 term.
        start: t0, as a share of all training steps.
        end: t1, likewise.
        every: steps between removals.
        shape: "cubic" or "linear".
        per, group: what candidates compete within, each with its share of k_t, as for :class:`TopK`.
    """

    scheduled = True
    retired = ("finished",)

    def __init__(self, k: int, strength: float = 1e-5, start: float = 0.0, end: float = 0.75,
                 every: int = 100, shape: str = "cubic", per: str = "graph", group: int | None = None):
        super().__init__(k)
        self.compete_within(per, group)
        self._power = lookup("shape", shape, {"cubic": 3, "linear": 1})
        if not check_number("start", start, 0, 1) < check_number("end", end, 0, 1):
            raise SelectionError(f"expected 0 <= start < end <= 1, got start={start}, end={end}.")
        check_number("strength", strength, 0)
        self.strength, self.start, self.end, self.every = strength, start, end, check_every(every)

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        self.groups()
        self.keep(torch.ones(candidates.num, dtype=torch.bool))

    def upgrade(self, state: dict[str, Any], prefix: str) -> None:
        if prefix + "finished" in state:  # of a training that knew itself how many steps were done
            state.setdefault(prefix + "clock", torch.zeros(2))
        super().upgrade(state, prefix)

    def remaining(self, progress: float) -> torch.Tensor:
        """How many candidates each group keeps when this share of all steps is done, (G,); together k_t."""
        tau = min(1.0, max(0.0, (progress - self.start) / (self.end - self.start)))
        return self.groups().remaining((1 - tau)**self._power)

    def update(self, step: int, total_steps: int, weight: torch.Tensor,
               gradient: torch.Tensor | None) -> None:
        progress = step / total_steps
        ends_now = progress >= self.end > (step - 1) / total_steps
        if step % self.every and not ends_now:
            return
        groups, real, keep = self.groups(), self.mask, self.remaining(progress)
        if groups.count(keep) < int(real.sum()):
            score = self.candidates.magnitude(weight)
            self.keep(groups.top(score.where(real, score.new_full((), -math.inf)), keep))

    def penalty(self, weight: torch.Tensor) -> torch.Tensor | None:
        if self.progress >= self.end or not self.strength:
            return None
        return self.strength * self.candidates.magnitude(weight)[self.mask].sum()

    def extra_repr(self) -> str:
        return f"k={self.k}, strength={self.strength}, end={self.end}{self.competition_repr()}"


@register("targeted-dropout")
@register("targeted-dropout-regular", regular=True)
class TargetedDropout(RankingSelector):
    """While training, drop each of the smallest |w| with probability rho; afterwards all of them.

    The E - k edges of smallest magnitude are targeted (gamma = 1 - k / E); in training each of them is left
    out independently with probability ``drop`` at every forward, by draws of torch's global generator as
    those of dropout; in evaluation all are. Nothing is rescaled, weights keep their sign, and gradients reach
    the edges that took part ("Learning Sparse Networks Using Targeted Dropout", Gomez et al., 2019;
    "Discovering Neural Wirings", appendix B and Table 6).

    Args:
        k: number of edges that are never targeted, the real ones in evaluation.
        drop: rho; the paper tried 0.9, 0.95, 0.99 and gamma.
        regular: target floor(gamma n) of the n in-edges of each node instead of the smallest of the
            whole graph; the number of real edges in evaluation may then exceed k.
        per, group: what candidates are the smallest of, as for :class:`TopK`; not with ``regular``.
    """

    retired = ("seed", "draws")

    def __init__(self, k: int, drop: float = 0.95, regular: bool = False, per: str = "graph",
                 group: int | None = None):
        super().__init__(k, "masked", per, group)
        if regular and per != "graph":
            raise SelectionError(f"regular=True targets the smallest weights of each node, got per={per!r} too.")
        check_number("drop, a probability,", drop, 0, 1)
        self.drop, self.regular = drop, regular

    def fit(self) -> Groups:
        if not self.regular:
            return super().fit()
        target = self.candidates.target()
        size = torch.bincount(target, minlength=self.candidates.num_targets)
        # integers, so that floor(gamma n) does not depend on rounding
        targeted = size * (self.candidates.num - self.k) // max(1, self.candidates.num)
        return Groups(target, size - targeted)

    def sample(self, weight: torch.Tensor) -> torch.Tensor:
        survives = torch.rand(self.candidates.num, device=weight.device) >= self.drop
        return self.select(weight) | survives

    def extra_repr(self) -> str:
        return f"k={self.k}, drop={self.drop}" + (", regular" if self.regular else self.competition_repr())
