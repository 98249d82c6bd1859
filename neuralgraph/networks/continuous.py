"""Continuous-time neural graphs: the derivative of every node's state, integrated."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from .._modules import Lazy
from ..backends import Backend
from ..backends.transforms import has_numbers
from ..errors import InputError, NeuralGraphError, SolverError, UnknownNameError, lookup
from ..selectors import Selection, Selector
from ..wiring import Wiring
from ..wiring.devices import on_cpu
from .dynamic import DynamicNeuralGraph
from .network import check_bool
from .state import State

if TYPE_CHECKING:
    import torchdiffeq
else:
    torchdiffeq = Lazy("torchdiffeq")

FIXED_STEPS = 8  # of a solver with a fixed grid, unless options say otherwise
LEAST_STEPS = 2  # of an adaptive Runge-Kutta solver, likewise
# options of solvers
POSITIVE = {"step_size", "first_step", "max_step", "safety", "ifactor", "dfactor", "max_num_steps",
            "max_iters", "max_order"}
SCIPY_METHODS = ("LSODA", "RK45", "RK23", "DOP853", "Radau", "BDF")


class ContinuousTimeNeuralGraph(DynamicNeuralGraph):
    """A graph that may have cycles, as an ordinary differential equation.

        s_v(0)  = x_v for input nodes, 0 for others
        ds_v/dt = receive_v( sum over real edges (u,v) of w_uv send_u(s_u(t)) )
        y       = (s_v(time)) over the output nodes

    Equation 13 of "Discovering Neural Wirings" (section 2.3); nodes that are no inputs make it an
    augmented neural ODE (Dupont, Doucet, Teh, 2019). Edges are selected once per solve. Input nodes
    without candidate in-edges have the derivative 0. An adaptive solver controls the error over the
    whole batch, so results depend on the batch within the tolerances; a Runge-Kutta solver takes at least
    two steps, of which the last ends at ``time``. Gradients through its operations are those of its steps,
    whose error only ``adjoint`` controls.

    Args:
        wiring: any; all maps have one size.
        selector: which edges are real.
        backend: "dense", "sparse", "dgl" or "auto".
        seed: of the initial weights and the selector's draws; an integer or a generator.
        solver: a method of torchdiffeq; the paper's is "dopri5". One with a fixed grid ("rk4", "euler",
            ...) takes 8 steps unless ``options`` has a ``step_size``.
        rtol: relative tolerance of an adaptive solver.
        atol: absolute tolerance.
        time: the end, in the unit of the integration variable.
        adjoint: gradients from the adjoint equation (Chen et al., 2018), in memory independent of the
            number of evaluations, instead of through the solver's operations.
        max_evaluations: of the derivative per solve, with its adjoint; beyond it is an error.
        options: of the solver, as torchdiffeq takes them; those of its own that the solver has.
        rectify_state: apply ReLU in place to whatever state the solver hands over, which changes the
            solver's own state too, at the start and after every step of "dopri5", and let the last step go
            beyond ``time``. Not an ODE any more: what the authors' code does through its in-place ReLU, for
            their checkpoints only. Not with ``adjoint``.
        dtype: of weights and node values; by default torch's default.
        dims: dimensions of a map: 0 for numbers, 1 for signals, 2 for images, 3 for volumes.

    ``evaluations`` tells how often the derivative was computed so far in the solve that last computed it,
    its adjoint included.

    Raises:
        SolverError: if the cap is reached, the step size underflows or the state is not finite, from
            ``forward`` and with ``adjoint`` also from ``backward``.
        UnknownNameError: for a solver or an option of it that torchdiffeq does not have.

    Shape:
        x: (B, inputs, *space); y: (B, outputs, *space).

    >>> import neuralgraph as ng
    >>> net = ng.ContinuousTimeNeuralGraph(ng.wirings.complete(20, inputs=3, outputs=4), ng.TopK(60))
    >>> net(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    >>> net.trajectory(torch.zeros(2, 3, 8, 8), [0.25, 0.5, 1.0]).shape
    torch.Size([2, 3, 4, 8, 8])
    """

    @on_cpu
    def __init__(self, wiring: Wiring, selector: Selector, backend: str | Backend = "auto",
                 seed: int | torch.Generator = 0, *, solver: str = "dopri5", rtol: float = 1e-3,
                 atol: float = 1e-3, time: float = 1.0, adjoint: bool = False,
                 max_evaluations: int = 1000, options: dict[str, Any] | None = None,
                 rectify_state: bool = False, dtype: torch.dtype | None = None, dims: int = 2):
        lookup("solver", solver, _solvers())
        for name, value in {"rtol": rtol, "atol": atol, "time": time,
                            "max_evaluations": max_evaluations}.items():
            if not _is_positive(value) or (value == math.inf and name != "max_evaluations"):
                raise InputError(f"{name} must be a number above 0, got {value!r}.")
        check_bool(adjoint=adjoint, rectify_state=rectify_state)
        if rectify_state and adjoint:
            raise InputError("rectify_state=True has no adjoint equation; use adjoint=False.")
        options = _checked_options(solver, options)
        super().__init__(wiring, selector, backend, seed, dtype, dims)
        self.solver, self.rtol, self.atol, self.time = solver, rtol, atol, time
        self.adjoint, self.max_evaluations, self.options = adjoint, max_evaluations, options
        self.rectify_state = rectify_state
        self.evaluations = 0
        self._check_type(time)

    @overload
    def forward(self, x: torch.Tensor | None = None, *, state: State | None = None,
                return_state: Literal[False] = False) -> torch.Tensor: ...

    @overload
    def forward(self, x: torch.Tensor | None = None, *, state: State | None = None,
                return_state: Literal[True]) -> tuple[torch.Tensor, State]: ...

    @overload
    def forward(self, x: torch.Tensor | None = None, *, state: State | None = None,
                return_state: bool) -> torch.Tensor | tuple[torch.Tensor, State]: ...

    def forward(self, x: torch.Tensor | None = None, *, state: State | None = None,
                return_state: bool = False) -> torch.Tensor | tuple[torch.Tensor, State]:
        """The outputs at ``time``.

        Args:
            x: (B, inputs, *space). Where there is a ``state``, x is added to it (in place of what input nodes
                hold that hold their data); None if nothing arrives.
            state: to go on from for another ``time``, of an earlier call with ``return_state=True``; by
                default 0 everywhere.
            return_state: return y and the :class:`~neuralgraph.networks.state.State` at the end.
        """
        check_bool(return_state=return_state)
        states = self._solved(x, state, [self.time])[-1]
        y = self._outputs_of(states)
        return (y, self._state(states)) if return_state else y

    if TYPE_CHECKING:
        @overload
        def __call__(self, x: torch.Tensor | None = None, *, state: State | None = None,
                     return_state: Literal[False] = False) -> torch.Tensor: ...

        @overload
        def __call__(self, x: torch.Tensor | None = None, *, state: State | None = None,
                     return_state: Literal[True]) -> tuple[torch.Tensor, State]: ...

        @overload
        def __call__(self, x: torch.Tensor | None = None, *, state: State | None = None,
                     return_state: bool) -> torch.Tensor | tuple[torch.Tensor, State]: ...

        def __call__(self, *args: Any, **options: Any) -> Any: ...

    @overload
    def trajectory(self, x: torch.Tensor | None = None, times: Sequence[float] = (), *, state: State | None = None,
                   return_state: Literal[False] = False) -> torch.Tensor: ...

    @overload
    def trajectory(self, x: torch.Tensor | None = None, times: Sequence[float] = (), *, state: State | None = None,
                   return_state: Literal[True]) -> tuple[torch.Tensor, State]: ...

    @overload
    def trajectory(self, x: torch.Tensor | None = None, times: Sequence[float] = (), *, state: State | None = None,
                   return_state: bool) -> torch.Tensor | tuple[torch.Tensor, State]: ...

    def trajectory(self, x: torch.Tensor | None = None, times: Sequence[float] = (), *,
                   state: State | None = None,
                   return_state: bool = False) -> torch.Tensor | tuple[torch.Tensor, State]:
        """The outputs at some times, of one solve with one selection, (B, times, outputs, *space).

        Args:
            x: as in :meth:`forward`.
            times: increasing, from 0 on, the same for all samples; a list or a one-dimensional tensor. A step
                of a fixed grid ends at each of them.
            state: as in :meth:`forward`; the times count from it.
            return_state: as in :meth:`forward`, at the last of the times.
        """
        check_bool(return_state=return_state)
        times = _checked_times(times)
        states = self._solved(x, state, times[times[0] == 0:])
        if times[0] != 0:
            states = states[1:]
        y = torch.stack([self._outputs_of(some) for some in states], dim=1)
        return (y, self._state(states[-1])) if return_state else y

    def _solved(self, x: torch.Tensor | None, state: State | None, times: list[float]) -> torch.Tensor:
        """The states at time 0 and at all ``times``, which are above 0, (1 + times, B, V, *space)."""
        x = None if x is None else self._checked(x)
        self._checked_state(state, x)
        states = self._begin(x, state)
        if self.rectify_state and state is not None:
            states = states.clone()  # the caller's stay as they are
        if not times:
            return states[None]
        if not has_numbers(states) or torch._C._are_functorch_transforms_active():
            raise InputError("torchdiffeq's solvers look at numbers to choose their steps, so they run neither inside "
                             "torch.func transforms nor on meta tensors.")
        self._check_type(times[-1])
        if self.solver == "scipy_solver" and not self.adjoint and torch.is_grad_enabled():
            raise InputError("solver='scipy_solver' cannot be differentiated through: use adjoint=True, "
                             "or torch.no_grad() where no gradient is needed.")
        derivative = _Derivative(self, self._forward_selection())
        settings = dict(rtol=self.rtol, atol=self.atol, method=self.solver)
        interval = torch.tensor([0.0, *times], dtype=states.dtype, device=states.device)
        options = self._solver_options(interval)
        if self.adjoint and torch.is_grad_enabled():
            trainable = [p for p in (derivative.selection.weight, *self.functions.parameters())
                         if p.requires_grad]
            states = _Adjoint.apply(
                derivative, lambda states: torchdiffeq.odeint_adjoint(
                    derivative, states, interval, **settings, options=options,
                    adjoint_options=self._solver_options(interval.flip(0), of_adjoint=True),
                    adjoint_params=tuple(trainable)),
                states, *trainable)
        else:
            with derivative.failures_reported():
                states = torchdiffeq.odeint(derivative, states, interval, **settings, options=options)
        if len(states) != len(interval) or not states[-1].isfinite().all():
            raise SolverError(f"the solver {self.solver!r} did not reach time {times[-1]} with a finite "
                              "state: the derivative grows without bound; use a norm in the node "
                              "function, a smaller time or smaller weights.")
        return states

    def _check_type(self, end: float) -> None:
        """Refuses what the type of the states cannot hold or solve."""
        dtype = self.weight.dtype
        if end > torch.finfo(dtype).max:
            raise InputError(f"time {end:g} is beyond the largest number of {dtype}: use a smaller one, or "
                             "network.double().")
        if dtype == torch.float16 and not _has_fixed_grid(self.solver):
            raise InputError(f"the solver {self.solver!r} adapts its steps to errors that float16 cannot tell from "
                             "rounding: use network.float(), or a fixed grid such as solver='rk4'.")

    def _solver_options(self, times: torch.Tensor, of_adjoint: bool = False) -> dict:
        """The options for a solve from the first to the last of the times."""
        options = dict(self.options)
        if of_adjoint:
            options.pop("norm", None)  # which is one of states
        if _has_fixed_grid(self.solver) and "grid_constructor" not in options:
            step = options.pop("step_size", self.time / FIXED_STEPS)
            options["grid_constructor"] = lambda function, states, times: _grid(times, step)
        elif _has_error_of_steps(self.solver) and not self.rectify_state:
            # a step beyond the end, or a very long one, may be right in states and wrong in their derivatives
            options.setdefault("step_t", times[1:])
            options.setdefault("max_step", self.time / LEAST_STEPS)
        return options

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, solver={self.solver!r}, rtol={self.rtol}, atol={self.atol}"


class _Derivative(nn.Module):
    """The right-hand side of one solve, with its one selection; counts its own evaluations."""

    network: ContinuousTimeNeuralGraph

    def __init__(self, network: ContinuousTimeNeuralGraph, selection: Selection):
        super().__init__()
        object.__setattr__(self, "network", network)  # not a part: its parameters are not ours
        self.selection = selection
        self.evaluations = network.evaluations = 0

    def forward(self, t, states):
        network = self.network
        self.evaluations += 1
        network.evaluations = self.evaluations
        if self.evaluations > network.max_evaluations:
            raise SolverError(
                f"the solver {network.solver!r} reached the cap of {network.max_evaluations} "
                f"evaluations at time {t.item():.3g}: the equation is stiff at "
                f"rtol={network.rtol}, atol={network.atol}; loosen them, raise max_evaluations, or "
                "use a fixed grid such as solver='rk4'."
            )
        if network.rectify_state:
            states = states.relu_()
        rate = network._updated(states, self.selection, network.functions)
        return rate.index_fill(1, network._held_place, 0) if len(network._held_place) else rate

    @contextlib.contextmanager
    def failures_reported(self, of: str = "") -> Iterator[None]:
        """Says what failed where torchdiffeq asserts, or scipy refuses, what depends on the data.

        Args:
            of: the part of the solve, for the message.
        """
        failures: tuple[type[Exception], ...] = (AssertionError,)
        if self.network.solver == "scipy_solver":
            failures = (ValueError, RuntimeError, IndexError)  # refused, or stopped early
        try:
            yield
        except NeuralGraphError:
            raise
        except failures as error:
            raise SolverError(
                f"the solver {self.network.solver!r} failed{of} after {self.evaluations} evaluations "
                f"({str(error) or 'an internal check'}): the derivative or a gradient grows without "
                "bound or is not finite; use a norm in the node function, a smaller time or smaller "
                "weights."
            ) from error


class _Adjoint(torch.autograd.Function):
    """A solve with torchdiffeq's adjoint, in whose backward failures are reported too."""

    @staticmethod
    def forward(ctx, derivative, solve, states, *trainable):
        ctx.derivative = derivative
        with torch.enable_grad(), derivative.failures_reported():
            ctx.inputs = (states.detach().requires_grad_(), *trainable)
            ctx.solution = solve(ctx.inputs[0])
        return ctx.solution.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        with ctx.derivative.failures_reported(of=" in the adjoint equation"):
            return None, None, *torch.autograd.grad(ctx.solution, ctx.inputs, gradient,
                                                    retain_graph=True)


def _grid(times: torch.Tensor, step: float) -> torch.Tensor:
    """From each time to the next, steps of one size and a rest."""
    parts = []
    for start, end in zip(times, times[1:]):
        count = math.ceil(abs(float(end - start)) / step * (1 - 1e-6))  # a rest of rounding is none
        steps = torch.arange(count, dtype=times.dtype, device=times.device) * step
        parts.append(start + steps.copysign(end - start))
    return torch.cat([*parts, times[-1:]])


def _checked_times(times) -> list[float]:
    """Increasing numbers of at least 0."""
    values = times.tolist() if isinstance(times, torch.Tensor) else list(times) if isinstance(
        times, Sequence) and not isinstance(times, str) else [times]
    if not values or not all(value == 0 or _is_positive(value) and value < math.inf for value in values) or \
            any(a >= b for a, b in zip(values, values[1:])):
        raise InputError("times must be increasing numbers of at least 0, the same for all samples, such as "
                         f"[0.5, 1.0], got {times!r}.")
    return [float(value) for value in values]


def _checked_options(solver: str, options: dict | None) -> dict:
    """A copy of the options of a solver, all of which it has."""
    if options is not None and not isinstance(options, dict):
        raise InputError(f"options must be a dict such as {{'step_size': 0.1}}, got {options!r}.")
    options = dict(options or {})
    for name in options:
        if name not in options_of(solver):
            raise UnknownNameError(f"option of the solver {solver!r}", name, options_of(solver))
    if {"step_size", "grid_constructor"} <= set(options):
        raise InputError("give step_size or grid_constructor, not both.")
    for name in POSITIVE & set(options):
        if not _is_positive(options[name]):
            raise InputError(f"{name} must be a number above 0, got {options[name]!r}.")
    lookup("method of scipy", options.get("solver", SCIPY_METHODS[0]), dict.fromkeys(SCIPY_METHODS))
    if options.get("interp", "linear") not in ("linear", "cubic"):
        raise InputError(f"interp must be 'linear' or 'cubic', got {options['interp']!r}.")
    return options


def options_of(solver: str) -> set[str]:
    """The options that a solver of torchdiffeq has, beside the tolerances.

    >>> "step_size" in options_of("rk4"), "step_size" in options_of("dopri5")
    (True, False)
    """
    names: set[str] = set()
    for ancestor in _solvers()[solver].__mro__:
        if "__init__" in vars(ancestor) and ancestor is not object:
            parameters = inspect.signature(ancestor.__init__).parameters.values()
            names |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    # "implicit" tells the two Adams solvers apart, which have names
    return names - {"self", "func", "y0", "rtol", "atol", "implicit"}


def _solvers() -> dict[str, Any]:
    from torchdiffeq._impl.odeint import SOLVERS
    return SOLVERS


def _has_fixed_grid(solver: str) -> bool:
    from torchdiffeq._impl.solvers import FixedGridODESolver
    return issubclass(_solvers()[solver], FixedGridODESolver)


def _has_error_of_steps(solver: str) -> bool:
    from torchdiffeq._impl.rk_common import RKAdaptiveStepsizeODESolver
    return issubclass(_solvers()[solver], RKAdaptiveStepsizeODESolver)


def _is_positive(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and value > 0
