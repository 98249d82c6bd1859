"""Longest paths in sparse graphs, compiled."""

from __future__ import annotations

import numpy as np
import torch

from .keeping import compiled


def raise_levels(entries: torch.Tensor, level: torch.Tensor) -> bool:
    """Makes the level of each node as large as one more than that of any node from which an edge leads to it.

    Every edge is looked at once, or twice where its source had to be visited first.

    Args:
        entries: the number of the entry of the matrix [destination, source] that each edge is, ascending, integers (E,).
        level: of each node, int64 (V,); changed in place.

    Returns:
        Whether there are no cycles; otherwise levels mean nothing.
    """
    entries, num_nodes = entries.numpy(), len(level)
    first = np.searchsorted(entries, np.arange(num_nodes + 1).astype(entries.dtype) * entries.dtype.type(num_nodes))
    return _visit(first, entries, level.numpy())


@compiled
def _visit(first, entries, level):
    """Depth first, from each node to those that lead to it."""
    num_nodes = len(level)
    unseen = first[:-1].copy()  # of the edges into each node, the first that is not accounted for
    on_path, done = np.zeros(num_nodes, np.bool_), np.zeros(num_nodes, np.bool_)
    path = np.empty(num_nodes, np.int64)
    for root in range(num_nodes):
        length = 0
        if not done[root]:
            path[0], on_path[root], length = root, True, 1
        while length:
            node = path[length - 1]
            edge, last = unseen[node], first[node + 1]
            highest, begin, source = level[node], node * num_nodes, node
            while edge < last:
                source = entries[edge] - begin
                if not done[source]:
                    break
                highest = max(highest, level[source] + 1)
                edge += 1
            level[node], unseen[node] = highest, edge
            if edge == last:
                done[node] = True
                length -= 1
            elif on_path[source]:
                return False
            else:
                path[length], on_path[source] = source, True
                length += 1
    return True
