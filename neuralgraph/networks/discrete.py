"""Discrete-time neural graphs: all nodes updated together, L times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from .._modules import module_list
from ..backends import Backend
from ..errors import InputError, whole
from ..selectors import Selector
from ..wiring import Wiring
from ..wiring.devices import on_cpu
from .dynamic import DynamicNeuralGraph
from .functions import NodeFunctions
from .network import as_generator, check_bool
from .state import State


class DiscreteTimeNeuralGraph(DynamicNeuralGraph):
    """A graph that may have cycles, updated L times; gradients by backpropagation through time.

        s_v(0)   = x_v for input nodes, 0 for others
        s_v(l+1) = receive_v( sum over real edges (u,v) of w_uv send_u(s_u(l)) )
        y        = (s_v(L)) over the output nodes

    Equation 11 of "Discovering Neural Wirings" (section 2.3). With a sequence, x_v(l) is added to the
    state of the input nodes before update l. Input nodes without candidate in-edges are not updated: they hold
    what they were given, in a sequence always the last, which takes the place of the one before.

    So a static graph run for at least as many steps as its longest path gives its own output, where a node
    without in-edges that is no input counts as one step more: here it starts at 0 and sends its constant
    receive_v(0) from the second step on, there at once.

    The state of all nodes can be carried from one call to the next: a sequence in pieces gives, bit for bit,
    what it gives as a whole. :meth:`State.detach` between pieces makes it truncated backpropagation.

    Args:
        wiring: any; all maps have one size.
        selector: which edges are real; chosen once per forward.
        backend: "dense", "sparse", "dgl" or "auto".
        seed: of the initial weights and the selector's draws; an integer or a generator.
        steps: L, at least 1; None to take as many as the sequence is long.
        tied: whether all steps share kernels and norms (edge weights are shared always). Untied, step
            l has its own, and wirings taken from the network carry edge weights only.
        dtype: of weights and node values; by default torch's default.
        dims: dimensions of a map: 0 for numbers, 1 for signals, 2 for images, 3 for volumes.

    Shape:
        x: (B, inputs, *space), or a sequence (B, L, inputs, *space); y: (B, outputs, *space).

    >>> import neuralgraph as ng
    >>> net = ng.DiscreteTimeNeuralGraph(ng.wirings.complete(20, inputs=3, outputs=4), ng.TopK(60))
    >>> net(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    >>> net.trajectory(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 5, 4, 8, 8])
    >>> y, state = net(torch.zeros(2, 3, 8, 8), steps=3, return_state=True)
    >>> y = net(state=state, steps=2)    # as after five steps
    """

    @on_cpu
    def __init__(self, wiring: Wiring, selector: Selector, backend: str | Backend = "auto",
                 seed: int | torch.Generator = 0, *, steps: int | None = 5, tied: bool = True,
                 dtype: torch.dtype | None = None, dims: int = 2):
        if steps is not None:
            steps = _checked_steps(steps)
        check_bool(tied=tied)
        if steps is None and not tied:
            raise InputError("untied steps need a number: tied=False with steps=None makes no sense.")
        generator = as_generator(seed)
        super().__init__(wiring, selector, backend, generator, dtype, dims)
        self.steps, self.tied = steps, tied
        later = 0 if tied or steps is None else steps - 1
        self.later_functions = module_list(
            NodeFunctions(wiring, generator, self.weight.dtype, dims) for _ in range(later))

    @overload
    def forward(self, x: torch.Tensor | None = None, *, state: State | None = None, steps: int | None = None,
                return_state: Literal[False] = False) -> torch.Tensor: ...

    @overload
    def forward(self, x: torch.Tensor | None = None, *, state: State | None = None, steps: int | None = None,
                return_state: Literal[True]) -> tuple[torch.Tensor, State]: ...

    @overload
    def forward(self, x: torch.Tensor | None = None, *, state: State | None = None, steps: int | None = None,
                return_state: bool) -> torch.Tensor | tuple[torch.Tensor, State]: ...

    def forward(self, x: torch.Tensor | None = None, *, state: State | None = None, steps: int | None = None,
                return_state: bool = False) -> torch.Tensor | tuple[torch.Tensor, State]:
        """The outputs after the last step.

        Args:
            x: (B, inputs, *space), or a sequence (B, L, inputs, *space). Where there is a ``state``, one x
                arrives before the next step, as the first of a sequence would; None if nothing does.
            state: to go on from, of an earlier call with ``return_state=True``; by default 0 everywhere.
            steps: how many to make now, instead of the network's; of a sequence as many as it is long. Untied,
                the calls together can make no more than the network has.
            return_state: return y and the :class:`~neuralgraph.networks.state.State` after the last step.
        """
        runs, before = self._run(x, state, steps, return_state)
        made = before
        for states in runs:
            made += 1
        y = self._outputs_of(states)
        return (y, self._state(states, made)) if return_state else y

    if TYPE_CHECKING:
        @overload
        def __call__(self, x: torch.Tensor | None = None, *, state: State | None = None, steps: int | None = None,
                     return_state: Literal[False] = False) -> torch.Tensor: ...

        @overload
        def __call__(self, x: torch.Tensor | None = None, *, state: State | None = None, steps: int | None = None,
                     return_state: Literal[True]) -> tuple[torch.Tensor, State]: ...

        @overload
        def __call__(self, x: torch.Tensor | None = None, *, state: State | None = None, steps: int | None = None,
                     return_state: bool) -> torch.Tensor | tuple[torch.Tensor, State]: ...

        def __call__(self, *args: Any, **options: Any) -> Any: ...

    @overload
    def trajectory(self, x: torch.Tensor | None = None, *, state: State | None = None, steps: int | None = None,
                   return_state: Literal[False] = False) -> torch.Tensor: ...

    @overload
    def trajectory(self, x: torch.Tensor | None = None, *, state: State | None = None, steps: int | None = None,
                   return_state: Literal[True]) -> tuple[torch.Tensor, State]: ...

    @overload
    def trajectory(self, x: torch.Tensor | None = None, *, state: State | None = None, steps: int | None = None,
                   return_state: bool) -> torch.Tensor | tuple[torch.Tensor, State]: ...

    def trajectory(self, x: torch.Tensor | None = None, *, state: State | None = None, steps: int | None = None,
                   return_state: bool = False) -> torch.Tensor | tuple[torch.Tensor, State]:
        """The outputs after every step, (B, L, outputs, *space); arguments as those of :meth:`forward`."""
        runs, before = self._run(x, state, steps, return_state)
        outputs = []
        for states in runs:
            outputs.append(self._outputs_of(states))
        y = torch.stack(outputs, dim=1)
        return (y, self._state(states, before + len(outputs))) if return_state else y

    def _run(self, x, state, steps, return_state) -> tuple[Iterator[torch.Tensor], int]:
        """The states after each of the steps, and how many steps were made before."""
        check_bool(return_state=return_state)
        is_sequence = isinstance(x, torch.Tensor) and x.dim() == 3 + self.dims
        if is_sequence:
            if x.shape[1] == 0:
                raise InputError(f"expected a sequence of at least one step, got {tuple(x.shape)}.")
            first = self._checked(x[:, 0])
            x, later = first, x[:, 1:].to(first.dtype).unbind(1)
        else:
            x, later = None if x is None else self._checked(x), ()
        self._checked_state(state, x)
        before = 0 if state is None else state.steps
        goes_on = state is not None or return_state
        steps = self._num_steps(steps, before, 1 + len(later) if is_sequence else None, goes_on)
        return self._updates(x, state, before, steps, later), before

    def _num_steps(self, steps, before, length, goes_on) -> int:
        """How many steps to make now, ``before`` of them being done; ``length``: of the sequence."""
        if steps is not None:
            steps = _checked_steps(steps)
            if length not in (None, steps):
                raise InputError(f"the sequence has {length} steps but steps={steps}: leave steps out.")
        elif length is not None:
            if self.steps not in (None, length) and not goes_on:
                raise InputError(f"the sequence has {length} steps but the network {self.steps}: make "
                                 "them equal, or build the network with steps=None.")
            steps = length
        elif self.steps is None:
            raise InputError("steps=None takes the number of steps from a sequence "
                             f"{self._expected('steps')}; for one x of shape {self._expected()} give it: "
                             "network(x, steps=5).")
        else:
            steps = self.steps if self.tied else self.steps - before
        if not self.tied and not 0 < steps <= self.steps - before:
            raise InputError(f"the network has {self.steps} untied steps, of which {before} are done: it cannot "
                             f"make {max(steps, 1)} more.")
        return steps

    def _updates(self, x, state, before, steps, later):
        selection = self._forward_selection()
        states = self._begin(x, state)
        for step in range(before, before + steps):
            if step > before and later:
                states = self._arrived(states, later[step - before - 1])
            functions = self.functions if self.tied or not step else self.later_functions[step - 1]
            updated = self._updated(states, selection, functions)
            if len(self._held_place):
                updated = updated.index_copy(1, self._held_place, states[:, self._held_place])
            states = updated
            yield states

    def _functions_of_steps(self) -> list[NodeFunctions]:
        return [self.functions, *getattr(self, "later_functions", ())]  # none as long as the network is made

    def _node_values(self) -> dict[str, torch.Tensor]:
        return super()._node_values() if self.tied else {}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, steps={self.steps}" + ("" if self.tied else ", untied")


def _checked_steps(steps: int) -> int:
    number = whole(steps)
    if number is None or number < 1:
        raise InputError(f"steps must be an integer of at least 1, got {steps!r}.")
    return number
