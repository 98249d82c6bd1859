"""Where to draw the nodes of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .._modules import Lazy
from .wiring import Wiring

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = Lazy("networkx")

SWEEPS = 24
MOST_FORCED = 2000  # nodes up to which forces are computed
MOST_THIN = 12  # blocks of one or two nodes that are columns
LIVE, DEAD = (0.0, 0.9), (0.95, 1.0)  # heights of nodes with edges and without, where there are both


def layout(wiring: Wiring, strength: torch.Tensor | None = None) -> torch.Tensor:
    """A position for every node, (V, 2): x to the right and y down, each from 0 to 1.

    Where all edges lead to later blocks, blocks are columns from left to right, and the nodes of a block are ordered so
    that edges are short and cross little (repeated barycentres: "Methods for Visual Understanding of
    Hierarchical System Structures", Sugiyama et al., 1981). Nodes without edges stand in a band below. Other graphs, and those
    of more than 12 blocks with fewer than three nodes each, are laid out by forces (Fruchterman and Reingold, 1991), as
    :func:`networkx.spring_layout` has them; beyond 2,000 nodes they are columns, too.

    Args:
        wiring: a learned one, say.
        strength: how much each edge counts, (E,), at least 0; by default the magnitude of its weight, or 1. Edges
            of strength 0 do not count.

    >>> import neuralgraph as ng
    >>> layout(ng.wirings.chain([1, 2, 1]))
    tensor([[0.0000, 0.5000],
            [0.5000, 0.2500],
            [0.5000, 0.7500],
            [1.0000, 0.5000]])
    """
    if strength is None:
        strength = torch.ones(wiring.num_edges) if wiring.weight is None else wiring.weight.abs().float()
    return positions(wiring.block, wiring.src, wiring.dst, strength)


def positions(block: torch.Tensor, src: torch.Tensor, dst: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """As :func:`layout`, of a graph that is no wiring: blocks of its nodes (V,), ends and strengths of its edges (E,)."""
    real = strength > 0
    src, dst, strength = src[real], dst[real], strength[real].double()
    block = block.unique(return_inverse=True)[1]
    is_layered = bool((block[src] < block[dst]).all())
    number = int(block.max()) + 1
    is_thin = number > MOST_THIN and len(block) < 3 * number
    if (is_thin or not is_layered) and len(block) <= MOST_FORCED and len(src):
        return _by_forces(len(block), src, dst, strength)
    return _by_blocks(block, src, dst, strength)


def _by_blocks(block: torch.Tensor, src: torch.Tensor, dst: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    live = _live(len(block), src, dst)
    column = 2 * block + ~live  # live and dead nodes of a block are ordered and spread apart
    size = torch.bincount(column)

    def spread(score):
        """The height of every node among those of its column."""
        by_score = score.argsort(stable=True)
        by_column = by_score[column[by_score].argsort(stable=True)]
        first = (size.cumsum(0) - size)[column[by_column]]
        y = torch.empty(len(block), dtype=torch.float64)
        y[by_column] = (torch.arange(len(block), dtype=torch.float64) - first + 0.5) / size[column[by_column]]
        return y

    def barycentre(y, own, other):
        total = torch.zeros_like(y).index_add_(0, own, strength)
        mean = torch.zeros_like(y).index_add_(0, own, strength * y[other]) / total
        return mean.where(total > 0, y)

    y = best = spread(torch.arange(len(block), dtype=torch.float64))
    length = _length(y, src, dst, strength)
    for sweep in range(SWEEPS):
        ends = ((dst, src), (src, dst))[sweep % 2]
        y = spread(barycentre(y, *ends))
        now = _length(y, src, dst, strength)
        if now < length:
            best, length = y, now
    x = block.double() / max(1, int(block.max()))
    return _banded(x, best, live)


def _live(num_nodes: int, src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
    live = torch.zeros(num_nodes, dtype=torch.bool)
    live[src], live[dst] = True, True
    return live


def _banded(x: torch.Tensor, y: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
    """Heights within 0 to 1 as they are, or in two bands where some nodes are dead."""
    if bool(live.any()) and not bool(live.all()):
        y = torch.where(live, LIVE[0] + y * (LIVE[1] - LIVE[0]), DEAD[0] + y * (DEAD[1] - DEAD[0]))
    return torch.stack([x, y], 1).float()


def _length(y, src, dst, strength) -> float:
    return float((strength * (y[src] - y[dst]).abs()).sum())


def _by_forces(num_nodes: int, src: torch.Tensor, dst: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    live = _live(num_nodes, src, dst)
    graph = nx.Graph()
    graph.add_nodes_from(live.nonzero().flatten().tolist())
    largest = float(strength.max())
    graph.add_weighted_edges_from((u, v, weight / largest) for u, v, weight in
                                  zip(src.tolist(), dst.tolist(), strength.tolist()) if u != v)
    found = nx.spring_layout(graph, seed=0, iterations=60)
    position = torch.zeros(num_nodes, 2, dtype=torch.float64)
    position[live] = torch.tensor([found[node].tolist() for node in graph], dtype=torch.float64)
    least, most = position[live].min(0).values, position[live].max(0).values
    position[live] = (position[live] - least) / (most - least).clamp(min=1e-9)
    dead = (~live).nonzero().flatten()
    position[dead, 0] = (torch.arange(len(dead), dtype=torch.float64) + 0.5) / max(1, len(dead))
    position[dead, 1] = 0.5
    return _banded(position[:, 0], position[:, 1], live)
