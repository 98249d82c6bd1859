"""Growing by the gradient, with a constant fan-in."""

from __future__ import annotations

import torch

from .candidates import Candidates
from .groups import Groups
from .registry import register
from .regrowth import DropAndGrow, apportion, filled, largest
from .selector import check_number


@register("srigl")
class SRigL(DropAndGrow):
    """RigL whose nodes all have as many in-edges, and which leaves out nodes that have no use for them.

    Structured RigL ("Dynamic Sparse Training with Structured Sparsity", Lasby et al., 2024). Every ``every``
    steps, at step t of T, for t < end T, in a layer of k real candidates

        n = floor(f_t k),    f_t = drop / 2 (1 + cos(pi t / (end T))).

    Its k - n largest real |w| and, of all others, the n of largest |dL/dw| are salient. Nodes with fewer than
    max(1, gamma c) salient in-edges, of the c that those with any now have, are ablated: they get none. Each of
    the other a nodes keeps its part of the k - n largest |w|, at most its k / a largest, and is filled up to
    k / a by |dL/dw|. Outputs, those of a graph and those of the last layer of a model, are not ablated. New
    weights are 0, as is their momentum.

    Where k / a is no whole number, or more than a node has candidates, fan-ins differ by one or as they must, so
    that exactly k are real, and nodes are ablated only as long as the others can have k in-edges, those with
    the fewest salient ones first. Layers are the destination blocks of a graph, or the layers of a model;
    k is divided among them in proportion to their candidates. Differs from the authors' code: of too many large
    weights into a node the largest are kept, not the first.

    Args:
        k: number of real edges, 0 to the number of candidates.
        gamma: see above; 0 to ablate only nodes without any salient in-edge.
        drop: alpha, the share that is dropped at first.
        every: steps between changes.
        end: the share of all steps after which nothing changes.
    """

    spares_outputs = True

    def __init__(self, k: int, gamma: float = 0.3, drop: float = 0.3, every: int = 100, end: float = 0.75):
        super().__init__(k, drop, 0.0, every, end, "block")
        self.gamma = check_number("gamma", gamma, 0, 1)

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        layers = self.groups()
        nodes, node = candidates.target().unique(return_inverse=True)
        self._nodes = Groups(node, torch.zeros(len(nodes), dtype=torch.long))
        self._layer = torch.zeros(len(nodes), dtype=torch.long).scatter_(0, node, layers.group)  # of each node
        self._is_output = candidates.is_output()[nodes]
        super().prepare(candidates, weight, generator)

    def first(self, draw: torch.Tensor) -> torch.Tensor:
        return self._nodes.top(draw, self._fan_in(torch.ones(len(self._layer), dtype=torch.bool)))

    def _fan_in(self, is_active: torch.Tensor) -> torch.Tensor:
        """The number of in-edges of each node, (V,), if these have any."""
        fan_in = torch.zeros_like(self._layer)
        for layer, k in enumerate(self._groups.keep.tolist()):
            own = self._layer == layer
            fan_in[own] = apportion(k, is_active[own], self._nodes.size[own])
        return fan_in

    def _active(self, salient: torch.Tensor, fan_in: torch.Tensor) -> torch.Tensor:
        """The nodes that are not ablated, from the numbers of salient and of present in-edges; all (V,)."""
        is_active = self._is_output.clone()
        for layer, k in enumerate(self._groups.keep.tolist()):
            own = (self._layer == layer).nonzero().flatten()
            least = max(1.0, self.gamma * k / max(1, int((fan_in[own] > 0).sum())))
            is_active[own] |= salient[own] >= least
            # in this order, until there is room for k
            own = own[(salient[own] + self.k * is_active[own]).argsort(descending=True, stable=True)]
            size = self._nodes.size[own]
            is_active[own[size.cumsum(0) - size < k]] = True
        return is_active

    def changed(self, real: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
        layers, nodes, worth, growth = self._groups, self._nodes, self.worth(weight), self.growth(real, gradient)
        number = self.dropped(layers.keep)
        kept = largest(layers, worth, real, layers.keep - number)
        salient = filled(layers, growth, kept, layers.keep)
        fan_in = self._fan_in(self._active(nodes.counts(salient), nodes.counts(real)))
        kept = largest(nodes, worth, kept, torch.minimum(fan_in, nodes.counts(kept)))
        return filled(nodes, growth, kept, fan_in)

    def extra_repr(self) -> str:
        return f"k={self.k}, gamma={self.gamma}, drop={self.drop}, every={self.every}, end={self.end}"
