"""``torch.compile``: a network in training is one graph, with the numbers of the network as it is."""

import copy

import pytest
import torch
from graphs import random_dag, random_dynamic

import neuralgraph as ng

CASES = {
    "blocks": lambda selector: ng.StaticNeuralGraph(ng.wirings.blocks([3, 6, 6, 6, 2]), selector, **HOW),
    "irregular": lambda selector: ng.StaticNeuralGraph(random_dag(3), selector, **HOW),
    "products": lambda selector: ng.StaticNeuralGraph(
        ng.wirings.chain([3, 6, 2], ng.NodeFunction(receive="bias activation", aggregate="product")), selector, **HOW),
    "discrete": lambda selector: ng.DiscreteTimeNeuralGraph(ng.wirings.complete(9, inputs=3, outputs=2), selector,
                                                            steps=3, **HOW),
    "irregular discrete": lambda selector: ng.DiscreteTimeNeuralGraph(random_dynamic(1), selector, steps=2, **HOW),
}
HOW = {"backend": "dense", "dtype": torch.float64}


@pytest.mark.parametrize("case, selector, training", [
    *((case, selector, True) for case in CASES for selector in ("dnw", "rigl")),
    ("blocks", "random", True), ("blocks", "feather", True), ("blocks", "dnw", False), ("irregular", "rigl", False)])
def test_one_graph_with_the_same_numbers(case, selector, training):
    torch._dynamo.reset()
    network = CASES[case](ng.selectors.create(selector, k=7)).train(training)
    twin = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    ng.rewire(network, optimizer, total_steps=9)
    ng.rewire(twin, torch.optim.SGD(twin.parameters(), lr=0.05), total_steps=9)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, len(network.wiring.inputs), 6, 6, dtype=torch.float64)
    with torch.no_grad():
        twin.eval()(x)  # lays out the stages, which a copy shares
    twin.train(training)
    outputs = [net(x) for net in (compiled, twin)]
    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-10)
    if training:
        for y in outputs:
            y.square().sum().backward()
        for (name, one), other in zip(network.named_parameters(), twin.parameters(), strict=True):
            assert (one.grad is None) == (other.grad is None), name
            if one.grad is not None:
                torch.testing.assert_close(one.grad, other.grad, rtol=1e-8, atol=1e-9)


def test_weights_that_change_are_ranked_anew():
    torch._dynamo.reset()
    network = CASES["blocks"](ng.TopK(7)).eval()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        network(x)  # lays out the stages
        compiled(x)
        network.weight.copy_(network.weight.flip(0))
        torch.testing.assert_close(compiled(x), network(x), rtol=1e-12, atol=1e-12)
