"""Discovering Neural Wirings: the k edges of largest magnitude."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable

import numpy as np
import torch

from .. import kernels
from ..errors import SelectionError, lookup
from ..wiring import Wiring
from .selection import GradientRule
from .selector import Selector, check_k

MANY = 2**17  # scores from which on one compiled pass is faster than numpy's partition


class RankingSelector(Selector):
    """A selector that ranks |w| anew at every selection: a setting that changes holds from the next one.

    Args:
        k: number of real edges, 0 to the number of candidates.
        gradient: a key of :data:`GRADIENTS`, or a :class:`GradientRule`.
    """

    def __init__(self, k: int, gradient: str | GradientRule):
        super().__init__(gradient)
        self.k = check_k(k)
        self._fitted: tuple[Hashable, Groups | None] = (None, None)

    @abstractmethod
    def fit(self) -> Groups | None:
        """What edges compete within under the present settings; None for the whole graph."""

    def prepare(self, wiring, weight, generator):
        self._groups()

    def select(self, weight):
        groups, weight = self._groups(), weight.detach()
        if groups is None:
            return top_k(weight, self.k, by_magnitude=True)
        return groups.top(weight.abs())

    @property
    def num_real(self):
        groups = None if self.wiring is None else self._groups()
        return self.k if groups is None else groups.num_kept

    def _groups(self) -> Groups | None:
        settings = self.fingerprint()
        if self._fitted[0] != settings:
            check_k(self.k, self.num_edges)
            self._fitted = settings, self.fit()
        return self._fitted[1]


class TopK(RankingSelector):
    """E = the k candidates of largest |w| (the paper's Algorithm 1, line 5), chosen at every step.

    Forward uses real edges only; the gradient also reaches the others, though never through them:

        effective weight  w 1{real};    dL/dw_uv = <Z_u, dL/dI_v>  for every candidate (u,v)

    ("Discovering Neural Wirings", section 2.2 and appendix F); into a node that multiplies, Z_u is
    times the other real factors (see ``aggregate`` of :class:`neuralgraph.NodeFunction`). Ties: among
    edges of equal magnitude the one with the higher number is kept, as a stable ascending sort would
    have it.

    Args:
        k: number of real edges, 0 to the number of candidates.
        gradient: "ste" (default); "masked" to let it reach real edges only (the paper's No Update
            Rule); "soft_g", the same as "ste" by another way, or :func:`soft_gate` with an epsilon.
        per: what the edges compete within. "graph" (default); "block": k is divided among the
            destination blocks in proportion to their candidates; "node": every node that can have
            in-edges keeps k / nodes of them (constant fan-in), which must be a whole number.

    >>> import neuralgraph as ng
    >>> selector = TopK(k=2)
    >>> wiring = ng.wirings.chain([2, 2])
    >>> selector.bind(wiring, torch.zeros(4), torch.Generator())
    >>> selector.select(torch.tensor([0.1, -3.0, 0.5, -0.5]))
    tensor([False,  True, False,  True])
    """

    def __init__(self, k: int, gradient: str | GradientRule = "ste", per: str = "graph"):
        super().__init__(k, gradient)
        lookup("competition", per, COMPETITIONS)
        self.per = per

    def fit(self):
        return lookup("competition", self.per, COMPETITIONS)(self.wiring, self.k)

    def fingerprint(self):
        return (self.k, self.per)

    def extra_repr(self):
        return (f"k={self.k}, gradient={self.gradient!r}"
                + (f", per={self.per!r}" if self.per != "graph" else ""))


class NoUpdate(TopK):
    """The paper's No Update Rule: top k at every step, but gradients reach real edges only.

    Hallucinated edges still decay, so an edge comes in only where a real one falls below it
    ("Discovering Neural Wirings", section 3.3).

    Args:
        k: number of real edges.
    """

    def __init__(self, k: int):
        super().__init__(k, gradient="masked")


class Groups:
    """Edges that compete within groups, and how many of each group are kept.

    Args:
        group: number of each edge's group, (E,).
        keep: how many edges each group keeps, (G,).
    """

    def __init__(self, group: torch.Tensor, keep: torch.Tensor):
        self.group, self.num_kept = group, int(keep.sum())
        size = torch.bincount(group, minlength=len(keep))
        # ranks 0..E-1 when sorted by group, then score: the last keep[g] of each group are real
        first_kept = (size.cumsum(0) - keep).repeat_interleave(size)
        self._is_kept = torch.arange(len(group)) >= first_kept

    def top(self, score: torch.Tensor) -> torch.Tensor:
        """A mask (E,) of the largest scores of each group, ties as in :func:`top_k`."""
        by_score = score.argsort(stable=True)
        order = by_score[self.group.to(score.device)[by_score].argsort(stable=True)]
        mask = torch.empty_like(score, dtype=torch.bool)
        mask[order] = self._is_kept.to(score.device)
        return mask

    @classmethod
    def by_block(cls, wiring: Wiring, k: int) -> Groups:
        """k divided in proportion to the candidates into each block, largest remainders first."""
        _, group, size = wiring.block[wiring.dst].unique(return_inverse=True, return_counts=True)
        edges = max(1, len(group))
        keep = size * k // edges  # integers, so that nothing depends on rounding
        remainder = (size * k % edges).argsort(descending=True, stable=True)[:k - int(keep.sum())]
        keep[remainder] += 1
        return cls(group, keep)

    @classmethod
    def by_node(cls, wiring: Wiring, k: int) -> Groups:
        """The same number for every node that has candidate in-edges."""
        size = torch.bincount(wiring.dst, minlength=wiring.num_nodes)
        nodes = max(1, int((size > 0).sum()))
        if k % nodes:
            raise SelectionError(
                f"per='node' keeps as many in-edges at each of {nodes} nodes, so k must be a multiple "
                f"of {nodes}, got {k}; the nearest are {k - k % nodes} and {k - k % nodes + nodes}."
            )
        fan_in = k // nodes
        short = ((size > 0) & (size < fan_in)).nonzero().flatten()
        if len(short):
            node = int(short[0])
            raise SelectionError(
                f"per='node' with k={k} keeps {fan_in} in-edges at each node, but node "
                f"{wiring.label(node)!r} has only {int(size[node])} candidates; choose k of at most "
                f"{int(size[size > 0].min()) * nodes}."
            )
        return cls(wiring.dst, (size > 0).long() * fan_in)


COMPETITIONS = {"graph": lambda wiring, k: None, "block": Groups.by_block, "node": Groups.by_node}


def top_k(score: torch.Tensor, k: int, by_magnitude: bool = False) -> torch.Tensor:
    """A mask (E,) of the k largest scores (or of their magnitudes); of equal ones the last are kept.

    Only the k-th largest score is found, nothing is sorted.
    """
    if k == 0:
        return torch.zeros_like(score, dtype=torch.bool)
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


def _bracketed(score, k, by_magnitude):
    from ..kernels.ranking import bracketed_top_k  # numba is loaded where it is used
    return bracketed_top_k(score, k, by_magnitude)


def _kth_largest(score: torch.Tensor, k: int) -> torch.Tensor:
    if score.device.type == "cpu":  # numpy's vectorised partition, 5 to 10 times torch.kthvalue
        values = score if score.dtype in (torch.float32, torch.float64) else score.float()
        at = len(values) - k
        return torch.as_tensor(np.partition(values.numpy(), at)[at], device="cpu").to(score.dtype)
    return score.kthvalue(len(score) - k + 1).values
