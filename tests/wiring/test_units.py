"""Perceptrons, recurrent networks and LSTMs: equal to torch's own, with the same weights."""

import pytest
import torch
from torch import nn

import neuralgraph as ng
from neuralgraph.errors import UnknownNameError, WiringError
from neuralgraph.networks.functions import NodeFunctions

pytestmark = pytest.mark.usefixtures("float64")


def run(network, x, how=None):
    """The network on vectors, each number of which is a map of one pixel."""
    return (how or network)(x[..., None, None])[..., 0, 0]


def load(network, weight, bias):
    """The weights of the first edges, and the biases of the nodes that have one."""
    has_bias = torch.tensor(["bias" in f.receive for f in network.wiring.functions])[network.wiring.function]
    values = torch.zeros(network.wiring.num_nodes)
    values[has_bias] = bias
    with torch.no_grad():
        network.weight[:len(weight)] = weight
    network.functions.load({"bias": values})
    return network


def flat(*tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


@pytest.mark.parametrize("sizes", [[4, 3], [3, 8, 2], [5, 7, 6, 4, 3]])
@pytest.mark.parametrize("activation, last", [("relu", None), ("tanh", "sigmoid")])
def test_mlp_is_a_stack_of_linear_layers(sizes, activation, last):
    torch.manual_seed(0)
    linear = [nn.Linear(n, m) for n, m in zip(sizes, sizes[1:])]
    hidden = {"relu": nn.ReLU(), "tanh": nn.Tanh()}[activation]
    layers = [layer for one in linear for layer in (one, hidden)][:-1] + ([nn.Sigmoid()] if last else [])
    wiring = ng.wirings.mlp(sizes, activation, last)
    x = torch.randn(6, sizes[0])
    x.requires_grad_()
    expected = nn.Sequential(*layers)(x)
    gradient, = torch.autograd.grad(expected.square().sum(), x)
    for network in (ng.StaticNeuralGraph(wiring, ng.Complete()),
                    ng.DiscreteTimeNeuralGraph(wiring, ng.Complete(), steps=len(linear)),
                    ng.DiscreteTimeNeuralGraph(wiring, ng.Complete(), steps=len(linear) + 2)):
        load(network, flat(*(one.weight for one in linear)), flat(*(one.bias for one in linear)))
        y = run(network, x)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        mine, = torch.autograd.grad(y.square().sum(), x)
        torch.testing.assert_close(mine, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_rnn_equals_torch(activation):
    torch.manual_seed(1)
    rnn = nn.RNN(3, 5, nonlinearity=activation, batch_first=True)
    head, x = nn.Linear(5, 2), torch.randn(4, 6, 3)
    weights = flat(rnn.weight_ih_l0, rnn.weight_hh_l0)
    bias = flat(rnn.bias_ih_l0 + rnn.bias_hh_l0)
    network = ng.DiscreteTimeNeuralGraph(ng.wirings.rnn(3, 5, activation=activation), ng.Complete(), steps=None)
    states = run(load(network, weights, bias), x, network.trajectory)
    torch.testing.assert_close(states, rnn(x)[0], rtol=1e-10, atol=1e-10)
    network = ng.DiscreteTimeNeuralGraph(ng.wirings.rnn(3, 5, 2, activation), ng.Complete(), steps=None)
    load(network, flat(weights, head.weight), flat(bias, head.bias))
    longer = torch.cat([x, torch.zeros(4, 1, 3)], dim=1)
    y = run(network, longer, network.trajectory)[:, 1:]
    torch.testing.assert_close(y, head(rnn(x)[0]), rtol=1e-10, atol=1e-10)


def test_lstm_equals_torch():
    torch.manual_seed(2)
    lstm, x = nn.LSTM(3, 5, batch_first=True), torch.randn(4, 6, 3)
    network = ng.DiscreteTimeNeuralGraph(ng.wirings.lstm(3, 5), ng.Complete(), steps=None)
    load(network, flat(lstm.weight_ih_l0, lstm.weight_hh_l0), flat(lstm.bias_ih_l0 + lstm.bias_hh_l0))
    slow = torch.zeros(4, 6, 4, 3)
    slow[:, :, 0] = x
    states = run(network, slow.flatten(1, 2), network.trajectory)
    torch.testing.assert_close(states[:, 3::4], lstm(x)[0], rtol=1e-10, atol=1e-10)


def test_an_lstm_starts_as_one():
    wiring = ng.wirings.lstm(3, 16)
    learned, carried = wiring.weight[:4 * 16 * 19], wiring.weight[4 * 16 * 19:]
    assert 0.2 < learned.abs().max() <= 0.25 and torch.equal(carried, torch.ones(14 * 16))
    bias = wiring.parameters["bias"]
    assert (bias != 0).sum() == 4 * 16 and bias.abs().max() <= 0.25
    assert wiring == ng.wirings.lstm(3, 16, seed=0) != ng.wirings.lstm(3, 16, seed=1)


@pytest.mark.parametrize("make", [
    lambda dims: ng.wirings.blocks([2, 3, 2], dims=dims), lambda dims: ng.wirings.chain([2, 3, 2], dims=dims),
    lambda dims: ng.wirings.complete_dag(6, inputs=2, outputs=2, dims=dims),
    lambda dims: ng.wirings.complete(6, inputs=2, outputs=2, dims=dims),
    lambda dims: ng.wirings.from_edges([(0, 1), (1, 2)], dims=dims),
    lambda dims: ng.wirings.from_edges([(0, 1), (1, 2)], functions={}, dims=dims),
    lambda dims: ng.wirings.from_adjacency(torch.eye(3).roll(1, 0).tril(-1).T, dims=dims),
    lambda dims: ng.from_networkx(ng.to_networkx(ng.wirings.mlp([2, 2])), dims=dims),
])
@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_generators_give_functions_that_can_act_on_their_dims(make, dims):
    wiring = make(dims)
    functions = NodeFunctions(wiring, torch.Generator().manual_seed(0), dims=dims)
    x = torch.randn(4, len(functions.groups[0].nodes), *[5] * dims)
    assert functions.send(0, slice(None), x).shape == x.shape
    assert dims == 0 or make(dims) == make(2)


@pytest.mark.parametrize("make, error, message", [
    (lambda: ng.wirings.mlp([3]), WiringError, "two or more layers"), (lambda: ng.wirings.mlp("34"), WiringError, "two or more"),
    (lambda: ng.wirings.mlp([3, 0]), WiringError, "at least 1, got 0"), (lambda: ng.wirings.rnn(3, 1.5), WiringError, "must be an integer"),
    (lambda: ng.wirings.mlp([3, 2, 1], "rleu"), UnknownNameError, "did you mean 'relu'"),
    (lambda: ng.wirings.lstm(3, 2, seed=2**70), WiringError, "seed must be an integer of 64 bits"),
])
def test_bad_units(make, error, message):
    with pytest.raises(error, match=message):
        make()
