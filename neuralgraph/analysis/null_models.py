"""Whether a wiring is other than chance would have made it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import networkx as nx
import numpy as np
import torch

from .. import kernels
from .._html import table
from ..errors import InputError, listed, lookup, whole
from ..networks import NeuralGraph
from ..wiring import ROLES, Wiring
from ..wiring.ends import Entries
from ..wiring.matrices import entries_of
from ..wiring.paths import longest_path_levels
from ..wiring.wiring import INPUT, OUTPUT
from .statistics import MOST_NODES, STATISTICS, GraphEdges

PAIRS = 2**20  # of edges, proposed at once
Statistic = str | Callable[[nx.DiGraph], float]


@dataclass(frozen=True, eq=False)
class NullModel:
    """A statistic of a wiring, beside those of random ones.

    Args:
        statistic: its name.
        kind: of random wirings, a key of :data:`KINDS`.
        observed: of the wiring.
        values: of the random ones, float64 (samples,).
    """

    statistic: str
    kind: str
    observed: float
    values: torch.Tensor

    @property
    def mean(self) -> float:
        """Of the random wirings."""
        return float(self.values.mean())

    @property
    def std(self) -> float:
        """The sample standard deviation of the random wirings."""
        return float(self.values.std())

    @property
    def z(self) -> float:
        """(observed - mean) / std; nan where all random wirings are alike and this one too."""
        difference = self.observed - self.mean
        return difference / self.std if self.std else math.copysign(math.inf, difference) if difference else math.nan

    @property
    def p(self) -> float:
        """The share of random wirings, this one counted too, that are as far from their mean or farther."""
        far = (self.values - self.mean).abs() >= abs(self.observed - self.mean) * (1 - 1e-12)
        return (1 + int(far.sum())) / (1 + len(self.values))

    def __str__(self) -> str:
        return (f"{self.statistic}: {self.observed:.4g}, against {self.mean:.4g} ± {self.std:.2g} of {len(self.values)} "
                f"random wirings ({KINDS[self.kind]}): z = {self.z:.2f}, p = {self.p:.3g}")

    def _repr_html_(self) -> str:
        return table(("statistic", "observed", "random: mean", "std", "z", "p"),
                     [(self.statistic, self.observed, self.mean, self.std, self.z, self.p)],
                     notes=[f"against {len(self.values)} random wirings ({KINDS[self.kind]})"])


def null_model(wiring: Wiring | NeuralGraph, statistic: Statistic, samples: int = 100, seed: int = 0, *,
               kind: str = "degrees", candidates: Wiring | None = None, swaps: int = 10) -> NullModel:
    """How a statistic of a wiring compares with that of random wirings which may have the same edges.

    Random wirings of kind "degrees" come from this one by double edge swaps, a -> b and c -> d becoming
    a -> d and c -> b where both positions are allowed and free, ``swaps`` tries per edge each ("On the uniform
    generation of random graphs with prescribed degree sequences", Milo et al., 2003). Every node keeps its numbers of
    in- and out-edges, so what differs is who is connected with whom. Not every wiring with these degrees can always be
    reached by swaps alone.

    Args:
        wiring: a learned wiring; or a network, whose real edges are looked at.
        statistic: a key of :data:`STATISTICS`, or a function of a :class:`networkx.DiGraph` with the nodes
            0..V-1, each with its ``role`` and ``block``, that returns a number.
        samples: how many random wirings.
        seed: of what is drawn.
        kind: "degrees"; "blocks", which also keeps the number of edges between every two blocks; or "uniform",
            as many edges anywhere they are allowed.
        candidates: the wiring whose edges are the allowed positions. By default those of the network; of a
            wiring whose edges all lead to later blocks, every pair from an earlier to a later one; otherwise all pairs,
            self-loops if it has one; never into inputs nor out of outputs, unless it has such edges.
        swaps: tries per edge between one random wiring and the next.

    Returns:
        The statistic, and what z-score and p-value follow from.

    Raises:
        InputError: for numbers that make no sense, a statistic that has no meaning for the graph, edges that are
            not allowed, or more than 20,000 nodes.

    >>> import neuralgraph as ng
    >>> net = ng.StaticNeuralGraph(ng.wirings.blocks([4, 8, 8, 4]), ng.TopK(k=60))
    >>> found = null_model(net, "feed-forward-loops", samples=50)
    >>> found.observed == found.observed and 0 < found.p <= 1
    True
    """
    name, measure = _measure(statistic)
    lookup("kind of random wirings", kind, KINDS)
    for what, number, least in (("samples", samples, 2), ("swaps", swaps, 1)):
        if (whole(number) or 0) < least:
            raise InputError(f"{what} must be an integer of at least {least}, got {number!r}.")
    src, dst, wiring, candidates = _edges_of(wiring, candidates)
    if wiring.num_nodes > MOST_NODES:
        raise InputError(f"the wiring has {wiring.num_nodes} nodes, more than the {MOST_NODES} whose pairs can be "
                         "held: take a part of it.")
    allowed = _allowed(wiring, src, dst, candidates)
    if statistic == "3-cycles" and longest_path_levels(entries_of(allowed)[0]) is not None:
        raise InputError("3-cycles have no meaning where the allowed edges make no cycle: expected the graph of a "
                         "dynamic network.")
    nodes = {node: {"role": ROLES[role], "block": block}
             for node, (role, block) in enumerate(zip(wiring.role.tolist(), wiring.block.tolist()))}

    def value(src, dst):
        found = measure(GraphEdges(wiring.num_nodes, src, dst), nodes)
        if not isinstance(found, (int, float)) or isinstance(found, bool):
            raise InputError(f"the statistic {name} must return a number, got {found!r}.")
        return float(found)

    observed = value(src, dst)
    generator = np.random.default_rng(seed)
    draw = _uniform(src, allowed, generator) if kind == "uniform" else \
        _swapped(src, dst, allowed, wiring.block if kind == "blocks" else torch.zeros_like(wiring.block), swaps, generator)
    return NullModel(name, kind, observed, torch.tensor([value(*next(draw)) for _ in range(samples)],
                                                        dtype=torch.float64))


KINDS = {"degrees": "the same degrees", "blocks": "the same degrees and numbers of edges between blocks",
         "uniform": "as many edges anywhere"}


def _measure(statistic: Statistic):
    if isinstance(statistic, str):
        function = lookup("statistic", statistic, STATISTICS)
        return statistic, lambda edges, nodes: function(edges)
    if not callable(statistic):
        raise InputError(f"statistic must be one of {listed(STATISTICS)} or a function of a networkx.DiGraph, got "
                         f"{statistic!r}.")

    def measure(edges: GraphEdges, nodes: Mapping):
        graph = edges.to_networkx()
        nx.set_node_attributes(graph, nodes)
        found = statistic(graph)
        return found.item() if hasattr(found, "item") else found
    return getattr(statistic, "__name__", repr(statistic)), measure


def _edges_of(wiring, candidates):
    """The ends of the real edges, the wiring, and whose edges are allowed."""
    if isinstance(wiring, NeuralGraph):
        real = wiring.selection().real.cpu()
        whole_wiring = wiring.wiring
        return (*whole_wiring.ends.of(real), whole_wiring, whole_wiring if candidates is None else candidates)
    if not isinstance(wiring, Wiring):
        raise InputError(f"expected a wiring or a network, got {type(wiring).__name__}.")
    return wiring.src, wiring.dst, wiring, candidates


def _allowed(wiring: Wiring, src: torch.Tensor, dst: torch.Tensor, candidates: Wiring | None) -> torch.Tensor:
    """Where edges may be, bool (V, V) [src, dst]."""
    if not len(src):
        raise InputError("the wiring has no edges.")
    number = wiring.num_nodes
    if candidates is None:
        return _likely(wiring, src, dst)
    if not isinstance(candidates, Wiring) or candidates.num_nodes != number:
        raise InputError(f"candidates must be a wiring of the same {number} nodes, got {candidates!r}.")
    allowed = torch.zeros(number, number, dtype=torch.bool)
    allowed[candidates.src, candidates.dst] = True
    outside = ~allowed[src, dst]
    if outside.any():
        raise InputError(f"{int(outside.sum())} edges of the wiring are not among the candidates, such as "
                         f"{wiring.edge_name(int(outside.nonzero()[0]))}.")
    return allowed


def _likely(wiring: Wiring, src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
    block, role, number = wiring.block, wiring.role, wiring.num_nodes
    is_layered = bool((block[src] < block[dst]).all())
    order = block if is_layered else longest_path_levels(Entries(src, dst, (number, number)))
    if order is None or (order is not block and bool((src == dst).any())):
        allowed = torch.ones(number, number, dtype=torch.bool)
        if not bool((src == dst).any()):
            allowed.fill_diagonal_(False)
    else:
        allowed = order[:, None] < order
    if not bool((role[dst] == INPUT).any()):
        allowed[:, role == INPUT] = False
    if not bool((role[src] == OUTPUT).any()):
        allowed[role == OUTPUT] = False
    return allowed


def _uniform(src, allowed, generator):
    """As many edges anywhere, again and again."""
    places = allowed.flatten().nonzero().flatten()
    while True:
        picked = places[torch.from_numpy(generator.choice(len(places), len(src), replace=False))]
        yield picked // len(allowed), picked % len(allowed)


def _swapped(src, dst, allowed, kind, swaps, generator):
    """The same degrees, again and again, each wiring from the one before."""
    if kernels.AVAILABLE:
        from ..kernels.swapping import swap_ends  # numba is loaded where it is used
    else:
        from ..kernels.plain import swap_ends
    present = torch.zeros_like(allowed)
    present[src, dst] = True
    src, dst, present, allowed, kind = (tensor.clone().numpy() for tensor in (src, dst, present, allowed, kind))
    while True:
        left = swaps * len(src)
        while left:
            number = min(left, PAIRS)
            swap_ends(src, dst, present, allowed, kind, *generator.integers(len(src), size=(2, number)))
            left -= number
        yield torch.from_numpy(src.copy()), torch.from_numpy(dst.copy())
