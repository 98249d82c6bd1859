"""Where paths lead in a graph, and how long they are."""

from __future__ import annotations

import numpy as np
import torch

from .. import kernels
from .ends import Entries

MANY = 2**20  # edges from which on a compiled loop follows paths
AT_ONCE = 2**22  # edges that the other one follows at once


def longest_path_levels(ends: Entries, least: torch.Tensor | None = None) -> torch.Tensor | None:
    """The number of edges of the longest path that ends in each node, (V,); None if cyclic.

    Args:
        ends: of a graph, that is of a square matrix.
        least: a lower bound on each node's level, (V,).
    """
    level = torch.zeros(ends.shape[0], dtype=torch.long) if least is None else least.clone()
    if _are_many(ends):
        from ..kernels.levels import raise_levels  # numba is loaded where it is used
        return level if raise_levels(ends.ascending(), level) else None
    return level if _raise_levels(*ends.of(slice(None)), level) else None


def _raise_levels(src: torch.Tensor, dst: torch.Tensor, level: torch.Tensor) -> bool:
    """As :func:`neuralgraph.kernels.levels.raise_levels`, from the ends of edges, int64 (E,) each."""
    num_nodes = len(level)
    waiting = torch.bincount(dst, minlength=num_nodes)
    start = torch.zeros(num_nodes + 1, dtype=torch.long)
    start[1:] = torch.bincount(src, minlength=num_nodes).cumsum(0)
    keys = src.numpy().astype(np.uint16 if num_nodes <= 2**16 else np.int64)  # numpy counts those of 16 bits to sort them
    targets = dst[torch.from_numpy(keys.argsort(kind="stable"))]
    at_once = max(1, AT_ONCE // max(1, int(start.diff().max()) if num_nodes else 1))
    ready = (waiting == 0).nonzero().flatten()
    seen = 0
    while len(ready):
        seen += len(ready)
        is_ready = torch.zeros(num_nodes, dtype=torch.bool)
        for some in ready.split(at_once):
            count = start[some + 1] - start[some]
            offset = torch.arange(int(count.sum())) - (count.cumsum(0) - count).repeat_interleave(count)
            out = targets[start[some].repeat_interleave(count) + offset]
            level.scatter_reduce_(0, out, level[some].repeat_interleave(count) + 1, "amax")
            waiting -= torch.bincount(out, minlength=num_nodes)
            is_ready[out] = True
        ready = (is_ready & (waiting == 0)).nonzero().flatten()
    return seen == num_nodes


def reached(ends: Entries, nodes: torch.Tensor) -> torch.Tensor:
    """These nodes, a mask (V,), and those to which paths lead from them."""
    if _are_many(ends):
        far = -len(nodes) - 1  # no path from there is so long that a level is not negative
        levels = longest_path_levels(ends, torch.where(nodes, 0, far))
        if levels is not None:
            return levels >= 0
    found, before = nodes.numpy().copy(), -1
    while before < found.sum() < len(found):
        before = found.sum()
        for src, dst in ends.pieces():
            found[dst[found.take(src)]] = True
    return torch.from_numpy(found)


def _are_many(ends: Entries) -> bool:
    return kernels.AVAILABLE and len(ends) >= MANY
