"""What candidates compete within for being among k."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch

from ..errors import SelectionError, listed, lookup, whole
from .candidates import Candidates
from .groups import Groups, SharedParents, Whole, is_traced


def _whole(candidates: Candidates, k: int, group: int | None) -> Groups:
    return Whole(candidates.num, k)


def _by_block(candidates: Candidates, k: int, group: int | None) -> Groups:
    """k divided in proportion to the candidates into each block, largest remainders first."""
    block, size = candidates.layers()
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
    number = whole(group)
    if number is None or number < 1:
        raise SelectionError(f"per='group' needs group, the number of nodes that share their parents, an integer "
                             f"of at least 1, got {group!r}.")
    group = number
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


def check_k(k: int | None, num_edges: int | None = None, word: str = "candidate edges") -> int:
    """k as an integer within 0..num_edges, or an error."""
    number = whole(k)
    if number is None:
        raise SelectionError(f"k, the number of real edges, must be an integer, got {k!r}.")
    if number < 0 or (num_edges is not None and number > num_edges):
        most = "" if num_edges is None else f" and at most the {num_edges} {word}"
        raise SelectionError(f"k must be at least 0{most}, got {number}.")
    return number


class Competing:
    """What selectors share whose candidates compete for being among k: the settings, and the groups they make.

    Mixed into a :class:`Selector`, which calls :meth:`compete_within` when it is made. A setting that changes
    holds from the next selection on.
    """

    candidates: Candidates | Any
    k: int | Any
    num_edges: int | Any
    settings: Callable[[], tuple[Hashable, ...]]

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
        self._fitted: tuple[Candidates | None, Hashable, Groups | Any] = (None, None, None)

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
