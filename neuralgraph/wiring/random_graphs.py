"""Random acyclic wirings: undirected random graphs, their edges directed from lower to higher index."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from .._modules import Lazy
from ..errors import WiringError, is_real, lookup
from ..nodes import NodeFunction
from .assembling import all_but_outputs, assemble, default_function, generator_of, integer
from .devices import on_cpu
from .ends import Entries
from .paths import longest_path_levels
from .reading import HIDDEN, INPUT, OUTPUT
from .wiring import Wiring

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = Lazy("networkx")

DRAWS = 1000  # of a graph that must be connected


@on_cpu
def erdos_renyi(nodes: int, probability: float, *, inputs: int, outputs: int, seed: int | torch.Generator,
                function: NodeFunction | None = None, dims: int = 2) -> Wiring:
    """A random wiring of Erdős and Rényi's kind: every pair of nodes is joined with one probability.

    As in "Exploring Randomly Wired Neural Networks" (Xie et al., ICCV 2019): the graph is drawn again until it is
    connected, which takes a probability of about ln(nodes) / nodes, and edges lead from lower to higher index.
    Inputs and outputs are further nodes: every node without parents reads all inputs, every node without children
    is read by all outputs. Between nodes there are P N (N - 1) / 2 edges on average.

    Nodes are numbered inputs first, outputs last, between them in the order of index; edges are sorted by
    destination, then source.

    Args:
        nodes: N, the number of hidden nodes.
        probability: P, 0 to 1.
        inputs, outputs: how many input and output nodes there are beside them.
        seed: of everything that is drawn; an integer or a generator.
        function: of every node but the outputs, which compute nothing; by default "norm activation conv" with a
            batch norm, or "norm activation" where ``dims`` is 0.
        dims: of the states that it is made for, 0 (vectors) to 3.

    Raises:
        WiringError: for numbers that make no graph, and if 1,000 graphs in a row were not connected.

    >>> erdos_renyi(32, 0.2, inputs=3, outputs=5, seed=0).num_nodes
    40
    """
    return _wiring("erdos_renyi", nodes, {"probability": probability}, inputs, outputs, seed, function, dims)


@on_cpu
def barabasi_albert(nodes: int, edges: int, *, inputs: int, outputs: int, seed: int | torch.Generator,
                    function: NodeFunction | None = None, dims: int = 2) -> Wiring:
    """A random wiring of Barabási and Albert's kind: whoever has many edges gets more.

    Begins with M nodes without edges; nodes arrive one by one, and each is joined to M different nodes that are
    there, drawn in proportion to their degrees (the first one to all M). The index is the order of arrival. Between
    nodes there are M (N - M) edges.

    Args:
        nodes: N, the number of hidden nodes.
        edges: M, of each node that arrives, from 1 to N - 1.

    The other arguments are those of :func:`erdos_renyi`, and so is what is made of the graph.

    >>> wiring = barabasi_albert(32, 5, inputs=1, outputs=1, seed=0)
    >>> int((wiring.src.ge(1) & wiring.dst.le(32)).sum())       # between its 32 nodes: 5 (32 - 5)
    135
    """
    return _wiring("barabasi_albert", nodes, {"edges": edges}, inputs, outputs, seed, function, dims)


@on_cpu
def watts_strogatz(nodes: int, neighbours: int, probability: float, *, inputs: int, outputs: int,
                   seed: int | torch.Generator, function: NodeFunction | None = None, dims: int = 2) -> Wiring:
    """A small world of Watts and Strogatz: a ring of neighbours, some of whose edges lead elsewhere.

    On a ring every node is joined to K / 2 neighbours on each side. Then, for i = 1 to K / 2 and clockwise over all
    nodes, the edge to the i-th next node leads, with probability P, to a node that is drawn among those that are
    neither the node itself nor joined to it; if there is none, the edge stays. The graph is drawn again until it is
    connected. The index is the position on the ring. Between nodes there are N K / 2 edges. WS(4, 0.75) is the best of
    "Exploring Randomly Wired Neural Networks" (Xie et al., ICCV 2019).

    Args:
        nodes: N, the number of hidden nodes.
        neighbours: K, even, from 2 to N - 1.
        probability: P, 0 to 1.

    The other arguments are those of :func:`erdos_renyi`, and so is what is made of the graph.

    >>> ring = watts_strogatz(6, 2, 0.0, inputs=1, outputs=1, seed=0)
    >>> list(zip(ring.src.tolist(), ring.dst.tolist()))
    [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (1, 6), (5, 6), (6, 7)]
    """
    return _wiring("watts_strogatz", nodes, {"neighbours": neighbours, "probability": probability}, inputs, outputs,
                   seed, function, dims)


def _wiring(name, nodes, options, inputs, outputs, seed, function, dims) -> Wiring:
    inputs, outputs = integer("inputs", inputs), integer("outputs", outputs)
    if min(inputs, outputs) < 1:
        raise WiringError(f"need at least one input and one output, got {inputs} inputs and {outputs} outputs.")
    function = default_function(dims, function)
    src, dst = draw(name, nodes, options, generator_of(seed))
    nodes = int(nodes)
    role = torch.tensor([INPUT] * inputs + [HIDDEN] * nodes + [OUTPUT] * outputs)
    inner = torch.arange(inputs, inputs + nodes)
    sources = inner[torch.bincount(dst, minlength=nodes) == 0]
    sinks = inner[torch.bincount(src, minlength=nodes) == 0]
    last = torch.arange(inputs + nodes, len(role))
    src = torch.cat([torch.arange(inputs).repeat(len(sources)), src + inputs, sinks.repeat(outputs)])
    dst = torch.cat([sources.repeat_interleave(inputs), dst + inputs, last.repeat_interleave(len(sinks))])
    ends = Entries.numbered((dst * len(role) + src).sort().values, (len(role), len(role)))
    levels = longest_path_levels(ends)
    assert levels is not None  # edges go from smaller to larger numbers
    return assemble(ends, role, levels, all_but_outputs(role, function))


# The undirected graphs


def draw(name: str, nodes: int, options: Mapping[str, object],
         generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The ends of the edges of a connected random graph, each from a lower to a higher number below ``nodes``.

    Args:
        name: a key of :data:`GRAPHS`.
        options: its arguments beside the number of nodes.

    Raises:
        WiringError: if that many draws were not connected.
    """
    kind = lookup("random graph", name, GRAPHS)
    nodes = integer("nodes", nodes)
    if nodes < 1:
        raise WiringError(f"nodes must be at least 1, got {nodes}.")
    try:
        attempt = kind(nodes, **options)
    except TypeError:
        names = list(kind.__annotations__)[1:-1]
        raise WiringError(f"the random graph {name!r} takes {' and '.join(names)}, got "
                          f"{', '.join(options) or 'nothing'}.") from None
    rng = random.Random(int(torch.randint(2**62, (), generator=generator)))  # networkx knows no torch generators
    for _ in range(DRAWS):
        graph = attempt(rng)
        if nx.is_connected(graph):
            edges = torch.tensor([sorted(edge) for edge in graph.edges], dtype=torch.long).reshape(-1, 2)
            return edges[:, 0], edges[:, 1]
    settings = ", ".join(f"{key}={value!r}" for key, value in options.items())
    raise WiringError(f"none of {DRAWS} random graphs {name} of {nodes} nodes with {settings} was connected: make the "
                      "probability larger.")


Attempt = Callable[[random.Random], Any]  # a networkx.Graph


def _erdos_renyi(nodes: int, probability: float) -> Attempt:
    probability = _probability(probability)
    # its index is that of a random order: exchanging nodes does not change the distribution
    if 1.0 - probability == 1.0:  # networkx takes the logarithm of it
        probability = 0.0
    return lambda rng: nx.fast_gnp_random_graph(nodes, probability, seed=rng)


def _barabasi_albert(nodes: int, edges: int) -> Attempt:
    edges = integer("edges", edges)
    if not 1 <= edges < nodes:
        raise WiringError(f"edges, of each node that arrives, must be at least 1 and below the number of nodes, "
                          f"{nodes}, got {edges}.")
    # networkx begins with the same star, but takes the node in its middle for the first instead of the M-th to arrive
    star = nx.empty_graph(edges + 1)
    star.add_edges_from((first, edges) for first in range(edges))
    return lambda rng: nx.barabasi_albert_graph(nodes, edges, seed=rng, initial_graph=star)


def _watts_strogatz(nodes: int, neighbours: int, probability: float) -> Attempt:
    neighbours, probability = integer("neighbours", neighbours), _probability(probability)
    if neighbours % 2 or not 0 < neighbours < nodes:
        raise WiringError("neighbours must be even, half of them on each side, above 0 and below the number of nodes, "
                          f"{nodes}, got {neighbours}.")
    return lambda rng: nx.watts_strogatz_graph(nodes, neighbours, probability, seed=rng)


# what draws an undirected graph of so many nodes, made from the checked settings
GRAPHS: dict[str, Callable[..., Attempt]] = {
    "erdos_renyi": _erdos_renyi, "barabasi_albert": _barabasi_albert, "watts_strogatz": _watts_strogatz,
}


def _probability(value: object) -> float:
    if isinstance(value, bool) or not is_real(value) or not 0 <= value <= 1:
        raise WiringError(f"probability must be a number from 0 to 1, got {value!r}.")
    return float(value)
