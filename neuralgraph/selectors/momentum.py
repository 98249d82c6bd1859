"""Growing by the momentum, between layers too."""

from __future__ import annotations

import torch

from .candidates import Candidates
from .groups import Whole
from .registry import register
from .regrowth import DropAndGrow, apportion, filled, largest, layers_of
from .selector import check_every, check_number


@register("snfs")
class SNFS(DropAndGrow):
    """Every ``every`` steps, drop the smallest real |w| of each layer and grow where the momentum is largest.

    Sparse momentum ("Sparse Networks from Scratch", Dettmers and Zettlemoyer, 2019). At step t of T, for t < end T,
    of the n real candidates of a layer floor(p n) are dropped,

        p = last + (drop - last) / 2 (1 + cos(pi t / (end T))).

    All that were dropped, together, grow again: in each layer in proportion to the mean |m| of its n, at most
    99 % of the candidates that are free; in a layer where |m| is largest. New weights are 0, as is their momentum.
    m is a running average of the gradient at every candidate

        m  <-  momentum m + g

    over the last ``window`` steps before a change, so that gradients of absent candidates are not computed
    at others. Layers are the destination blocks of a graph, or the layers of a model that compete; with
    ``per`` other than "graph" the number of each group stays. Differs from the paper: m is forgotten between
    changes (but for window=every), and the total is exactly k: what rounding and full layers leave goes to the
    largest remainders.

    Args:
        k: number of real edges, 0 to the number of candidates.
        drop, last: the share that is dropped at first, and in the end.
        momentum: of m.
        window: how many steps m is an average of, at most ``every``.
        every: steps between changes; the paper's is an epoch.
        end: the share of all steps after which nothing changes.
        per, group, always, never: as for :class:`TopK`.
    """

    average: torch.Tensor

    def __init__(self, k: int, drop: float = 0.5, last: float = 0.005, momentum: float = 0.9, window: int = 10,
                 every: int = 100, end: float = 1.0, per: str = "graph", group: int | None = None,
                 always: torch.Tensor | None = None, never: torch.Tensor | None = None):
        super().__init__(k, drop, last, every, end, per, group, always, never)
        self.momentum = check_number("momentum", momentum, 0, 1)
        self.window = check_every(window, "window")

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        super().prepare(candidates, weight, generator)
        self._layers = layers_of(self._groups, candidates)
        self.register_buffer("average", torch.zeros_like(weight))

    def wants_gradient(self, step: int, total_steps: int) -> bool:
        change = -(-step // self.every) * self.every  # the next
        return change - step < self.window and self.changes_at(change, total_steps)

    def update(self, step: int, total_steps: int, weight: torch.Tensor,
               gradient: torch.Tensor | None) -> torch.Tensor | None:
        if gradient is not None:
            self.average.mul_(self.momentum).add_(gradient)
        changed = super().update(step, total_steps, weight, gradient)
        if changed is not None and self.window < self.every:
            self.average.zero_()
        return changed

    def growth(self, kept: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
        return self.candidates.magnitude(self.average)

    def changed(self, real: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
        if type(self._groups) is not Whole:
            return super().changed(real, weight, gradient)
        layers, momentum = self._layers, self.growth(real, gradient)
        before = layers.counts(real)
        number = self.dropped(before)
        free = layers.size - before
        if layers.always is not None:
            number = torch.minimum(number, before - layers.counts(layers.always))
        if layers.never is not None:
            free = free - layers.counts(layers.never)
        kept = largest(layers, self.worth(weight), real, before - number)
        free = free + number
        total, most = int(number.sum()), (free * 99) // 100
        place = real.nonzero().flatten()
        size = torch.zeros(len(before), dtype=torch.float64).index_add_(
            0, layers.group[place.cpu()], momentum[place].cpu().double())
        grown = apportion(total, size / before.clamp(min=1), most if total <= most.sum() else free)
        return filled(layers, momentum, kept, before - number + grown)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, window={self.window}"
