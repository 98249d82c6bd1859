"""Random graphs at two scales: among the channels of a given wiring, and with a whole layer in each node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import WiringError, listed
from ..nodes import NodeFunction
from .assembling import assemble, generator_of, integer
from .devices import on_cpu
from .ends import Entries
from .paths import longest_path_levels
from .random_graphs import draw
from .reading import HIDDEN, INPUT, OUTPUT
from .stages import topological_stages
from .wiring import Wiring


@on_cpu
def micro(wiring: Wiring, k: int, like: str, *, seed: int | torch.Generator, **options: Any) -> Wiring:
    """k of the candidate edges of a wiring, as a random graph on its nodes has them.

    The graph is drawn on all nodes, in the order of their blocks. Of its edges those are kept that are candidates;
    then candidates that are drawn uniformly are added, or edges taken away, until there are k. So a random graph of
    any kind can be compared with a wiring discovered among the same candidates, at the same k. Nodes to which no
    edge leads are dead.

    Edges carry the initial weights of a network on all candidates, uniform in (-1/sqrt(n), 1/sqrt(n)) with n the
    nodes that can have children; or those of the wiring, if it carries weights.

    Args:
        wiring: of the candidates.
        k: number of edges.
        like: "erdos_renyi", "barabasi_albert" or "watts_strogatz".
        seed: of everything that is drawn; an integer or a generator.
        options: of the graph: probability; edges; neighbours and probability.

    Raises:
        WiringError: for a k above the number of candidates, and what the generator of that name refuses.

    >>> from neuralgraph.wiring.layered import blocks
    >>> micro(blocks([8, 16, 16, 4]), 200, "watts_strogatz", neighbours=8, probability=0.75, seed=0)
    Wiring(44 nodes: 8 input, 32 hidden, 4 output; 200 weighted edges)
    """
    if not isinstance(wiring, Wiring):
        raise WiringError(f"expected a neuralgraph.Wiring, got {type(wiring).__name__}.")
    k, generator = integer("k", k), generator_of(seed)
    if not 1 <= k <= wiring.num_edges:
        raise WiringError(f"k must be at least 1 and at most the {wiring.num_edges} candidate edges, got {k}.")
    low, high = draw(like, wiring.num_nodes, options, generator)
    order = wiring.block.argsort(stable=True)
    drawn = order[low] * wiring.num_nodes + order[high]
    real = torch.isin(wiring.src * wiring.num_nodes + wiring.dst, drawn)
    excess = int(real.sum()) - k
    pool = (real if excess > 0 else ~real).nonzero().flatten()
    change = pool[torch.randperm(len(pool), generator=generator)[:abs(excess)]]
    real[change] = excess < 0
    weight = wiring.weight
    if weight is None:
        bound = int((wiring.role != OUTPUT).sum()) ** -0.5
        weight = torch.empty(wiring.num_edges).uniform_(-bound, bound, generator=generator)
    return wiring.subgraph(real, weight, wiring.parameters)


@dataclass(frozen=True, eq=False)
class Macro:
    """A wiring with tied edges: those of a group share one weight.

    Args:
        wiring: of single channels, with initial weights.
        tie: the group of each edge, int64 (E,); -1 for an edge with a weight of its own.
        fixed: which edges keep the weight that they have, a mask (E,).
    """

    wiring: Wiring
    tie: torch.Tensor
    fixed: torch.Tensor


@on_cpu
def macro(graph: Wiring, channels: int, *, inputs: int | None = None, stride: int = 1,
          seed: int | torch.Generator) -> Macro:
    """A graph of layers as a wiring of single channels.

    Every hidden node of ``graph`` becomes a separable convolution of C channels, ReLU before it and a batch norm
    behind it ("Exploring Randomly Wired Neural Networks", Xie et al., ICCV 2019):

        y_b = norm( pointwise( depthwise( ReLU( sum over a of sigmoid(alpha_ab) y_a ))))

    An edge a -> b becomes C edges between channels of one index, with one weight sigmoid(alpha_ab), 1/2 at first;
    where b has no other parent its weight is 1, and the output is the mean of its parents, both for good.
    :func:`neuralgraph.sharing.tie` makes it so in a network.

    Args:
        graph: acyclic, with one input and one output, such as ``watts_strogatz(32, 4, 0.75, inputs=1, outputs=1,
            seed=0)``; what its nodes compute does not matter.
        channels: C.
        inputs: channels of the input; by default C.
        stride: of the convolutions of nodes that read the input, in pixels.
        seed: of the initial weights, uniform as those of :class:`torch.nn.Conv2d`; an integer or a generator.

    Raises:
        WiringError: for a graph with more inputs or outputs, or in which a node reads the input and others, which
            have maps of other sides or another number of channels.

    >>> from neuralgraph.wiring.random_graphs import watts_strogatz
    >>> macro(watts_strogatz(8, 4, 0.75, inputs=1, outputs=1, seed=0), 4, inputs=3, stride=2, seed=0).wiring.inputs
    tensor([0, 1, 2])
    """
    channels, stride = integer("channels", channels), integer("stride", stride)
    inputs, generator = channels if inputs is None else integer("inputs", inputs), generator_of(seed)
    if min(channels, inputs, stride) < 1:
        raise WiringError(f"channels, inputs and stride must be at least 1, got {channels}, {inputs} and {stride}.")
    if not isinstance(graph, Wiring) or len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise WiringError(f"expected a Wiring with one input and one output, got {graph!r}: every node becomes "
                          f"{channels} channels.")
    topological_stages(graph)  # refuses cycles
    entry = int(graph.inputs[0])
    reads = torch.zeros(graph.num_nodes, dtype=torch.bool)
    reads[graph.dst[graph.src == entry]] = True
    mixed = [graph.label(int(v)) for v in graph.dst[reads[graph.dst] & (graph.src != entry)].unique()]
    if mixed and (stride != 1 or inputs != channels):
        raise WiringError(f"node {listed(map(repr, mixed))} reads the input and other nodes, whose maps differ: give "
                          "it an edge from one of the two only, or inputs=channels and stride=1.")
    return _Expansion(graph, channels, inputs, stride, generator).result()


class _Expansion:
    """The channels of each node, and the edges between them."""

    def __init__(self, graph: Wiring, channels: int, inputs: int, stride: int, generator: torch.Generator):
        self.graph, self.generator = graph, generator
        self.functions: list[NodeFunction] = []
        self.role: list[int] = []
        self.edges: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, int, bool]] = []
        reads = set(graph.dst[graph.src == graph.inputs[0]].tolist())
        sums: dict[int, torch.Tensor] = {}    # node -> the channels that add what arrives
        states: dict[int, torch.Tensor] = {}  # node -> the channels that others read
        levels = longest_path_levels(Entries(graph.src, graph.dst, (graph.num_nodes,) * 2))
        assert levels is not None  # macro() has refused cycles
        for node in levels.argsort(stable=True).tolist():
            if graph.role[node] == INPUT:
                states[node] = self._add(inputs, INPUT, NodeFunction())
            elif graph.role[node] == OUTPUT:
                sums[node] = self._add(inputs if node in reads and inputs != channels else channels, OUTPUT,
                                       NodeFunction())
            else:
                send = NodeFunction("activation conv", stride=stride if node in reads else 1)
                sums[node] = self._add(inputs if node in reads else channels, HIDDEN, send)
                states[node] = self._add(channels, HIDDEN, NodeFunction(receive="norm"))
                self._pointwise(sums[node], states[node])
        parents = torch.bincount(graph.dst, minlength=graph.num_nodes).tolist()
        for number, (a, b) in enumerate(zip(graph.src.tolist(), graph.dst.tolist())):
            is_mean = bool(graph.role[b] == OUTPUT)
            fixed = is_mean or parents[b] == 1
            weight = 1 / parents[b] if fixed else 0.5
            u, v = states[a], sums[b]
            self.edges.append((u, v, torch.full((len(u),), weight), -1 if fixed else number, fixed))

    def _add(self, number: int, role: int, function: NodeFunction) -> torch.Tensor:
        first = len(self.role)
        self.role += [role] * number
        self.functions += [function] * number
        return torch.arange(first, first + number)

    def _pointwise(self, sources: torch.Tensor, targets: torch.Tensor) -> None:
        u, v = sources.repeat(len(targets)), targets.repeat_interleave(len(sources))
        bound = len(sources) ** -0.5
        weight = torch.empty(len(u)).uniform_(-bound, bound, generator=self.generator)
        self.edges.append((u, v, weight, -1, False))

    def result(self) -> Macro:
        src, dst, weight = (torch.cat(column) for column in list(zip(*self.edges))[:3])
        tie = torch.cat([torch.full((len(u),), group) for u, _, _, group, _ in self.edges])
        fixed = torch.cat([torch.full((len(u),), is_fixed) for u, *_, is_fixed in self.edges])
        order = (dst * len(self.role) + src).argsort()
        ends, tie = Entries(src[order], dst[order], (len(self.role),) * 2), tie[order]
        groups = tie[tie >= 0].unique()
        tie = torch.where(tie >= 0, torch.searchsorted(groups, tie), tie)
        levels = longest_path_levels(ends)
        assert levels is not None
        wiring = assemble(ends, torch.tensor(self.role), levels, self.functions, weight=weight[order])
        return Macro(wiring, tie, fixed[order])
