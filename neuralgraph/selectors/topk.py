"""Discovering Neural Wirings: the k edges of largest magnitude."""

from __future__ import annotations

import numpy as np
import torch

from ..errors import SelectionError, lookup
from ..wiring import Wiring
from .selector import Selector, check_k


class TopK(Selector):
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
            Rule); "soft_g", the same as "ste" by another way.
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

    def __init__(self, k: int, gradient: str = "ste", per: str = "graph"):
        super().__init__(gradient)
        lookup("competition", per, dict.fromkeys(("graph", "block", "node")))
        self.k, self.per = check_k(k), per
        self._groups: Groups | None = None

    def prepare(self, wiring, weight, generator):
        check_k(self.k, self.num_edges)
        if self.per == "block":
            self._groups = Groups.by_block(wiring, self.k)
        elif self.per == "node":
            self._groups = Groups.by_node(wiring, self.k)

    def select(self, weight):
        score = weight.detach().abs()
        if self._groups is not None:
            return self._groups.top(score)
        return top_k(score, check_k(self.k, len(weight)))

    def fingerprint(self):
        return (self.k,)

    @property
    def num_real(self):
        return self.k

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
        self.group = group
        size = torch.bincount(group, minlength=len(keep))
        # ranks 0..E-1 when sorted by group, then score: the last keep[g] of each group are real
        self._is_kept = torch.cat([torch.arange(int(n)) >= int(n - k) for n, k in zip(size, keep)])

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
        group = wiring.block[wiring.dst]
        size = torch.bincount(group)
        exact = size.double() * k / max(1, len(group))
        keep = exact.floor().long()
        remainder = (exact - keep).argsort(descending=True, stable=True)[:k - int(keep.sum())]
        keep[remainder] += 1
        return cls(group, keep)

    @classmethod
    def by_node(cls, wiring: Wiring, k: int) -> Groups:
        """The same number for every node that has candidate in-edges."""
        size = torch.bincount(wiring.dst, minlength=wiring.num_nodes)
        nodes = int((size > 0).sum())
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


def top_k(score: torch.Tensor, k: int) -> torch.Tensor:
    """A mask (E,) of the k largest scores; of equal ones the last are kept.

    Only the k-th largest score is found, nothing is sorted.
    """
    if k == 0:
        return torch.zeros_like(score, dtype=torch.bool)
    threshold = _kth_largest(score, k)
    mask = score > threshold
    missing = k - int(mask.sum())
    tied = (score == threshold).nonzero().flatten()
    mask[tied[len(tied) - missing:]] = True
    return mask


def _kth_largest(score: torch.Tensor, k: int) -> torch.Tensor:
    if score.device.type == "cpu":  # numpy's vectorised partition, 5 to 10 times torch.kthvalue
        values = score if score.dtype in (torch.float32, torch.float64) else score.float()
        at = len(values) - k
        return torch.as_tensor(np.partition(values.numpy(), at)[at]).to(score.dtype)
    return score.kthvalue(len(score) - k + 1).values
