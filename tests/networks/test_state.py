"""Dynamic networks of any dimensions against the reference, and states carried from call to call."""

import pytest
import torch
from agreement import SIZES
from graphs import random_dynamic
from hypothesis import given, settings, strategies as st
from precision import double_precision

import neuralgraph as ng
from neuralgraph import NodeFunction
from neuralgraph.backends import BACKENDS
from neuralgraph.errors import InputError
from neuralgraph.networks import continuous as solving
from neuralgraph.testing.backends import perturb
from neuralgraph.testing.reference import dynamic_update, node_values

seeds, all_dims = st.integers(0, 10**9), st.sampled_from(list(SIZES))


def discrete(seed, dims, backend, **options):
    wiring = random_dynamic(seed, dims)
    network = ng.DiscreteTimeNeuralGraph(wiring, ng.TopK(wiring.num_edges * 2 // 3), backend, seed, dims=dims,
                                         **{"steps": None, **options})
    perturb(network, seed)
    return network


def draw(network, seed, *lead):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*lead, len(network.wiring.inputs), *SIZES[network.dims], generator=generator)


@pytest.mark.parametrize("backend", BACKENDS)
@given(seed=seeds, dims=all_dims, training=st.booleans())
@settings(max_examples=12)
def test_sequences_are_the_recurrence(backend, seed, dims, training):
    """x(l) is added to input nodes before update l, and takes the place of what those that hold held."""
    with double_precision():
        network = discrete(seed, dims, backend).train(training)
        wiring, values = network.wiring, node_values(network)
        x = draw(network, seed, 2, 3).requires_grad_()
        y = network(x)
        cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        actual = torch.autograd.grad((y * cotangent).sum(), [x, network.weight])
        weight = (network.weight.detach() * network.selection().real).requires_grad_()
        states = x.new_zeros(2, wiring.num_nodes, *SIZES[dims])
        for step in range(3):
            kept = states * ~wiring.holds.view(-1, *[1] * dims)
            states = kept.index_add(1, wiring.inputs, x[:, step])
            states = dynamic_update(wiring, values, weight, states, training)
        expected = states[:, wiring.outputs]
        wanted = torch.autograd.grad((expected * cotangent).sum(), [x, weight])
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(actual[0], wanted[0], rtol=1e-9, atol=1e-9)
        real = network.selection().real
        if not any(f.aggregate == "product" for f in wiring.functions):  # else not what autograd says at 0
            torch.testing.assert_close(actual[1][real], wanted[1][real], rtol=1e-9, atol=1e-9)


def alike(backend, first, second):
    """The same bits; to rounding where products are those of torch's libraries, which may depend on where numbers lie."""
    if backend in ("dense", "auto"):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)
    else:
        assert torch.equal(first, second)


@pytest.mark.parametrize("backend", BACKENDS)
@given(seed=seeds, dims=all_dims, first=st.integers(1, 4), untied=st.booleans())
@settings(max_examples=12)
def test_a_sequence_in_pieces_is_the_whole(backend, seed, dims, first, untied):
    with double_precision():
        network = discrete(seed, dims, backend, **({"steps": 5, "tied": False} if untied else {}))
        x = draw(network, seed, 2, 5)
        whole, end = network(x, return_state=True)
        head, state = network.trajectory(x[:, :first], return_state=True)
        tail, last = network.trajectory(x[:, first:], state=state, return_state=True)
        alike(backend, torch.cat([head, tail], dim=1), network.trajectory(x))
        alike(backend, tail[:, -1], whole)
        alike(backend, last.values, end.values)
        assert last.steps == 5
        gradient, = torch.autograd.grad(whole.sum(), network.weight)
        pieces, = torch.autograd.grad(tail[:, -1].sum(), network.weight)
        torch.testing.assert_close(pieces, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@given(seed=seeds, dims=all_dims, first=st.integers(1, 4), untied=st.booleans())
@settings(max_examples=12)
def test_steps_in_pieces_are_the_whole(backend, seed, dims, first, untied):
    """Also what input nodes hold goes on."""
    with double_precision():
        network = discrete(seed, dims, backend, steps=5, tied=not untied)
        x = draw(network, seed, 2)
        _, state = network(x, steps=first, return_state=True)
        alike(backend, network(state=state, steps=5 - first), network(x))
        if untied:
            alike(backend, network(state=state), network(x))
        alike(backend, network.trajectory(state=state, steps=5 - first), network.trajectory(x)[:, first:])


def test_one_x_beside_a_state_is_the_first_of_a_sequence(float64):
    network = discrete(3, 2, "sparse")
    x = draw(network, 0, 2, 2)
    _, state = network(x, return_state=True)
    more = draw(network, 1, 2)
    silence = torch.zeros_like(more)
    assert torch.equal(network(more, state=state, steps=1), network(more[:, None], state=state))
    if not network.wiring.holds.any():
        sequence = torch.stack([more, silence], dim=1)
        assert torch.equal(network(more, state=state, steps=2), network(sequence, state=state))


def test_detached_states_pass_no_gradient_on(float64):
    network = discrete(5, 2, "sparse")
    x = draw(network, 0, 2, 4).requires_grad_()
    _, state = network(x[:, :2], return_state=True)
    first, = torch.autograd.grad(network(x[:, 2:], state=state).sum(), x)
    assert first[:, :2].any()
    second, = torch.autograd.grad(network(x[:, 2:], state=state.detach()).sum(), x)
    assert not second[:, :2].any() and second[:, 2:].any()


def test_states_of_others_are_refused():
    wiring = ng.wirings.complete(6, inputs=2, outputs=1, function=NodeFunction("activation"))
    make = lambda w=wiring, **o: ng.DiscreteTimeNeuralGraph(w, ng.TopK(5), **{"steps": None, **o})
    network = make()
    x = torch.zeros(3, 2, 2, 4, 4)
    _, state = network(x, return_state=True)
    assert repr(state) == "State(after 2 steps of a DiscreteTimeNeuralGraph, 3 samples of 6 nodes)"
    twin = make(seed=7)  # on the same wiring: weights may have changed in between
    twin(x, state=state)
    for other, message in (
            (make(ng.wirings.complete(7, inputs=2, outputs=1, function=NodeFunction("activation"))), "another network"),
            (make(dtype=torch.float64), "the state is torch.float32 on cpu but the network torch.float64"),
            (ng.ContinuousTimeNeuralGraph(wiring, ng.TopK(5)), "the state is of a DiscreteTime")):
        with pytest.raises(InputError, match=message):
            other(x[:, 0].to(other.weight.dtype), state=state)
    with pytest.raises(InputError, match="dims=2, this one has dims=1"):
        make(dims=1)(torch.zeros(3, 2, 2, 4), state=state)
    for wrong in (x[:2], x[..., :3]):
        with pytest.raises(InputError, match="the state is of 3 samples with maps of 4x4 but x of"):
            network(wrong, state=state)
    with pytest.raises(InputError, match="what network.* returned beside y, got Tensor"):
        network(x, state=state.values)
    with pytest.raises(InputError, match="or a state to go on from"):
        network()
    with pytest.raises(InputError, match="return_state must be True or False"):
        network(x, return_state="yes")
    with pytest.raises(InputError, match="the sequence has 2 steps but steps=3"):
        network(x, steps=3)
    untied = make(steps=3, tied=False)
    _, state = untied(x, return_state=True)
    with pytest.raises(InputError, match="3 untied steps, of which 2 are done: it cannot make 2 more"):
        untied(x, state=state)


def test_constants_are_sent_at_once_in_a_static_graph_and_a_step_later_here(float64):
    """A hidden node without in-edges counts as one more step of the longest path."""
    functions = [NodeFunction(), NodeFunction(receive="bias"), NodeFunction()]
    candidates = ng.wirings.from_edges([(0, 1), (0, 2), (1, 2)], inputs=[0], outputs=[2], functions=functions,
                                       weight=torch.tensor([0.0, 1.0, 5.0]))
    network = ng.StaticNeuralGraph(candidates, ng.TopK(2))
    perturb(network)
    wiring = network.learned_wiring()  # which lost the edge into node 1
    assert ng.analysis.longest_path(wiring) == 1
    static = ng.StaticNeuralGraph(wiring, ng.Complete())
    x = torch.randn(2, 1, 3, 3)
    outputs = ng.DiscreteTimeNeuralGraph(wiring, ng.Complete(), steps=4).trajectory(x)
    assert not torch.equal(outputs[:, 0], static(x))
    for later in range(1, 4):
        torch.testing.assert_close(outputs[:, later], static(x))


# Continuous time


def continuous(seed, dims, backend="auto", **options):
    function = NodeFunction("activation conv" if dims else "activation bias", "bias", activation="tanh")
    wiring = ng.wirings.complete(6, inputs=2, outputs=2, function=function)
    network = ng.ContinuousTimeNeuralGraph(wiring, ng.TopK(25), backend, seed, dims=dims,
                                           **{"rtol": 1e-8, "atol": 1e-9, **options})
    perturb(network, seed)
    return network


@pytest.mark.parametrize("dims", SIZES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_continuous_time_of_any_dimensions(backend, dims, float64):
    """Against small steps of the reference's derivative."""
    network = continuous(1, dims, backend, solver="rk4")
    x, weight = draw(network, 0, 2), network.weight.detach() * network.selection().real
    values = node_values(network)
    states = network._at_inputs(x)
    h = 1 / 8
    rate = lambda states: dynamic_update(network.wiring, values, weight, states)
    for _ in range(8):  # the 3/8 rule, which is torchdiffeq's "rk4"
        a = rate(states)
        b = rate(states + h * a / 3)
        c = rate(states + h * (b - a / 3))
        d = rate(states + h * (a - b + c))
        states = states + h * (a + 3 * (b + c) + d) / 8
    torch.testing.assert_close(network(x), states[:, network.wiring.outputs], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"adjoint": True}, {"solver": "rk4"}, {"solver": "bosh3", "rtol": 1e-5},
                                     {"solver": "rk4", "options": {"step_size": 0.1}}])
@pytest.mark.parametrize("dims", [0, 2])
def test_trajectories_pass_through_what_forward_gives(dims, options, float64):
    network = continuous(2, dims, **options)
    x = draw(network, 0, 3)
    whole = network.trajectory(x, [0, 0.5, 1.0])
    assert torch.equal(whole[:, 0], torch.zeros_like(whole[:, 0]))
    tolerance = 2e-4 if options.get("solver") in ("rk4", "bosh3") else 1e-6
    torch.testing.assert_close(whole[:, 2], network(x), rtol=tolerance, atol=tolerance)
    half, state = network.trajectory(x, [0.5], return_state=True)
    torch.testing.assert_close(half[:, 0], whole[:, 1], rtol=tolerance, atol=tolerance)
    rest = network.trajectory(None, torch.tensor([0.5]), state=state)
    torch.testing.assert_close(rest[:, 0], network(x), rtol=tolerance, atol=tolerance)
    a, = torch.autograd.grad(network(x).sum(), network.weight)
    b, = torch.autograd.grad(rest.sum(), network.weight)
    torch.testing.assert_close(a, b, rtol=100 * tolerance, atol=100 * tolerance)


def test_two_spans_of_time_are_one_twice_as_long(float64):
    network, twice = continuous(3, 2), continuous(3, 2, time=2.0)
    x = draw(network, 0, 2)
    _, state = network(x, return_state=True)
    torch.testing.assert_close(network(state=state), twice(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("function", [NodeFunction(), NodeFunction("activation", activation="tanh")])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=15)
def test_gradients_through_the_solver_are_as_good_as_the_adjoint(function, seed):
    """At default tolerances; a step far beyond the end once made them wrong by any factor."""
    with double_precision():
        def gradient(**settings):
            network = ng.ContinuousTimeNeuralGraph(wiring, ng.TopK(k), "dense", seed, dims=0,
                                                   **{"max_evaluations": 10**5, **settings})
            network(x).sum().backward()
            return network.weight.grad, network.evaluations

        generator = torch.Generator().manual_seed(seed)
        nodes = int(torch.randint(4, 10, (), generator=generator))
        wiring = ng.wirings.complete(nodes, inputs=2, outputs=1, function=function)
        k = int(torch.randint(2, wiring.num_edges, (), generator=generator))
        x = torch.randn(3, 2, generator=generator)
        exact, _ = gradient(adjoint=True, rtol=1e-9, atol=1e-11)
        scale = 1e-2 + exact.abs().max()
        for settings in ({}, {"solver": "bosh3"}, {"rtol": 1e-6, "atol": 1e-6}):
            found, evaluations = gradient(**settings)
            assert (found - exact).abs().max() < (0.03 if settings.get("rtol") is None else 3e-3) * scale
            assert evaluations < 150


def test_the_last_step_ends_at_the_end(monkeypatch):
    times, forward = [], solving._Derivative.forward
    monkeypatch.setattr(solving._Derivative, "forward",
                        lambda self, t, states: times.append(float(t.detach())) or forward(self, t, states))
    network = ng.ContinuousTimeNeuralGraph(ng.wirings.complete(3, inputs=1, outputs=1, function=NodeFunction()),
                                           ng.Complete(), time=2.0, dims=0)
    network(torch.ones(1, 1))
    assert max(times) == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize("times", [[], [1.0, 0.5], [0.5, 0.5], [-1.0], [float("inf")], torch.zeros(3, 2),
                                   torch.tensor([[0.5], [1.0]]), "ab", ["a"], None, [True]])
def test_bad_times(times):
    with pytest.raises(InputError, match="times must be increasing numbers of at least 0, the same for all"):
        continuous(0, 0).trajectory(torch.zeros(2, 2), times)


def test_types_that_a_solver_cannot_use_are_refused():
    make = lambda **o: ng.ContinuousTimeNeuralGraph(ng.wirings.complete(5, inputs=2, outputs=1), ng.TopK(5), **o)
    x = torch.randn(1, 2, 4, 4)
    with pytest.raises(InputError, match="'dopri5' adapts its steps to errors that float16 cannot tell"):
        make(dtype=torch.float16)
    with pytest.raises(InputError, match="float16"):
        make().half()(x.half())
    assert make(solver="rk4").half()(x.half()).dtype == torch.float16
    with pytest.raises(InputError, match="time 1e\\+39 is beyond the largest number of torch.float32"):
        make(time=1e39)
    with pytest.raises(InputError, match="time 1e\\+39 is beyond"):
        make(dtype=torch.float32).trajectory(x, [1e39])
    make(time=1e39, dtype=torch.float64)
