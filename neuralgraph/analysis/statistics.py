"""Numbers that say what the edges of a graph are like."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import torch

from ..errors import InputError

MOST_NODES = 20_000  # whose pairs are held at once


@dataclass(frozen=True, eq=False)
class GraphEdges:
    """The edges of one graph.

    Args:
        num_nodes: V.
        src, dst: their ends, int64 (E,).
    """

    num_nodes: int
    src: torch.Tensor
    dst: torch.Tensor

    @cached_property
    def adjacency(self) -> torch.Tensor:
        """1 where there is an edge, without self-loops, float32 (V, V), [src, dst]."""
        return self._matrix(self.src, self.dst)

    @cached_property
    def neighbours(self) -> torch.Tensor:
        """1 where there is an edge in either direction, float32 (V, V)."""
        return self._matrix(torch.cat([self.src, self.dst]), torch.cat([self.dst, self.src]))

    def _matrix(self, one, other):
        matrix = torch.zeros(self.num_nodes, self.num_nodes)
        matrix[one, other] = 1
        return matrix.fill_diagonal_(0)

    def to_networkx(self) -> nx.DiGraph:
        """The nodes 0..V-1 and these edges."""
        graph = nx.DiGraph()
        graph.add_nodes_from(range(self.num_nodes))
        graph.add_edges_from(zip(self.src.tolist(), self.dst.tolist()))
        return graph


def feed_forward_loops(edges: GraphEdges) -> float:
    """How many triples have u -> v, v -> w and u -> w."""
    a = edges.adjacency
    return float(((a @ a).double() * a).sum())


def bi_fans(edges: GraphEdges) -> float:
    """How many pairs of nodes have two common targets: two sources, two targets, four edges."""
    common = (edges.adjacency @ edges.adjacency.T).double().fill_diagonal_(0)
    return float((common * (common - 1)).sum() / 4)


def cycles(edges: GraphEdges) -> float:
    """How many triples have u -> v, v -> w and w -> u."""
    a = edges.adjacency
    return float(((a @ a).double() * a.T).sum() / 3)


def clustering(edges: GraphEdges) -> float:
    """Transitivity: of all paths of two edges, directions aside, the share whose ends are neighbours."""
    near = edges.neighbours
    degree = near.double().sum(1)
    paths = float((degree * (degree - 1)).sum())
    if not paths:
        raise InputError("clustering has no meaning where no node has two neighbours.")
    return float(((near @ near).double() * near).sum()) / paths


def path_length(edges: GraphEdges) -> float:
    """The mean length of the shortest directed paths between all pairs that have one."""
    return _mean_distance(edges.adjacency)


def distance(edges: GraphEdges) -> float:
    """The mean length of the shortest paths, directions aside, between all pairs that have one."""
    return _mean_distance(edges.neighbours)


def modularity(edges: GraphEdges) -> float:
    """Newman's modularity of the communities that Louvain's method finds, directions aside."""
    graph = _live(edges)
    return nx.community.modularity(graph, nx.community.louvain_communities(graph, seed=0))


def rich_club(edges: GraphEdges) -> float:
    """The share of possible edges among the tenth of the live nodes that has most neighbours."""
    near = edges.neighbours
    degree = near.sum(1)
    number = math.ceil(int((degree > 0).sum()) / 10)
    if number < 2:
        raise InputError("rich_club needs at least 11 nodes with edges, so that two are a tenth.")
    rich = degree.argsort(descending=True, stable=True)[:number]
    return float(near[rich][:, rich].sum() / (number * (number - 1)))


def assortativity(edges: GraphEdges) -> float:
    """The correlation, over edges, of the source's number of targets and the target's number of sources."""
    outward = torch.bincount(edges.src, minlength=edges.num_nodes)[edges.src].double()
    inward = torch.bincount(edges.dst, minlength=edges.num_nodes)[edges.dst].double()
    if len(outward) < 2 or outward.std() == 0 or inward.std() == 0:
        raise InputError("assortativity has no meaning where all degrees are equal.")
    return float(torch.corrcoef(torch.stack([outward, inward]))[0, 1])


def spectral_gap(edges: GraphEdges) -> float:
    """The second smallest eigenvalue of the normalised Laplacian of the largest component, directions aside."""
    graph = _live(edges)
    largest: set[int] = max(nx.connected_components(graph), key=len)
    nodes = sorted(largest)
    near = edges.neighbours[nodes][:, nodes].double()
    scale = near.sum(1).rsqrt()
    laplacian = torch.eye(len(nodes), dtype=torch.float64) - scale[:, None] * near * scale
    return float(torch.linalg.eigvalsh(laplacian)[1])


def _live(edges: GraphEdges) -> nx.Graph:
    graph = edges.to_networkx().to_undirected()
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    graph.remove_nodes_from(list(nx.isolates(graph)))
    if not graph:
        raise InputError("there is no edge between two nodes.")
    return graph


def _mean_distance(adjacency: torch.Tensor) -> float:
    reached = torch.eye(len(adjacency), dtype=torch.bool)
    front, length, total, pairs = reached, 0, 0, 0
    while True:
        length += 1
        front = (front.float() @ adjacency > 0) & ~reached
        number = int(front.sum())
        if not number:
            break
        reached = reached | front
        total, pairs = total + length * number, pairs + number
    if not pairs:
        raise InputError("there is no path between any two nodes.")
    return total / pairs


STATISTICS: dict[str, Callable[[GraphEdges], float]] = {
    "feed-forward-loops": feed_forward_loops, "bi-fans": bi_fans, "3-cycles": cycles, "clustering": clustering,
    "path-length": path_length, "distance": distance, "modularity": modularity, "rich-club": rich_club,
    "assortativity": assortativity, "spectral-gap": spectral_gap,
}
