"""Continuous time: exact solutions, adjoints, what solvers are given."""

import math
import warnings

import pytest
import torch

import neuralgraph as ng
from neuralgraph import NodeFunction
from neuralgraph.backends import BACKENDS
from neuralgraph.errors import InputError, SolverError, UnknownNameError

LINEAR = NodeFunction()  # ds/dt = sum of w s


def linear_system(matrix, **settings):
    """ds/dt = M s on two nodes that are input; the outputs integrate copies."""
    n = len(matrix)
    edges = [(u, v) for v in range(n) for u in range(n)]
    wiring = ng.wirings.from_edges(edges + [(n - 1, n)], inputs=range(n), outputs=[n],
                                   functions=[LINEAR] * (n + 1),
                                   weight=torch.tensor([*sum(matrix, []), 1.0]))
    return ng.ContinuousTimeNeuralGraph(wiring, ng.Complete(), **{"max_evaluations": 5000, **settings})


@pytest.mark.parametrize("solver, tolerance", [("dopri5", 1e-6), ("dopri8", 1e-6), ("bosh3", 1e-5),
                                               ("rk4", 1e-3), ("midpoint", 3e-2)])
@pytest.mark.parametrize("adjoint", [False, True])
def test_exact_solutions(solver, tolerance, adjoint, float64):
    """Decay and rotation: s' = -s, and x' = -y, y' = x; the output is the integral of the last."""
    decay = linear_system([[-1.0]], solver=solver, rtol=1e-8, atol=1e-10, adjoint=adjoint)
    x = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(decay(x), x * (1 - math.exp(-1)), rtol=tolerance, atol=tolerance)
    rotation = linear_system([[0.0, -1.0], [1.0, 0.0]], solver=solver, rtol=1e-8, atol=1e-10,
                             time=2.0, adjoint=adjoint)
    x = torch.tensor([[1.0, 0.0]]).view(1, 2, 1, 1)  # y(t) = sin t, its integral 1 - cos t
    torch.testing.assert_close(rotation(x).flatten(), torch.tensor([1 - math.cos(2.0)]),
                               rtol=tolerance * 10, atol=tolerance * 10)
    assert rotation.evaluations > 0


def test_gradient_of_an_exact_solution(float64):
    """s(1) = x (1 - e^a)/(-a): the derivative in a, through the solver and by the adjoint."""
    for adjoint in (False, True):
        network = linear_system([[-1.0]], rtol=1e-9, atol=1e-11, adjoint=adjoint)
        network(torch.ones(1, 1, 1, 1)).sum().backward()
        a = torch.tensor(-1.0, requires_grad=True)
        ((a.exp() - 1) / a).backward()
        assert network.weight.grad[0].item() == pytest.approx(a.grad.item(), abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_adjoint_and_direct_gradients_agree(backend, float64):
    results = []
    for adjoint in (False, True):
        network = ng.ContinuousTimeNeuralGraph(
            ng.wirings.complete(8, inputs=2, outputs=2, function=NodeFunction(
                "activation conv", "norm", activation="tanh", norm="instance")),
            ng.TopK(25), backend=backend, rtol=1e-9, atol=1e-9, adjoint=adjoint)
        x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
        network(x).square().sum().backward()
        results.append([x.grad, *[p.grad for p in network.parameters()]])
        assert (network.weight.grad[~network.selection().real] != 0).any()
    for direct, adjoint in zip(*results):
        torch.testing.assert_close(adjoint, direct, rtol=1e-5, atol=1e-6)


def test_one_selection_per_solve(monkeypatch):
    network = ng.ContinuousTimeNeuralGraph(ng.wirings.complete(8, inputs=2, outputs=2), ng.TopK(25))
    calls = []
    original = ng.TopK.select
    monkeypatch.setattr(ng.TopK, "select", lambda self, w: calls.append(1) or original(self, w))
    network(torch.randn(1, 2, 4, 4))
    assert len(calls) == 1 and network.evaluations > 6


def test_fixed_grid_takes_eight_steps():
    network = linear_system([[-1.0]], solver="rk4")
    network(torch.ones(1, 1, 1, 1))
    assert network.evaluations == 4 * 8


def test_fixed_grid_keeps_eight_steps_beside_other_options():
    network = linear_system([[-1.0]], solver="rk4", options={"interp": "cubic"})
    network(torch.ones(1, 1, 1, 1))
    assert network.evaluations >= 4 * 8


def test_scipy_needs_the_adjoint():
    network = linear_system([[-1.0]], solver="scipy_solver")
    with pytest.raises(InputError, match="use adjoint=True"):
        network(torch.ones(1, 1, 1, 1))


def test_fixed_grids_do_not_return_infinity():
    network = linear_system([[1e30]], solver="euler")
    with pytest.raises(SolverError, match="finite state"):
        network(torch.full((1, 1, 1, 1), 1e30))


def test_solver_failures(float64):
    stiff = linear_system([[-1e4]], max_evaluations=50)
    with pytest.raises(SolverError, match="cap of 50 evaluations.*stiff"):
        stiff(torch.ones(1, 1, 1, 1))
    with pytest.raises(SolverError, match="scipy_solver' failed.*must be finite"), torch.no_grad():
        linear_system([[1.0]], solver="scipy_solver")(torch.full((1, 1, 1, 1), math.inf))
    explosive = linear_system([[1e200]], solver="dopri5")
    with pytest.raises(SolverError, match="grows without bound|stiff"):
        explosive(torch.full((1, 1, 1, 1), 1e200))


@pytest.mark.parametrize("solver, options", [
    ("dopri5", {}), ("dopri5", {"max_num_steps": 5}), ("bosh3", {}), ("scipy_solver", {"solver": "RK45"})])
@pytest.mark.filterwarnings("ignore")  # scipy and its wrapper warn of much
def test_failures_of_the_adjoint_are_solver_errors(solver, options, float64):
    """A tame solve whose gradient is too large to be integrated backwards."""
    network = linear_system([[-1.0]], solver=solver, adjoint=True, options=options)
    y = network(torch.ones(1, 1, 1, 1))
    for gradient in (float("inf"), 1.7e308):
        with pytest.raises(SolverError, match="in the adjoint equation"):
            y.backward(torch.full_like(y, gradient), retain_graph=True)
    assert network.weight.grad is None


def test_the_adjoint_can_be_differentiated_twice_from_one_graph(float64):
    network = linear_system([[-1.0]], adjoint=True)
    y = network(torch.ones(1, 1, 1, 1)).sum()
    first, = torch.autograd.grad(y, network.weight, retain_graph=True)
    second, = torch.autograd.grad(y, network.weight)
    assert torch.equal(first, second)


def test_two_solves_before_one_backward_count_apart(float64):
    network = linear_system([[-1.0]], solver="rk4", adjoint=True, max_evaluations=64)
    x = torch.ones(1, 1, 1, 1)
    first, second = network(x), network(2 * x)  # 32 evaluations each, 64 with the adjoint
    assert network.evaluations == 32
    (first + second).sum().backward()
    assert network.evaluations == 64
    with pytest.raises(SolverError, match="cap of 63"):
        linear_system([[-1.0]], solver="rk4", adjoint=True, max_evaluations=63)(x).sum().backward()


@pytest.mark.parametrize("solver, accepted", [
    ("dopri5", {"first_step", "max_num_steps", "max_step", "min_step", "norm", "safety"}),
    ("rk4", {"step_size", "grid_constructor", "interp", "perturb"}),
    ("implicit_adams", {"step_size", "max_iters", "max_order"}),
    ("scipy_solver", {"solver", "max_step"})])
def test_options_of_a_solver_are_checked(solver, accepted):
    with pytest.raises(UnknownNameError) as error:
        linear_system([[-1.0]], solver=solver, options={"stepsize": 0.1})
    known = str(error.value).partition("Known: ")[2].rstrip(".").split(", ")
    assert accepted <= set(known) and not {"func", "y0", "rtol", "atol", "self"} & set(known)


@pytest.mark.parametrize("options, message", [
    ({"step_size": 0}, "step_size must be a number above 0, got 0"),
    ({"step_size": 0.1, "grid_constructor": lambda f, y, t: t}, "step_size or grid_constructor"),
    ([("step_size", 0.1)], "options must be a dict"),
])
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        linear_system([[-1.0]], solver="rk4", options=options)


def test_methods_of_scipy_are_checked():
    with pytest.raises(UnknownNameError, match="did you mean 'RK45'"):
        linear_system([[-1.0]], solver="scipy_solver", options={"solver": "RK4"})


def test_all_solvers_take_their_options(float64):
    """No option that is accepted makes torchdiffeq warn that it does not know it."""
    x = torch.ones(1, 1, 1, 1)
    for solver, options in {"dopri5": {"max_num_steps": 100, "first_step": 0.1, "safety": 0.8},
                            "bosh3": {"dfactor": 0.3}, "euler": {"step_size": 0.5, "perturb": True},
                            "explicit_adams": {"max_order": 5, "step_size": 0.05}}.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            linear_system([[-1.0]], solver=solver, options=options)(x)
