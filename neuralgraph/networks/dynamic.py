"""What discrete-time and continuous-time networks share: one update of all nodes at once."""

from __future__ import annotations

import torch

from ..backends import Backend
from ..errors import InputError
from .functions import NodeFunctions
from ..selectors import Selection, Selector
from ..wiring import Wiring, synchronous_stages
from .network import NeuralGraph


class DynamicNeuralGraph(NeuralGraph):
    """A graph whose nodes all have a state at any time; it may have cycles.

    Input nodes without candidate in-edges (``wiring.holds``) are not updated: they hold the data, as in
    a static graph.
    """

    def __init__(self, wiring: Wiring, selector: Selector, backend: str | Backend,
                 seed: int | torch.Generator, dtype: torch.dtype | None):
        super().__init__(wiring, selector, backend, seed, dtype)
        self._chunks = [chunk for stage in self.stages for chunk in stage.chunks]
        self._rows = [self.functions.rows(chunk.nodes) for chunk in self._chunks]
        order = torch.cat([stage.nodes for stage in self.stages])
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        inputs = wiring.inputs
        self.register_buffer("_input_place", place[inputs], persistent=False)
        self.register_buffer("_output_place", place[wiring.outputs], persistent=False)
        self.register_buffer("_holding", wiring.holds[inputs], persistent=False)

    _schedule = staticmethod(synchronous_stages)

    def _num_sources(self):
        return self.wiring.num_nodes

    def _at_inputs(self, x: torch.Tensor) -> torch.Tensor:
        """(B, V, H, W) that is x at the input nodes and 0 elsewhere."""
        states = x.new_zeros(len(x), self.wiring.num_nodes, *x.shape[2:])
        return states.index_copy(1, self._input_place, x)

    def _outputs_of(self, states: torch.Tensor) -> torch.Tensor:
        return states[:, self._output_place]

    def _updated(self, states: torch.Tensor, selection: Selection,
                 functions: NodeFunctions) -> torch.Tensor:
        """receive_v( sum over real edges (u,v) of w_uv send_u(s_u) ) of all nodes, (B, V, H, W)."""
        sizes = [len(chunk.nodes) for chunk in self._chunks]
        fused = self.backend.fuses_nodes
        messages = _cat([functions.send(chunk.function, rows, part, fused) for chunk, rows, part
                         in zip(self._chunks, self._rows, states.split(sizes, dim=1))])
        totals = _cat([self._aggregate(stage, messages, selection) for stage in self.stages])
        return _cat([functions.receive(chunk.function, rows, part, fused) for chunk, rows, part
                     in zip(self._chunks, self._rows, totals.split(sizes, dim=1))])

    def _without_holding(self, states):
        """The states with 0 at input nodes that nothing updates."""
        if not self._holding.any():
            return states
        return states.index_fill(1, self._input_place[self._holding], 0)

    def _check_sequence(self, x: torch.Tensor) -> None:
        """Refuses what is neither (B, inputs, H, W) nor (B, T, inputs, H, W)."""
        if isinstance(x, torch.Tensor) and x.dim() == 5:
            if x.shape[1] == 0:
                raise InputError(f"expected a sequence of at least one step, got {tuple(x.shape)}.")
            x = x[:, 0]
        self._check_input(x)


def _cat(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
