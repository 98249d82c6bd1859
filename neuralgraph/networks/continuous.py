"""Continuous-time neural graphs: the derivative of every node's state, integrated."""

from __future__ import annotations

import torch
import torchdiffeq
from torch import nn
from torchdiffeq._impl.odeint import SOLVERS as _SOLVERS
from torchdiffeq._impl.solvers import FixedGridODESolver

from ..backends import Backend
from ..errors import InputError, SolverError, lookup
from ..selectors import Selection, Selector
from ..wiring import Wiring
from .dynamic import DynamicNeuralGraph

FIXED_STEPS = 8  # of a solver with a fixed grid, unless options say otherwise


class ContinuousTimeNeuralGraph(DynamicNeuralGraph):
    """A graph that may have cycles, as an ordinary differential equation.

        s_v(0)  = x_v for input nodes, 0 for others
        ds_v/dt = receive_v( sum over real edges (u,v) of w_uv send_u(s_u(t)) )
        y       = (s_v(time)) over the output nodes

    Equation 13 of "Discovering Neural Wirings" (section 2.3); nodes that are no inputs make it an
    augmented neural ODE (Dupont, Doucet, Teh, 2019). Edges are selected once per solve. Input nodes
    without candidate in-edges have the derivative 0. An adaptive solver controls the error over the
    whole batch, so results depend on the batch within the tolerances.

    Args:
        wiring: any; all maps have one size.
        selector: which edges are real.
        backend: "dense", "dgl" or "auto".
        seed: of the initial weights and the selector's draws; an integer or a generator.
        solver: a method of torchdiffeq; the paper's is "dopri5". One with a fixed grid ("rk4", "euler",
            ...) takes 8 steps unless ``options`` has a ``step_size``.
        rtol: relative tolerance of an adaptive solver.
        atol: absolute tolerance.
        time: the end, in the unit of the integration variable.
        adjoint: gradients from the adjoint equation (Chen et al., 2018), in memory independent of the
            number of evaluations, instead of through the solver's operations.
        max_evaluations: of the derivative per solve, with its adjoint; beyond it is an error.
        options: of the solver, as torchdiffeq takes them.
        rectify_state: apply ReLU in place to whatever state the solver hands over, which changes the
            solver's own state too, at the start and after every step of "dopri5". Not an ODE any more:
            what the authors' code does through its in-place ReLU, for their checkpoints only. Not with
            ``adjoint``.

    ``evaluations`` tells how often the derivative of the last solve was computed so far.

    Raises:
        SolverError: if the cap is reached, the step size underflows or the state is not finite.

    Shape:
        x: (B, inputs, H, W); y: (B, outputs, H, W).

    >>> import neuralgraph as ng
    >>> net = ng.ContinuousTimeNeuralGraph(ng.wirings.complete(20, inputs=3, outputs=4), ng.TopK(60))
    >>> net(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """

    def __init__(self, wiring: Wiring, selector: Selector, backend: str | Backend = "auto",
                 seed: int | torch.Generator = 0, *, solver: str = "dopri5", rtol: float = 1e-3,
                 atol: float = 1e-3, time: float = 1.0, adjoint: bool = False,
                 max_evaluations: int = 1000, options: dict | None = None,
                 rectify_state: bool = False):
        lookup("solver", solver, _SOLVERS)
        for name, value in {"rtol": rtol, "atol": atol, "time": time,
                            "max_evaluations": max_evaluations}.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise InputError(f"{name} must be a number above 0, got {value!r}.")
        if rectify_state and adjoint:
            raise InputError("rectify_state=True has no adjoint equation; use adjoint=False.")
        super().__init__(wiring, selector, backend, seed)
        self.solver, self.rtol, self.atol, self.time = solver, rtol, atol, time
        self.adjoint, self.max_evaluations, self.options = adjoint, max_evaluations, options
        self.rectify_state = rectify_state
        self.evaluations = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._check_input(x)
        if self.solver == "scipy_solver" and not self.adjoint and torch.is_grad_enabled():
            raise InputError("solver='scipy_solver' cannot be differentiated through: use adjoint=True, "
                             "or torch.no_grad() where no gradient is needed.")
        derivative = _Derivative(self, self._forward_selection())
        settings = dict(rtol=self.rtol, atol=self.atol, method=self.solver,
                        options=self._solver_options())
        interval = torch.tensor([0.0, self.time], dtype=x.dtype, device=x.device)
        try:
            if self.adjoint and torch.is_grad_enabled():
                trainable = [derivative.selection.weight, *self.functions.parameters()]
                states = torchdiffeq.odeint_adjoint(
                    derivative, self._at_inputs(x), interval, **settings,
                    adjoint_params=tuple(p for p in trainable if p.requires_grad))
            else:
                states = torchdiffeq.odeint(derivative, self._at_inputs(x), interval, **settings)
        except AssertionError as error:  # torchdiffeq asserts what depends on the data
            raise SolverError(
                f"the solver {self.solver!r} failed after {self.evaluations} evaluations "
                f"({str(error) or 'an internal check'}): the derivative grows without bound or is not "
                "finite; use a norm in the node function, a smaller time or smaller weights."
            ) from error
        if len(states) != 2 or not states[-1].isfinite().all():
            raise SolverError(f"the solver {self.solver!r} did not reach time {self.time} with a finite "
                              "state: the derivative grows without bound; use a norm in the node "
                              "function, a smaller time or smaller weights.")
        return self._outputs_of(states[-1])

    def _solver_options(self) -> dict | None:
        options = dict(self.options or {})
        if issubclass(_SOLVERS[self.solver], FixedGridODESolver) and \
                not {"step_size", "grid_constructor"} & set(options):
            options["step_size"] = self.time / FIXED_STEPS
        return options or None

    def extra_repr(self):
        return f"{super().extra_repr()}, solver={self.solver!r}, rtol={self.rtol}, atol={self.atol}"


class _Derivative(nn.Module):
    """The right-hand side of one solve, with its one selection; the network counts its evaluations."""

    def __init__(self, network: ContinuousTimeNeuralGraph, selection: Selection):
        super().__init__()
        object.__setattr__(self, "network", network)  # not a part: its parameters are not ours
        self.selection = selection
        network.evaluations = 0

    def forward(self, t, states):
        network = self.network
        network.evaluations += 1
        if network.evaluations > network.max_evaluations:
            raise SolverError(
                f"the solver {network.solver!r} reached the cap of {network.max_evaluations} "
                f"evaluations at time {t.item():.3g} of {network.time}: the equation is stiff at "
                f"rtol={network.rtol}, atol={network.atol}; loosen them, raise max_evaluations, or "
                "use a fixed grid such as solver='rk4'."
            )
        if network.rectify_state:
            states = states.relu_()
        rate = network._updated(states, self.selection, network.functions)
        return network._without_holding(rate)
