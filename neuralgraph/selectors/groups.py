"""Competition groups: the k largest scores of all candidates, or of each group of them."""

from __future__ import annotations

import math

import numpy as np
import torch

from .. import kernels
from .._torch import is_compiling
from ..errors import SelectionError

MANY = 2**17   # scores from which on one compiled pass is faster than numpy's partition
CALLS = 2**13  # scores per group from which on a call of its own for each group is no loss
FEW = 2**12    # scores up to which sorting all of them takes no time


class Groups:
    """Competition groups: within which candidates compete, and how many each group keeps.

    Args:
        group: number of each candidate's competition group, (n,).
        keep: how many candidates each group keeps, (G,).
    """

    always: torch.Tensor | None = None  # candidates that are real whatever their score, (n,)
    never: torch.Tensor | None = None   # candidates that are not

    def __init__(self, group: torch.Tensor, keep: torch.Tensor):
        self.group, self.keep, self.num_kept = group, keep, int(keep.sum())
        self.size = torch.bincount(group, minlength=len(keep))
        # candidates group by group, in each as they come; None where they come so, as those of blocks do
        self._order = None if bool((group[1:] >= group[:-1]).all()) else group.argsort(stable=True)

    def constrain(self, always: torch.Tensor | None, never: torch.Tensor | None) -> None:
        """Takes out of the competition what is real always and what is never; both masks (n,)."""
        for name, mask in (("always", always), ("never", never)):
            if mask is not None and mask.any():
                count = torch.zeros_like(self.size).index_add_(0, self.members(), mask.long())
                bad = count > (self.keep if name == "always" else self.size - self.keep)
                if bad.any():
                    at = int(bad.nonzero()[0])
                    raise SelectionError(
                        f"{name} has {int(count[at])} of {int(self.size[at])} candidates that compete, of which "
                        f"{int(self.keep[at])} are kept: choose another k, or fewer.")
        self.always, self.never = always, never

    def part(self, place: torch.Tensor, keep: torch.Tensor) -> Groups:
        """The competition of some candidates alone, whose numbers ascend, (m,): ``keep`` (G,) of each group."""
        place = place.cpu()
        part = Groups(self.group[place], keep)
        part.always, part.never = (None if mask is None else mask[place] for mask in (self.always, self.never))
        return part

    def members(self) -> torch.Tensor:
        """The number of each candidate's group, (n,)."""
        return self.group

    def _ranked(self, score: torch.Tensor) -> torch.Tensor:
        """The scores, with those of candidates that are out of the competition at either end."""
        for mask, end in ((self.never, -math.inf), (self.always, math.inf)):
            if mask is not None:
                score = score.masked_fill(mask.to(score.device), end)
        return score

    def top(self, score: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """A mask (n,) of the largest scores of each group, ties as in :func:`top_k`; ``keep``: others."""
        return self.handed_on(self.best(self.pooled(score), keep))

    def best(self, score: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """The same of competitors, from their scores, (P,)."""
        score, keep = self._ranked(score), self.keep if keep is None else keep
        if is_traced() or score.device.type != "cpu":
            return self._by_sorting(score, keep)
        own = score if self._order is None else score[self._order]
        if len(self.size) and len(own) >= CALLS * len(self.size):
            parts = zip(own.split(self.size.tolist()), keep.tolist())
            mask = torch.cat([top_k(part, number) for part, number in parts])
        elif len(own) > FEW and _has_kernels(own):
            mask = _top_of_groups(own, self.size, keep)
        else:
            return self._by_sorting(score, keep)
        return mask if self._order is None else torch.empty_like(mask).index_copy_(0, self._order, mask)

    def _by_sorting(self, score: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        group = self.group.to(score.device)
        order = score.argsort(stable=True)
        order = order[group[order].argsort(stable=True)]  # by group, then score: the last of each are kept
        first_kept = (self.size.cumsum(0) - keep).to(score.device)[group[order]]
        marks = torch.arange(score.shape[0], device=score.device) >= first_kept
        return torch.empty_like(score, dtype=torch.bool).scatter_(0, order, marks)

    def count(self, keep: torch.Tensor) -> int:
        """How many candidates these numbers of each group, (G,), are together."""
        return int(keep.sum())

    def counts(self, mask: torch.Tensor) -> torch.Tensor:
        """How many of each group are in a mask (n,), in the unit of ``keep``, (G,)."""
        return torch.bincount(self.members()[mask.cpu()], minlength=len(self.keep))

    def remaining(self, share: float | torch.Tensor) -> torch.Tensor:
        """How many each group keeps, (G,), while this share, 0 to 1, of those that it drops in the end is real.

        keep + ceil(share (size - keep)): what a schedule over k comes to in every group.
        """
        return self.keep + ((self.size - self.keep).double() * share - 1e-9).ceil().long()

    # What competes are candidates, or pairs that have several

    def pooled(self, values: torch.Tensor) -> torch.Tensor:
        """To each competitor the sum over its candidates, (P,), from (n,)."""
        return values

    def handed_on(self, values: torch.Tensor) -> torch.Tensor:
        """To each candidate the value of its competitor, (n,), from (P,)."""
        return values

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the competitors of each group, (G,), from (P,)."""
        return values.new_zeros(len(self.keep)).index_add_(0, self.group.to(values.device), values)

    def least(self, values: torch.Tensor) -> torch.Tensor:
        """The smallest of the competitors of each group, (G,), from (P,); inf where there are none."""
        least = values.new_full((len(self.keep),), math.inf)
        return least.scatter_reduce_(0, self.group.to(values.device), values, "amin")

    def expanded(self, values: torch.Tensor) -> torch.Tensor:
        """To each competitor the value of its group, (P,), from (G,)."""
        return values[self.group.to(values.device)]

    def greatest(self, score: torch.Tensor) -> torch.Tensor:
        """To each candidate the largest score of its group, (n,)."""
        group = self.group.to(score.device)
        most = score.new_zeros(len(self.keep)).scatter_reduce_(0, group, score, "amax", include_self=False)
        return most[group]


class Whole(Groups):
    """All candidates compete with each other; of n nothing is kept in memory."""

    def __init__(self, num: int, k: int):
        self.num, self.keep, self.size = num, torch.tensor([k]), torch.tensor([num])
        self.num_kept = k

    def part(self, place: torch.Tensor, keep: torch.Tensor) -> Groups:
        part = Whole(len(place), int(keep))
        part.always, part.never = (None if mask is None else mask[place.cpu()] for mask in (self.always, self.never))
        return part

    def members(self) -> torch.Tensor:
        return torch.zeros(self.num, dtype=torch.long)

    def counts(self, mask: torch.Tensor) -> torch.Tensor:
        return mask.sum().cpu()[None]

    def best(self, score: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        score = self._ranked(score)
        if keep is not None and is_traced():
            order = score.argsort(stable=True)
            number = score.shape[0]
            marks = torch.arange(number, device=score.device) >= number - keep.to(score.device)
            return torch.empty_like(score, dtype=torch.bool).scatter(0, order, marks)
        return top_k(score, self.num_kept if keep is None else int(keep))

    def greatest(self, score: torch.Tensor) -> torch.Tensor:
        return score.max().expand_as(score) if self.num else score

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        return values.sum(0, keepdim=True)

    def least(self, values: torch.Tensor) -> torch.Tensor:
        return values.min()[None] if self.num else values.new_full((1,), math.inf)

    def expanded(self, values: torch.Tensor) -> torch.Tensor:
        return values.expand(self.num)


class SharedParents(Groups):
    """Groups of target nodes that have the same parents: pairs of a parent and a group compete.

    The score of a pair is the sum of those of its candidates, and every group keeps as many parents.

    Args:
        pair: the number of each candidate's pair, (n,); each pair has ``nodes`` candidates.
        group: of each pair, (P,).
        keep: how many parents each group keeps, (G,).
        nodes: how many nodes share their parents.
    """

    def __init__(self, pair: torch.Tensor, group: torch.Tensor, keep: torch.Tensor, nodes: int):
        super().__init__(group, keep)
        self.pair, self.nodes = pair, nodes
        self.num_kept *= nodes

    def part(self, place: torch.Tensor, keep: torch.Tensor) -> Groups:
        pairs, pair = self.pair[place.cpu()].unique(return_inverse=True)
        return SharedParents(pair, self.group[pairs], keep, self.nodes)

    def count(self, keep: torch.Tensor) -> int:
        return super().count(keep) * self.nodes

    def counts(self, mask: torch.Tensor) -> torch.Tensor:
        return torch.bincount(self.group[self.pair[mask.cpu()]], minlength=len(self.keep)) // self.nodes

    def constrain(self, always: torch.Tensor | None, never: torch.Tensor | None) -> None:
        raise SelectionError("per='group' keeps or drops all candidates of a parent together: always and never "
                             "need another competition.")

    def pooled(self, values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(len(self.group)).index_add_(0, self.pair.to(values.device), values)

    def handed_on(self, values: torch.Tensor) -> torch.Tensor:
        return values[self.pair.to(values.device)]

    def greatest(self, score: torch.Tensor) -> torch.Tensor:
        pair = self.pair.to(score.device)
        most = score.new_zeros(len(self.group)).scatter_reduce_(0, pair, score, "amax", include_self=False)
        return super().greatest(most)[pair]


def top_k(score: torch.Tensor, k: int, by_magnitude: bool = False) -> torch.Tensor:
    """A mask (n,) of the k largest scores (or of their magnitudes); of equal ones the last are kept.

    Only the k-th largest score is found, nothing is sorted.
    """
    if k == 0:
        return torch.zeros_like(score, dtype=torch.bool)
    if is_traced() or score.device.type != "cpu":  # where looking at a number would wait for all before it
        return _whole_top_k(score.abs() if by_magnitude else score, k)
    if len(score) >= MANY and _has_kernels(score):
        mask = _bracketed(score.contiguous(), k, by_magnitude)
        if mask is not None:
            return mask
    if by_magnitude:
        score = score.abs()
    threshold = _kth_largest(score, k)
    mask = score > threshold
    missing = k - int(mask.sum())
    tied = (score == threshold).nonzero().flatten()
    mask[tied[len(tied) - missing:]] = True
    return mask


def is_traced() -> bool:
    """Whether torch records what is computed, so that only its own operations on whole tensors will do."""
    return torch.jit.is_tracing() or is_compiling()


def _whole_top_k(score, k):
    """The same, by operations on whole tensors."""
    if score.device.type != "cpu":  # sorted by all processors of a GPU; of these one alone would find the k-th largest
        kept = score.argsort(stable=True)[score.shape[0] - k:]
        return torch.zeros_like(score, dtype=torch.bool).index_fill(0, kept, True)
    threshold = score.kthvalue(score.shape[0] - k + 1).values
    above, tied = score > threshold, score == threshold
    from_the_last = tied.flip(0).cumsum(0).flip(0)
    return above | (tied & (from_the_last <= k - above.sum()))


def _has_kernels(score):
    return kernels.AVAILABLE and score.dtype in (torch.float32, torch.float64)


def _top_of_groups(score, size, keep):
    from ..kernels.ranking import top_of_groups  # numba is loaded where it is used
    return top_of_groups(score, size, keep)


def _bracketed(score, k, by_magnitude):
    from ..kernels.ranking import bracketed_top_k  # numba is loaded where it is used
    return bracketed_top_k(score, k, by_magnitude)


def _kth_largest(score: torch.Tensor, k: int) -> torch.Tensor:
    values = score if score.dtype in (torch.float32, torch.float64) else score.float()
    at = len(values) - k  # numpy's vectorised partition, 5 to 10 times torch.kthvalue
    return torch.as_tensor(np.partition(values.numpy(), at)[at], device="cpu").to(score.dtype)
