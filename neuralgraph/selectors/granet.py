"""Pruning gradually, with regrowth."""

from __future__ import annotations

import torch

from .candidates import Candidates
from .registry import register
from .regrowth import DropAndGrow, filled, largest, layers_of
from .selector import check_number


@register("granet")
class GraNet(DropAndGrow):
    """Prune from many to k, and at every step of it replace some of each layer by those of largest |dL/dw|.

    Every ``every`` steps, at step t of T, with u = t / (end T) < 1, there remain of E candidates that compete

        k + ceil((initial E - k) (1 - u)^3)

    those of largest |w|. Then of the n that a layer has left ceil(p n) are dropped, the smallest, and as many
    grow,

        p = last + (drop - last) / 2 (1 + cos(pi u)),

    by the gradient of that step at every candidate ("Sparse Training via Boosting Pruning Plasticity with
    Neuroregeneration", Liu et al., 2021). New weights are 0, as is their momentum. When end T steps are done,
    k remain. Layers are the destination blocks of a graph, or the layers of a model that compete; candidates
    that compete within less (``per``) are replaced within that. Differs from the paper: nothing grows after
    ``end``.

    Args:
        k: number of real edges in the end, 0 to the number of candidates.
        initial: the share of candidates that are real at first (of k, if that is more), drawn uniformly; 1 to
            start dense.
        drop, last: the share that is replaced at first, and in the end.
        every: steps between changes.
        end: the share of all steps after which nothing changes.
        per, group, always, never: as for :class:`TopK`.
    """

    def __init__(self, k: int, initial: float = 0.5, drop: float = 0.5, last: float = 0.005, every: int = 100,
                 end: float = 0.75, per: str = "graph", group: int | None = None,
                 always: torch.Tensor | None = None, never: torch.Tensor | None = None):
        super().__init__(k, drop, last, every, end, per, group, always, never)
        self.initial = check_number("initial", initial, 0, 1)

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        super().prepare(candidates, weight, generator)
        self._layers = layers_of(self._groups, candidates)

    def first(self, draw: torch.Tensor) -> torch.Tensor:
        return self._groups.top(draw, self.remaining(0.0))

    def remaining(self, u: float) -> torch.Tensor:
        """How many candidates each group keeps at that share of the schedule, (G,)."""
        groups = self._groups
        first = (groups.size.double() * self.initial).floor().long()
        if groups.never is not None:
            first = torch.minimum(first, groups.size - groups.counts(groups.never))
        surplus = (first - groups.keep).clamp(min=0)
        return groups.keep + (surplus.double() * max(0.0, 1 - u)**3 - 1e-9).ceil().long()

    def is_over(self, step: int, total_steps: int) -> bool:
        """Whether only k remain from that step on."""
        return step >= self.end * total_steps

    def changes_at(self, step: int, total_steps: int) -> bool:
        if self.is_over(step, total_steps):
            return int(self.real.sum()) > self._groups.num_kept
        return super().changes_at(step, total_steps)

    def wants_gradient(self, step: int, total_steps: int) -> bool:
        return not self.is_over(step, total_steps) and self.changes_at(step, total_steps)

    def changed(self, real: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
        step, total = self.done
        is_over, worth = self.is_over(step, total), self.worth(weight)
        remaining = self.remaining(1.0 if is_over else step / (self.end * total))
        real = largest(self._groups, worth, real, torch.minimum(remaining, self._groups.counts(real)))
        if is_over:
            return real
        keep = self._layers.counts(real)
        number = (keep.double() * self.fraction(step, total) - 1e-9).ceil().long()
        kept = largest(self._layers, worth, real, keep - number)
        return filled(self._layers, self.growth(kept, gradient), kept, keep)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, initial={self.initial}"
