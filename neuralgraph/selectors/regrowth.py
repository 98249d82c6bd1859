"""What all selectors that drop and grow have in common."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch

from .candidates import Candidates
from .competition import Competing
from .groups import Groups, Whole
from .selector import MOST_STEPS, MaskSelector, check_every, check_number


class DropAndGrow(Competing, MaskSelector):
    """A mask that is kept between changes: each drops some real candidates, and as many others grow.

    At every ``every``-th step t of T, for t < end T, of k candidates that compete floor(f_t k) are dropped,

        f_t = last + (drop - last) / 2 (1 + cos(pi t / (end T))),

    those of least :meth:`worth`, and of all that are not left as many of largest :meth:`growth` come in: one
    that is dropped and grows at once stays as it was. New weights are 0, as is their momentum. Gradients reach
    real candidates only, but at the steps of changes if ``by_gradient``. Starts with k candidates drawn uniformly.

    A subclass says :meth:`growth`, or what else differs.

    Args:
        k: number of real edges, 0 to the number of candidates.
        drop: the share that is dropped at first.
        last: the share that is dropped in the end.
        every: steps between changes.
        end: the share of all steps after which nothing changes.
        per, group, always, never: as for :class:`TopK`.
    """

    scheduled = True
    by_gradient: ClassVar[bool] = True  # growth is by the gradient of every candidate
    draws: ClassVar[bool] = False       # it draws at changes, see :meth:`uniform`

    seed: torch.Tensor

    def __init__(self, k: int, drop: float, last: float, every: int, end: float, per: str = "graph",
                 group: int | None = None, always: torch.Tensor | None = None, never: torch.Tensor | None = None):
        super().__init__(k)
        self.drop, self.end = check_number("drop", drop, 0, 1), check_number("end", end, 0, 1)
        self.last = check_number("last", last, 0, 1)
        self.every = check_every(every)
        self.compete_within(per, group, always, never)
        if self.draws:
            self.register_buffer("seed", torch.zeros(1))

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        self._groups = self.groups()
        self.keep(self.first(torch.rand(candidates.num, generator=generator, dtype=torch.float64)))
        if self.draws:
            self.seed.copy_(torch.randint(MOST_STEPS, (1,), generator=generator))

    def first(self, draw: torch.Tensor) -> torch.Tensor:
        """The real candidates at the start, a mask (n,), from as many draws of U[0, 1)."""
        return self._groups.top(draw)

    # When

    def changes_at(self, step: int, total_steps: int) -> bool:
        """Whether candidates are dropped and grow after that step, from 1."""
        return step % self.every == 0 and step < self.end * total_steps

    def wants_gradient(self, step: int, total_steps: int) -> bool:
        return self.by_gradient and self.changes_at(step, total_steps)

    def fraction(self, step: int, total_steps: int) -> float:
        """f_t: the share of real candidates that this step drops."""
        swing = (self.drop - self.last) / 2
        return self.last + swing * (1 + math.cos(math.pi * step / (self.end * total_steps)))

    # What

    def dropped(self, number: torch.Tensor) -> torch.Tensor:
        """How many of these numbers of real candidates, (G,), this step drops."""
        return (number * self.fraction(*self.done)).floor().long()

    def worth(self, weight: torch.Tensor) -> torch.Tensor:
        """A score (n,), of the weights (W,): real candidates whose score is least are dropped."""
        return self.candidates.magnitude(weight)

    def growth(self, kept: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
        """A score, floating-point (n,): the largest of those that were not ``kept`` grow.

        Args:
            kept: a mask (n,).
            gradient: (W,), of ``by_gradient``.
        """
        assert gradient is not None  # as by_gradient says
        return self.candidates.magnitude(gradient)

    def changed(self, real: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
        """The real candidates after a change, from those before it; masks (n,)."""
        keep = self._groups.keep
        kept = largest(self._groups, self.worth(weight), real, keep - self.dropped(keep))
        return filled(self._groups, self.growth(kept, gradient), kept, keep)

    def update(self, step: int, total_steps: int, weight: torch.Tensor,
               gradient: torch.Tensor | None) -> torch.Tensor | None:
        if not self.changes_at(step, total_steps) or gradient is None and self.wants_gradient(step, total_steps):
            return None
        before = self.mask
        real = self.changed(before, weight, gradient)
        self.keep(real)
        return real ^ before

    def uniform(self, rows: int = 1, number: int | None = None, stream: int = 0) -> torch.Tensor:
        """Draws of U[0, 1), float64 (rows, number): those of this step, in whatever process and after any resume.

        Args:
            number: by default of the candidates.
            stream: draws of one do not depend on those of another.
        """
        number = self.candidates.num if number is None else number
        state = np.random.Philox(key=[int(self.seed), self.done[0]], counter=[0, 0, 0, stream])
        return torch.from_numpy(np.random.Generator(state).random((rows, number))).to(self.real.device)

    def extra_repr(self) -> str:
        return f"k={self.k}, drop={self.drop}, every={self.every}, end={self.end}{self.competition_repr()}"


def largest(groups: Groups, score: torch.Tensor, among: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Of each group the ``keep`` (G,) largest scores among a mask (n,), which has as many."""
    place = among.nonzero().flatten()
    return torch.zeros_like(among).index_copy_(0, place, groups.part(place, keep).top(score[place]))


def filled(groups: Groups, score: torch.Tensor, kept: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """What is kept, a mask (n,), and the largest scores of the others, together ``keep`` (G,) of each group."""
    return groups.top(score.where(~kept, score.new_full((), math.inf)), keep)


def layers_of(groups: Groups, candidates: Candidates) -> Groups:
    """Layers within which candidates are replaced: the blocks of what competes as a whole, or the groups."""
    if type(groups) is not Whole:
        return groups
    block, size = candidates.layers()
    layers = Groups(block, torch.zeros_like(size))
    layers.always, layers.never = groups.always, groups.never
    return layers


def apportion(total: int, share: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
    """A total as whole numbers (m,) in proportion to shares, none above its ``most``, by largest remainders.

    Of equal remainders the first come first. Where what has a share is full, the rest is in proportion to
    ``most``. ``total`` is at most the sum of ``most``.

    >>> apportion(10, torch.tensor([1.0, 1.0, 2.0]), torch.tensor([9, 9, 3])).tolist()
    [4, 3, 3]
    """
    is_full, ideal = most == 0, most.double()
    while not is_full.all():
        weight = share.double().where(~is_full, 0.0)
        if not weight.any():
            weight = most.double().where(~is_full, 0.0)
        ideal = (weight / weight.sum() * (total - int(most[is_full].sum()))).where(~is_full, most.double())
        over = ideal > most
        if not over.any():
            break
        is_full |= over
    ideal = torch.minimum(ideal, most.double())
    number = ideal.floor().long()
    order = (ideal - number).where(number < most, -1.0).argsort(descending=True, stable=True)
    number[order[:total - int(number.sum())]] += 1
    return number
