"""What a dynamic network carries from one call to the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..wiring import Wiring


@dataclass(frozen=True, eq=False, repr=False)
class State:
    """The states of all nodes at one time, from which a network goes on: ``net(x, state=state)``.

    Args:
        values: of the nodes in their order, (B, V, *space); they belong to the autograd graph of the call
            that made them.
        wiring: of the network.
        kind: the network's class.
        steps: how many updates were made to get there; 0 in continuous time.

    >>> import neuralgraph as ng
    >>> net = ng.DiscreteTimeNeuralGraph(ng.wirings.complete(9, inputs=2, outputs=1), ng.TopK(20), steps=None)
    >>> y, state = net(torch.zeros(3, 10, 2, 5, 5), return_state=True)
    >>> y, state = net(torch.zeros(3, 10, 2, 5, 5), state=state.detach(), return_state=True)
    >>> state
    State(after 20 steps of a DiscreteTimeNeuralGraph, 3 samples of 9 nodes)
    """

    values: torch.Tensor
    wiring: Wiring
    kind: str
    steps: int = 0

    def detach(self) -> State:
        """The same numbers without their history: what was before gets no gradient from what follows."""
        return replace(self, values=self.values.detach())

    def to(self, *arguments: Any, **options: Any) -> State:
        """As :meth:`torch.Tensor.to`, of the values."""
        return replace(self, values=self.values.to(*arguments, **options))

    def __repr__(self) -> str:
        after = f"after {self.steps} steps of" if self.steps else "of"
        return f"State({after} a {self.kind}, {len(self.values)} samples of {self.wiring.num_nodes} nodes)"
