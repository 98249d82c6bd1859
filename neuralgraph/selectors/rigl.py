"""Dropping small weights and growing those of large gradient."""

from __future__ import annotations

import math

import torch

from ..errors import lookup
from .competition import COMPETITIONS, check_masks, compete
from .registry import register
from .selector import MaskSelector, check_every, check_k, check_number


@register("rigl")
class RigL(MaskSelector):
    """Every ``every`` steps, drop the smallest real |w| and grow the absent candidates of largest |dL/dw|.

    At step t of T, for t < end T, of k candidates that compete

        floor(f_t k)   are dropped,    f_t = drop / 2 (1 + cos(pi t / (end T))),

    and as many of those that are not left grow, by the gradient of that step at every candidate. New weights
    are 0, as is their momentum; one that is dropped and grows again stays. Between these steps gradients
    reach real candidates only ("Rigging the Lottery", Evci et al., 2020, algorithm 1). Starts with k
    candidates drawn uniformly. Differs from the paper: the optimizer also steps where edges change.

    Args:
        k: number of real edges, 0 to the number of candidates.
        drop: the share that is dropped at first.
        every: steps between changes.
        end: the share of all steps after which nothing changes.
        per, group, always, never: as for :class:`TopK`.

    >>> RigL(k=100).fraction(25, 100)
    0.22499999999999998
    """

    scheduled = True

    def __init__(self, k: int, drop: float = 0.3, every: int = 100, end: float = 0.75, per: str = "graph",
                 group: int | None = None, always: torch.Tensor | None = None, never: torch.Tensor | None = None):
        super().__init__(k)
        self.drop, self.end = check_number("drop", drop, 0, 1), check_number("end", end, 0, 1)
        self.every = check_every(every)
        lookup("competition", per, COMPETITIONS)
        check_masks(always, never)
        self.per, self.group = per, group
        self._always, self._never = always, never

    def prepare(self, candidates, weight, generator):
        check_k(self.k, candidates.num, candidates.word)
        self._groups = compete(self.per, candidates, self.k, self.group, self._always, self._never)
        self.keep(self._groups.top(torch.rand(candidates.num, generator=generator, dtype=torch.float64)))

    def fraction(self, step: int, total_steps: int) -> float:
        """f_t: the share of real candidates that this step drops."""
        return self.drop / 2 * (1 + math.cos(math.pi * step / (self.end * total_steps)))

    def wants_gradient(self, step, total_steps):
        return step % self.every == 0 and step < self.end * total_steps

    def update(self, step, total_steps, weight, gradient):
        if gradient is None:
            return None
        groups, old, magnitude = self._groups, self.mask, self.candidates.magnitude
        keep = groups.keep - (groups.keep * self.fraction(step, total_steps)).floor().long()
        score = magnitude(weight)
        kept = groups.top(score.where(old, score.new_full((), -math.inf)), keep)
        score = magnitude(gradient)
        self.keep(groups.top(score.where(~kept, score.new_full((), math.inf))))
        return self.mask ^ old

    def extra_repr(self):
        return f"k={self.k}, drop={self.drop}, every={self.every}, end={self.end}"
