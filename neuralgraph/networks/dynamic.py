"""What discrete-time and continuous-time networks share: one update of all nodes at once."""

from __future__ import annotations

import torch

from ..backends import Backend
from ..errors import InputError
from ..selectors import Selection, Selector
from ..wiring import Wiring, synchronous_stages
from .functions import NodeFunctions
from .messages import split
from .network import NeuralGraph
from .state import State


class DynamicNeuralGraph(NeuralGraph):
    """A graph whose nodes all have a state at any time; it may have cycles.

    Input nodes without candidate in-edges (``wiring.holds``) are not updated: they hold what they were given
    last, as in a static graph.
    """

    _order: torch.Tensor | None  # None where states are kept in node order
    _place: torch.Tensor | None
    _input_place: torch.Tensor
    _output_place: torch.Tensor
    _held_place: torch.Tensor
    _held_input: torch.Tensor
    _moving_place: torch.Tensor
    _moving_input: torch.Tensor

    def __init__(self, wiring: Wiring, selector: Selector, backend: str | Backend,
                 seed: int | torch.Generator, dtype: torch.dtype | None, dims: int):
        super().__init__(wiring, selector, backend, seed, dtype, dims)
        self._chunks = [chunk for stage in self.stages for chunk in stage.chunks]
        self._rows = [self.functions.rows(chunk.nodes) for chunk in self._chunks]
        order = torch.cat([stage.nodes for stage in self.stages])  # states are kept in the order of sums
        place = order.argsort()
        in_order, inputs, holds = torch.equal(order, place), wiring.inputs, wiring.holds[wiring.inputs]
        for name, value in {
            "_order": None if in_order else order, "_place": None if in_order else place,
            "_input_place": place[inputs], "_output_place": place[wiring.outputs],
            "_held_place": place[inputs[holds]], "_held_input": holds.nonzero().flatten(),
            "_moving_place": place[inputs[~holds]], "_moving_input": (~holds).nonzero().flatten(),
        }.items():
            self.register_buffer(name, value, persistent=False)

    _schedule = staticmethod(synchronous_stages)

    def _num_sources(self) -> int:
        return self.wiring.num_nodes

    def _begin(self, x: torch.Tensor | None, state: State | None) -> torch.Tensor:
        """The states (B, V, *space) that the first update reads, from checked arguments."""
        if state is None:
            assert x is not None  # one of the two is there: see _checked_state
            return self._at_inputs(x)
        states = state.values if self._order is None else state.values[:, self._order]
        return states if x is None else self._arrived(states, x)

    def _at_inputs(self, x: torch.Tensor) -> torch.Tensor:
        """(B, V, *space) that is x at the input nodes and 0 elsewhere."""
        states = x.new_zeros(x.shape[0], self.wiring.num_nodes, *x.shape[2:])
        return states.index_copy(1, self._input_place, x)

    def _arrived(self, states: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """x added to the states of input nodes; those that hold take it instead of what they held."""
        if not len(self._held_place):
            return states.index_add(1, self._input_place, x)
        states = states.index_add(1, self._moving_place, x[:, self._moving_input])
        return states.index_copy(1, self._held_place, x[:, self._held_input])

    def _outputs_of(self, states: torch.Tensor) -> torch.Tensor:
        return states[:, self._output_place]

    def _state(self, states: torch.Tensor, steps: int = 0) -> State:
        values = states if self._place is None else states[:, self._place]
        return State(values, self.wiring, type(self).__name__, steps)

    def _updated(self, states: torch.Tensor, selection: Selection,
                 functions: NodeFunctions) -> torch.Tensor:
        """receive_v( sum over real edges (u,v) of w_uv send_u(s_u) ) of all nodes, (B, V, *space)."""
        sizes = [len(chunk.nodes) for chunk in self._chunks]
        fused = self._is_fused(states)
        messages = _cat([functions.send(chunk.function, rows, part, fused) for chunk, rows, part
                         in zip(self._chunks, self._rows, split(states, sizes))])
        totals = _cat([self._aggregate(stage, messages, selection) for stage in self.stages])
        return _cat([functions.receive(chunk.function, rows, part, fused) for chunk, rows, part
                     in zip(self._chunks, self._rows, split(totals, sizes))]).to(states.dtype)

    def _checked_state(self, state: State | None, x: torch.Tensor | None) -> None:
        """Refuses a state that is not of this network, or does not go with x (B, inputs, *space)."""
        if state is None:
            if x is None:
                raise InputError(f"expected x of shape {self._expected()}, or a state to go on from: "
                                 "network(state=state).")
            return
        if not isinstance(state, State):
            raise InputError("state must be what network(x, return_state=True) returned beside y, got "
                             f"{type(state).__name__}.")
        if state.kind != type(self).__name__:
            raise InputError(f"the state is of a {state.kind}, this network is a {type(self).__name__}.")
        if state.wiring is not self.wiring and state.wiring != self.wiring:
            raise InputError(f"the state is of another network, on {state.wiring!r}; this one is on "
                             f"{self.wiring!r}.")
        values, weight = state.values, self.weight
        if values.dim() != 2 + self.dims:
            raise InputError(f"the state is of a network with dims={values.dim() - 2}, this one has "
                             f"dims={self.dims}.")
        if values.dtype != weight.dtype or values.device != weight.device:
            raise InputError(f"the state is {values.dtype} on {values.device} but the network {weight.dtype} on "
                             f"{weight.device}: use state.to(...).")
        if x is not None and (len(x) != len(values) or x.shape[2:] != values.shape[2:]):
            raise InputError(f"the state is of {len(values)} samples{_of_maps(values)} but x of {len(x)}"
                             f"{_of_maps(x)}: a state goes on with the samples that it was made from.")


def _of_maps(x: torch.Tensor) -> str:
    return f" with maps of {'x'.join(map(str, x.shape[2:]))}" if x.dim() > 2 else ""


def _cat(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
