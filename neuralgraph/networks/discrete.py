"""Discrete-time neural graphs: all nodes updated together, L times."""

from __future__ import annotations

import torch
from torch import nn

from ..backends import Backend
from ..errors import InputError
from .functions import NodeFunctions
from ..selectors import Selector
from ..wiring import Wiring
from .dynamic import DynamicNeuralGraph
from .network import as_generator, check_bool


class DiscreteTimeNeuralGraph(DynamicNeuralGraph):
    """A graph that may have cycles, updated L times; gradients by backpropagation through time.

        s_v(0)   = x_v for input nodes, 0 for others
        s_v(l+1) = receive_v( sum over real edges (u,v) of w_uv send_u(s_u(l)) )
        y        = (s_v(L)) over the output nodes

    Equation 11 of "Discovering Neural Wirings" (section 2.3). With a sequence, x_v(l) is added to the
    state of the input nodes before update l. Input nodes without candidate in-edges hold what they
    were given: a static graph run for at least as many steps as its longest path gives its own output.

    Args:
        wiring: any; all maps have one size.
        selector: which edges are real; chosen once per forward.
        backend: "dense", "dgl" or "auto".
        seed: of the initial weights and the selector's draws; an integer or a generator.
        steps: L, at least 1; None to take as many as the sequence is long.
        tied: whether all steps share kernels and norms (edge weights are shared always). Untied, step
            l has its own, and wirings taken from the network carry edge weights only.
        dtype: of weights and node values; by default torch's default.

    Shape:
        x: (B, inputs, H, W), or a sequence (B, L, inputs, H, W); y: (B, outputs, H, W).

    >>> import neuralgraph as ng
    >>> net = ng.DiscreteTimeNeuralGraph(ng.wirings.complete(20, inputs=3, outputs=4), ng.TopK(60))
    >>> net(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    >>> net.trajectory(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 5, 4, 8, 8])
    """

    def __init__(self, wiring: Wiring, selector: Selector, backend: str | Backend = "auto",
                 seed: int | torch.Generator = 0, *, steps: int | None = 5, tied: bool = True,
                 dtype: torch.dtype | None = None):
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
            raise InputError(f"steps must be an integer of at least 1, got {steps!r}.")
        check_bool(tied=tied)
        if steps is None and not tied:
            raise InputError("untied steps need a number: tied=False with steps=None makes no sense.")
        generator = as_generator(seed)
        super().__init__(wiring, selector, backend, generator, dtype)
        self.steps, self.tied = steps, tied
        later = 0 if tied else steps - 1
        self.later_functions = nn.ModuleList(
            NodeFunctions(wiring, generator, self.weight.dtype) for _ in range(later))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for states in self._run(x):
            pass
        return self._outputs_of(states)

    def trajectory(self, x: torch.Tensor) -> torch.Tensor:
        """The outputs after every step, (B, L, outputs, H, W)."""
        return torch.stack([self._outputs_of(states) for states in self._run(x)], dim=1)

    def _run(self, x):
        """The states after each of the steps."""
        self._check_sequence(x)
        is_sequence = x.dim() == 5
        steps = self.steps
        if is_sequence:
            if steps is not None and x.shape[1] != steps:
                raise InputError(f"the sequence has {x.shape[1]} steps but the network {steps}: make "
                                 "them equal, or build the network with steps=None.")
            steps = x.shape[1]
        elif steps is None:
            raise InputError("steps=None takes the number of steps from a sequence (batch, steps, "
                             f"{self._inputs}, height, width), got {tuple(x.shape)}.")
        selection = self._forward_selection()
        arriving = self._at_inputs(x[:, 0] if is_sequence else x)
        held = None if is_sequence or not self._holding.any() else \
            self._at_inputs(x * self._holding.view(-1, 1, 1))
        states = arriving
        for step in range(steps):
            if step and is_sequence:
                states = self._without_holding(states) + self._at_inputs(x[:, step])
            functions = self.later_functions[step - 1] if step and not self.tied else self.functions
            states = self._updated(states, selection, functions)
            if held is not None:
                states = self._without_holding(states) + held
            yield states

    def _node_values(self):
        return super()._node_values() if self.tied else {}

    def extra_repr(self):
        return f"{super().extra_repr()}, steps={self.steps}" + ("" if self.tied else ", untied")
