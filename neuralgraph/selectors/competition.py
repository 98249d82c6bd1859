"""The k largest scores: of all candidates, or within groups that compete."""

from __future__ import annotations

import math
from collections.abc import Hashable

import numpy as np
import torch

from .. import kernels
from ..errors import SelectionError, listed, lookup, whole
from .candidates import Candidates

MANY = 2**17  # scores from which on one compiled pass is faster than numpy's partition


class Groups:
    """Candidates that compete within groups, and how many of each group are kept.

    Args:
        group: number of each candidate's group, (n,).
        keep: how many candidates each group keeps, (G,).
    """

    always: torch.Tensor | None = None  # candidates that are real whatever their score, (n,)
    never: torch.Tensor | None = None   # candidates that are not

    def __init__(self, group: torch.Tensor, keep: torch.Tensor):
        self.group, self.keep, self.num_kept = group, keep, int(keep.sum())
        self.size = torch.bincount(group, minlength=len(keep))
        self._is_kept = self._marks(keep)

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
        by_score = self._ranked(score).argsort(stable=True)
        order = by_score[self.group.to(score.device)[by_score].argsort(stable=True)]
        marks = (self._is_kept if keep is None else self._marks(keep)).to(score.device)
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

    def _marks(self, keep: torch.Tensor) -> torch.Tensor:
        # ranks 0..n-1 when sorted by group, then score: the last keep[g] of each group are real
        first_kept = (self.size.cumsum(0) - keep).repeat_interleave(self.size)
        return torch.arange(len(self.group)) >= first_kept


class Whole(Groups):
    """All candidates compete with each other; of n nothing is kept in memory."""

    def __init__(self, num: int, k: int):
        self.num, self.keep, self.size = num, torch.tensor([k]), torch.tensor([num])
        self.num_kept = k

    def members(self):
        return torch.zeros(self.num, dtype=torch.long)

    def best(self, score, keep=None):
        score = self._ranked(score)
        if keep is not None and is_traced():
            order = score.argsort(stable=True)
            number = score.shape[0]
            marks = torch.arange(number, device=score.device) >= number - keep.to(score.device)
            return torch.empty_like(score, dtype=torch.bool).scatter(0, order, marks)
        return top_k(score, self.num_kept if keep is None else int(keep))

    def greatest(self, score):
        return score.max().expand_as(score) if self.num else score

    def sums(self, values):
        return values.sum(0, keepdim=True)

    def least(self, values):
        return values.min()[None] if self.num else values.new_full((1,), math.inf)

    def expanded(self, values):
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

    def count(self, keep):
        return super().count(keep) * self.nodes

    def counts(self, mask):
        return torch.bincount(self.group[self.pair[mask.cpu()]], minlength=len(self.keep)) // self.nodes

    def constrain(self, always, never):
        raise SelectionError("per='group' keeps or drops all candidates of a parent together: always and never "
                             "need another competition.")

    def pooled(self, values):
        return values.new_zeros(len(self.group)).index_add_(0, self.pair.to(values.device), values)

    def handed_on(self, values):
        return values[self.pair.to(values.device)]

    def greatest(self, score):
        pair = self.pair.to(score.device)
        most = score.new_zeros(len(self.group)).scatter_reduce_(0, pair, score, "amax", include_self=False)
        return super().greatest(most)[pair]


def _whole(candidates: Candidates, k: int, group: int | None) -> Groups:
    return Whole(candidates.num, k)


def _by_block(candidates: Candidates, k: int, group: int | None) -> Groups:
    """k divided in proportion to the candidates into each block, largest remainders first."""
    _, block, size = candidates.block().unique(return_inverse=True, return_counts=True)
    number = max(1, candidates.num)
    keep = size * k // number  # integers, so that nothing depends on rounding
    remainder = (size * k % number).argsort(descending=True, stable=True)[:k - int(keep.sum())]
    keep[remainder] += 1
    return Groups(block, keep)


def _by_node(candidates: Candidates, k: int, group: int | None) -> Groups:
    """The same number for every node that has candidates."""
    target = candidates.target()
    size = torch.bincount(target, minlength=candidates.num_targets)
    nodes = max(1, int((size > 0).sum()))
    fan_in = _fan_in("node", k, nodes, candidates)
    short = ((size > 0) & (size < fan_in)).nonzero().flatten()
    if len(short):
        node = int(short[0])
        raise SelectionError(
            f"per='node' with k={k} keeps {fan_in} in-edges at each node, but node "
            f"{candidates.label(node)!r} has only {int(size[node])} candidates; choose k of at most "
            f"{int(size[size > 0].min()) * nodes}."
        )
    return Groups(target, (size > 0).long() * fan_in)


def _by_group(candidates: Candidates, k: int, group: int | None) -> Groups:
    """As many parents for every ``group`` nodes in a row, which all of these nodes have."""
    if (whole(group) or 0) < 1:
        raise SelectionError(f"per='group' needs group, the number of nodes that share their parents, an integer "
                             f"of at least 1, got {group!r}.")
    group = whole(group)
    nodes, node = candidates.target().unique(return_inverse=True)
    if len(nodes) % group:
        raise SelectionError(f"per='group' with group={group} does not divide the {len(nodes)} nodes that have "
                             "candidates.")
    fan_in = _fan_in("group", k, max(1, len(nodes)), candidates)
    source = candidates.source()
    # several candidates between two nodes are of different pairs: the first, the second, ...
    sources, block = int(source.max()) + 1 if len(source) else 1, node // group
    between = node * sources + source
    order = between.argsort(stable=True)
    _, counts = between[order].unique_consecutive(return_counts=True)
    nth = torch.empty_like(order)
    nth[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    keys = ((block * sources + source) * (int(nth.max()) + 1 if len(nth) else 1)) + nth
    pairs, pair, size = keys.unique(return_inverse=True, return_counts=True)
    if (size != group).any():
        raise SelectionError(f"per='group' with group={group} needs nodes in a row that have the same candidate "
                             "parents, but some parent has candidates into a part of a group only.")
    owner = torch.zeros(len(pairs), dtype=torch.long).scatter_(0, pair, block)
    parents = torch.bincount(owner)
    if len(parents) and fan_in > int(parents.min()):
        raise SelectionError(f"per='group' with k={k} keeps {fan_in} in-edges at each node, but some have only "
                             f"{int(parents.min())} candidates; choose k of at most "
                             f"{int(parents.min()) * len(nodes)}.")
    return SharedParents(pair, owner, torch.full((len(nodes) // group,), fan_in), group)


def _fan_in(per: str, k: int, nodes: int, candidates: Candidates) -> int:
    if k % nodes:
        raise SelectionError(
            f"per={per!r} keeps as many in-edges at each of {nodes} nodes, so k must be a multiple "
            f"of {nodes}, got {k}; the nearest are {k - k % nodes} and {k - k % nodes + nodes}."
        )
    return k // nodes


COMPETITIONS = {"graph": _whole, "layer": _whole, "block": _by_block, "node": _by_node, "group": _by_group}


def compete(per: str, candidates: Candidates, k: int, group: int | None = None,
            always: torch.Tensor | None = None, never: torch.Tensor | None = None) -> Groups:
    """What candidates compete within: a key of :data:`COMPETITIONS`.

    "graph" or "layer": everything that one selector serves; "block": k is divided among the destination
    blocks in proportion to their candidates; "node": every node that can have in-edges keeps k / nodes of
    them (constant fan-in); "group": so does it, and every ``group`` nodes in a row have the same parents.
    """
    groups = lookup("competition", per, COMPETITIONS)(candidates, k, group)
    for name, mask in (("always", always), ("never", never)):
        if mask is not None and mask.shape != (candidates.num,):
            raise SelectionError(f"{name} must be a mask of the {candidates.num} {candidates.word}, got the shape "
                                 f"{tuple(mask.shape)}.")
    if always is not None or never is not None:
        groups.constrain(always, never)
    return groups


def check_masks(always: torch.Tensor | None, never: torch.Tensor | None) -> None:
    """Refuses what are no masks, or masks that contradict each other."""
    for name, mask in (("always", always), ("never", never)):
        if mask is not None and not (isinstance(mask, torch.Tensor) and mask.dtype == torch.bool):
            raise SelectionError(f"{name} must be a bool tensor, one entry per candidate, got {mask!r}.")
    if always is not None and never is not None and always.shape == never.shape and (always & never).any():
        both = (always & never).nonzero().flatten().tolist()
        raise SelectionError(f"always and never both name {listed(both)}.")


def check_k(k: int, num_edges: int | None = None, word: str = "candidate edges") -> int:
    """k as an integer within 0..num_edges, or an error."""
    if whole(k) is None:
        raise SelectionError(f"k, the number of real edges, must be an integer, got {k!r}.")
    k = whole(k)
    if k < 0 or (num_edges is not None and k > num_edges):
        most = "" if num_edges is None else f" and at most the {num_edges} {word}"
        raise SelectionError(f"k must be at least 0{most}, got {k}.")
    return k


class Competing:
    """What selectors share whose candidates compete for being among k: the settings, and the groups they make.

    Mixed into a :class:`Selector`, which calls :meth:`compete_within` when it is made. A setting that changes
    holds from the next selection on.
    """

    def compete_within(self, per: str, group: int | None, always: torch.Tensor | None = None,
                       never: torch.Tensor | None = None) -> None:
        """Takes the settings, checked as far as they can be without candidates."""
        lookup("competition", per, COMPETITIONS)
        check_masks(always, never)
        if group is not None and per != "group":
            raise SelectionError(f"group={group!r} is a setting of per='group', got per={per!r}.")
        self.per, self.group = per, group
        self._always, self._never = always, never
        # for which candidates, under which settings
        self._fitted: tuple[Candidates | None, Hashable, Groups | None] = (None, None, None)

    def fit(self) -> Groups:
        """What candidates compete within under the present settings."""
        return compete(self.per, self.candidates, self.k, self.group, self._always, self._never)

    def groups(self) -> Groups:
        """The competition, made anew where a setting has changed, or the candidates."""
        if is_traced():
            return self._fitted[2]
        candidates, settings = self.candidates, self.settings()
        if self._fitted[0] is not candidates or self._fitted[1] != settings:
            check_k(self.k, self.num_edges, candidates.word)
            self._fitted = candidates, settings, self.fit()
        return self._fitted[2]

    def competition_repr(self) -> str:
        """The settings that are not the usual ones, for ``extra_repr``."""
        return (f", per={self.per!r}" if self.per != "graph" else "") + (
            f", group={self.group}" if self.group is not None else "")


def top_k(score: torch.Tensor, k: int, by_magnitude: bool = False) -> torch.Tensor:
    """A mask (n,) of the k largest scores (or of their magnitudes); of equal ones the last are kept.

    Only the k-th largest score is found, nothing is sorted.
    """
    if k == 0:
        return torch.zeros_like(score, dtype=torch.bool)
    if is_traced():
        return _traced_top_k(score.abs() if by_magnitude else score, k)
    if score.device.type == "cpu" and kernels.AVAILABLE and len(score) >= MANY and \
            score.dtype in (torch.float32, torch.float64):
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
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def _traced_top_k(score, k):
    threshold = score.kthvalue(score.shape[0] - k + 1).values
    above, tied = score > threshold, score == threshold
    from_the_last = tied.flip(0).cumsum(0).flip(0)
    return above | (tied & (from_the_last <= k - above.sum()))


def _bracketed(score, k, by_magnitude):
    from ..kernels.ranking import bracketed_top_k  # numba is loaded where it is used
    return bracketed_top_k(score, k, by_magnitude)


def _kth_largest(score: torch.Tensor, k: int) -> torch.Tensor:
    if score.device.type == "cpu":  # numpy's vectorised partition, 5 to 10 times torch.kthvalue
        values = score if score.dtype in (torch.float32, torch.float64) else score.float()
        at = len(values) - k
        return torch.as_tensor(np.partition(values.numpy(), at)[at], device="cpu").to(score.dtype)
    return score.kthvalue(len(score) - k + 1).values
