"""Discrete-time networks: exact references; what all dynamic networks refuse."""

import math

import pytest
import torch
from graphs import random_dag, strided_input
from hypothesis import given, strategies as st
from precision import double_precision
from torch import nn

import neuralgraph as ng
from neuralgraph import NodeFunction
from neuralgraph.backends import BACKENDS
from neuralgraph.errors import InputError, UnknownNameError, WiringError


def dense_step(network, states):
    """ReLU, kernel, edges, instance norm on all nodes: the authors' update, written out."""
    group = network.functions.groups[0]
    send, receive = group.send, group.receive
    z = nn.functional.conv2d(torch.relu(states), send[1].weight, padding=1, groups=states.shape[1])
    matrix = (network.weight * network.selection().real).view(states.shape[1], -1)
    total = torch.einsum("vu,buhw->bvhw", matrix, z)
    mean, var = total.mean((2, 3), keepdim=True), total.var((2, 3), unbiased=False, keepdim=True)
    hat = (total - mean) / torch.sqrt(var + 1e-5)
    return hat * receive[0].weight.view(-1, 1, 1) + receive[0].bias.view(-1, 1, 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_discrete_is_the_recurrence(backend, float64):
    network = ng.DiscreteTimeNeuralGraph(ng.wirings.complete(12, inputs=3, outputs=2), ng.TopK(40),
                                         backend=backend, steps=4)
    x = torch.randn(2, 3, 5, 5)
    states = torch.cat([x, torch.zeros(2, 9, 5, 5)], dim=1)
    expected = []
    for _ in range(4):
        states = dense_step(network, states)
        expected.append(states[:, 10:])
    torch.testing.assert_close(network(x), expected[-1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(network.trajectory(x), torch.stack(expected, 1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_through_time_reaches_every_candidate(backend, float64):
    """dL/dw_uv is the sum over steps of <Z_u, dL/dI_v>, on all candidates."""
    network = ng.DiscreteTimeNeuralGraph(ng.wirings.complete(8, inputs=2, outputs=2), ng.TopK(25),
                                         backend=backend, steps=3)
    x = torch.randn(2, 2, 4, 4)
    network(x).square().sum().backward()
    real = network.selection().real
    matrix = (network.weight.detach() * real).view(8, 8).requires_grad_()
    states = torch.cat([x, torch.zeros(2, 6, 4, 4)], dim=1)
    group = network.functions.groups[0]
    for _ in range(3):
        z = nn.functional.conv2d(torch.relu(states), group.send[1].weight.detach(), padding=1, groups=8)
        states = nn.functional.instance_norm(torch.einsum("vu,buhw->bvhw", matrix, z))
    states[:, 6:].square().sum().backward()
    torch.testing.assert_close(network.weight.grad, matrix.grad.flatten(), rtol=1e-9, atol=1e-10)
    assert (network.weight.grad[~real] != 0).any()


@given(seed=st.integers(0, 10**6), extra=st.integers(0, 2))
def test_discrete_time_expresses_static_graphs(seed, extra):
    """Run for at least its longest path, any static graph of one resolution gives its own output."""
    with double_precision():
        wiring = random_dag(seed)
        if int(wiring.message_scale().max()) > 1:
            return
        static = ng.StaticNeuralGraph(wiring, ng.TopK(wiring.num_edges * 2 // 3)).eval()
        depth = ng.analysis.longest_path(wiring)
        discrete = ng.DiscreteTimeNeuralGraph(wiring, ng.TopK(wiring.num_edges * 2 // 3),
                                              steps=depth + extra).eval()
        discrete.load_state_dict(static.state_dict())
        x = torch.randn(2, len(wiring.inputs), 5, 4, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(discrete(x), static(x), rtol=1e-10, atol=1e-10)


def test_multilayer_perceptron(float64):
    """Figure 1 of the paper: an MLP of three layers is a dynamic graph of three steps."""
    sizes = [4, 6, 5, 3]
    wiring = ng.wirings.chain(sizes, NodeFunction(receive="bias activation", activation="tanh"))
    network = ng.DiscreteTimeNeuralGraph(wiring, ng.Complete(), steps=3)
    with torch.no_grad():
        network.functions.groups[0].receive[0].bias.uniform_(-1, 1)
    bias = network.functions.groups[0].receive[0].bias
    h, edge, unit = torch.randn(7, 4), 0, 4
    x = h[:, :, None, None]
    for n, m in zip(sizes, sizes[1:]):
        h = h @ network.weight[edge:edge + n * m].view(m, n).T
        edge += n * m
        if m != 3:
            h = torch.tanh(h + bias[unit:unit + m])
            unit += m
    torch.testing.assert_close(network(x)[:, :, 0, 0], h, rtol=1e-12, atol=1e-12)


def test_sequences_are_added_to_the_inputs(float64):
    network = ng.DiscreteTimeNeuralGraph(ng.wirings.complete(9, inputs=2, outputs=2), ng.TopK(40),
                                         steps=None)
    x = torch.randn(2, 4, 2, 4, 4)
    states = torch.zeros(2, 9, 4, 4)
    for step in range(4):
        states = dense_step(network, states + torch.cat([x[:, step], torch.zeros(2, 7, 4, 4)], 1))
    torch.testing.assert_close(network(x), states[:, 7:], rtol=1e-10, atol=1e-10)
    first = torch.cat([x[:, :1], torch.zeros(2, 3, 2, 4, 4)], dim=1)
    fixed = ng.DiscreteTimeNeuralGraph(network.wiring, ng.TopK(40), steps=4)
    fixed.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(first), fixed(x[:, 0]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [ng.DiscreteTimeNeuralGraph, ng.ContinuousTimeNeuralGraph])
def test_learned_wirings_give_the_same_network(kind, float64):
    """Also where an input lost all its in-edges: it is updated to the norm's shift, it holds nothing."""
    network = kind(ng.wirings.complete(12, inputs=4, outputs=3), ng.TopK(14))
    with torch.no_grad():
        network.functions.groups[0].receive[0].bias.uniform_(-1, 1)
    learned = network.learned_wiring()
    assert not torch.isin(learned.inputs, learned.dst).all() and not learned.holds.any()
    x = torch.randn(2, 4, 5, 5)
    for wiring in (learned, ng.from_networkx(ng.to_networkx(network))):
        torch.testing.assert_close(kind(wiring, ng.Complete())(x), network(x), rtol=1e-9, atol=1e-9)


def test_untied_steps_have_their_own_functions(float64):
    wiring = ng.wirings.complete(8, inputs=2, outputs=2)
    tied = ng.DiscreteTimeNeuralGraph(wiring, ng.TopK(30), steps=3)
    untied = ng.DiscreteTimeNeuralGraph(wiring, ng.TopK(30), steps=3, tied=False)
    x = torch.randn(2, 2, 4, 4)
    assert not torch.equal(tied(x), untied(x))
    with torch.no_grad():
        untied.weight.copy_(tied.weight)
        for functions in (untied.functions, *untied.later_functions):
            functions.load_state_dict(tied.functions.state_dict())
    torch.testing.assert_close(tied(x), untied(x), rtol=0, atol=0)
    untied(x).sum().backward()
    assert len({p.grad.sum().item() for p in untied.parameters() if p.dim() == 4}) == 3
    assert untied.learned_wiring().parameters == {}


def test_product_nodes(float64):
    """A gate: out = (2 x) * (3 y), and a product of nothing real is 1."""
    function = NodeFunction(aggregate="product")
    wiring = ng.wirings.from_edges([(0, 2), (1, 2), (2, 3)], inputs=[0, 1], outputs=[3],
                                   functions=[NodeFunction(), NodeFunction(), function, NodeFunction()],
                                   weight=torch.tensor([2.0, 3.0, 1.0]))
    network = ng.DiscreteTimeNeuralGraph(wiring, ng.Complete(), steps=2)
    x = torch.randn(2, 2, 3, 3)
    torch.testing.assert_close(network(x)[:, 0], 6 * x[:, 0] * x[:, 1])
    network = ng.DiscreteTimeNeuralGraph(wiring, ng.RandomGraph(1), steps=2)
    network.selector.real[:] = torch.tensor([False, False, True])
    assert torch.equal(network(x), torch.ones(2, 1, 3, 3))


def test_strided_nodes_with_zero_padding(float64):
    """The paper's Figure 2: a strided convolution, zeros around it, one resolution throughout."""
    strided = NodeFunction("conv", stride=2, zero_pad=True)
    wiring = ng.wirings.complete(3, inputs=1, outputs=1, function=strided)
    network = ng.DiscreteTimeNeuralGraph(wiring, ng.Complete(), steps=1)
    x = torch.randn(2, 1, 7, 6)
    kernel = network.functions.groups[0].send[0].weight[:1]
    small = nn.functional.conv2d(x, kernel, stride=2, padding=1)  # 4 x 3
    padded = nn.functional.pad(small, (1, 2, 1, 2))
    torch.testing.assert_close(network(x), network.weight.view(3, 3)[2, 0] * padded)
    ng.ContinuousTimeNeuralGraph(wiring, ng.Complete())(x)


@pytest.mark.parametrize("make, error, message", [
    (lambda w: ng.ContinuousTimeNeuralGraph(w, ng.TopK(5), adjoint="no"), InputError, "adjoint must be True or False, got 'no'"),
    (lambda w: ng.ContinuousTimeNeuralGraph(w, ng.TopK(5), rectify_state=1), InputError, "rectify_state must be True or False"),
    (lambda w: ng.DiscreteTimeNeuralGraph(w, ng.TopK(5), tied="no"), InputError, "tied must be True or False"),
    (lambda w: ng.DiscreteTimeNeuralGraph(w, ng.TopK(5), seed=2**70), InputError, "integer seed.*64 bits"),
    (lambda w: ng.ContinuousTimeNeuralGraph(w, ng.TopK(5), options={"first_step": "a"}), InputError, "first_step must be a number above 0"),
    (lambda w: ng.ContinuousTimeNeuralGraph(w, ng.TopK(5), time=math.inf), InputError, "time must be"),
    (lambda w: ng.ContinuousTimeNeuralGraph(w, ng.TopK(5), solver="dopri"), UnknownNameError, "did you mean 'dopri"),
    (lambda w: ng.ContinuousTimeNeuralGraph(w, ng.TopK(5), rtol=0), InputError, "rtol must be a number above 0"),
    (lambda w: ng.ContinuousTimeNeuralGraph(w, ng.TopK(5), max_evaluations=-1), InputError, "max_evaluations"),
    (lambda w: ng.DiscreteTimeNeuralGraph(w, ng.TopK(5), steps=0), InputError, "steps must be an integer of at least 1"),
    (lambda w: ng.DiscreteTimeNeuralGraph(w, ng.TopK(5), steps=None, tied=False), InputError, "untied"),
    (lambda w: ng.ContinuousTimeNeuralGraph(ng.wirings.blocks([2, 3, 2], input_stride=2), ng.TopK(5)), WiringError, "zero_pad=True"),
    (lambda w: ng.DiscreteTimeNeuralGraph(strided_input(), ng.Complete()), WiringError, "node 0 has or sees a stride"),
    (lambda w: ng.wirings.complete(4, inputs=1, outputs=1, function=NodeFunction("conv", stride=2)), WiringError, "strides disagree"),
    (lambda w: ng.wirings.complete(4, inputs=1, outputs=1, function=NodeFunction("conv", zero_pad=True)), WiringError, "zero_pad=True needs a stride"),
])
def test_bad_settings(make, error, message):
    with pytest.raises(error, match=message):
        make(ng.wirings.complete(6, inputs=2, outputs=1))


def test_bad_sequences():
    wiring = ng.wirings.complete(6, inputs=2, outputs=1)
    fixed = ng.DiscreteTimeNeuralGraph(wiring, ng.TopK(5), steps=3)
    with pytest.raises(InputError, match="sequence has 4 steps but the network 3"):
        fixed(torch.zeros(1, 4, 2, 3, 3))
    with pytest.raises(InputError, match="at least one step"):
        fixed(torch.zeros(1, 0, 2, 3, 3))
    with pytest.raises(InputError, match="one channel for each of the 2"):
        fixed(torch.zeros(1, 3, 4, 3, 3))
    free = ng.DiscreteTimeNeuralGraph(wiring, ng.TopK(5), steps=None)
    with pytest.raises(InputError, match="steps=None"):
        free(torch.zeros(1, 2, 3, 3))
