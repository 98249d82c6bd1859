"""Canonical networks: the same outputs, with scales where they count."""

import pytest
import torch
from graphs import drawn, random_dag, random_dynamic
from hypothesis import given, settings, strategies as st
from strengths import three
from torch import nn

import neuralgraph as ng
from neuralgraph import NodeFunction
from neuralgraph.errors import InputError
from neuralgraph.nodes import OPERATIONS
from neuralgraph.selectors import SynapticStrength


def prelu():
    class PReLU(ng.nodes.LearnedActivation):
        name, learned = "prelu", {"prelu_slope": "slope"}
        scalar = ng.nodes.Scalar(lambda x, p: torch.where(x >= 0, x, p[0] * x),
                                 formula=lambda x, p: x if x >= 0 else p[0] * x)

        def __init__(self, function, channels, dims):
            super().__init__(function, channels, dims)
            self.slope = nn.Parameter(torch.full((channels,), 0.25))

        def is_homogeneous(self):
            return True
    return PReLU


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_canonical_networks_compute_the_same(seed, dtype):
    wiring = random_dag(seed)
    net = drawn(ng.StaticNeuralGraph(wiring, ng.Complete(), dtype=dtype), seed, zeros=0.15).eval()
    x = torch.randn(2, len(wiring.inputs), 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    y = net(x)
    canonical, left = ng.canonicalise(net)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    size = y.abs().max().clamp(min=1e-3).item()
    torch.testing.assert_close(canonical(x), y, rtol=tolerance, atol=tolerance * size)
    assert torch.equal(net(x), y)  # it is a copy
    strength = net.weight.abs() * net.functions.gain()[wiring.src]
    rewritten = torch.tensor([wiring.label(int(u)) not in left for u in wiring.src], dtype=torch.bool)
    torch.testing.assert_close(canonical.weight.abs()[rewritten], strength[rewritten], rtol=1e-5, atol=0)
    zero = {wiring.label(int(u)) for u in wiring.src if net.functions.gain()[u] == 0}
    assert zero <= set(left) and all(reason for reason in left.values())


@settings(max_examples=5)
@given(seed=st.integers(0, 10**6))
def test_canonical_dynamic_networks_compute_the_same(seed):
    """Their states too."""
    wiring = random_dynamic(seed)
    net = drawn(ng.DiscreteTimeNeuralGraph(wiring, ng.Complete(), steps=3, dtype=torch.float64), seed).eval()
    x = torch.randn(2, len(wiring.inputs), 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    y, state = net(x, return_state=True)
    again, same = ng.canonicalise(net).network(x, return_state=True)
    torch.testing.assert_close(again, y, rtol=1e-9, atol=1e-10 * float(y.detach().abs().max().clamp(min=1)))
    torch.testing.assert_close(same.values, state.values, rtol=1e-9, atol=1e-10 * float(state.values.detach().abs().max()))


def test_states_of_dynamic_networks_are_not_rescaled():
    """A norm that makes the state, which the network returns, keeps its scale."""
    wiring = ng.wirings.complete(4, inputs=1, outputs=1, function=NodeFunction("activation conv", "norm"))
    net = drawn(ng.DiscreteTimeNeuralGraph(wiring, ng.Complete(), steps=2, dtype=torch.float64)).eval()
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    canonical, left = ng.canonicalise(net)
    assert set(left) == set(range(4)) and set(left.values()) == {"its state is scaled too, which is the network's"}
    (y, state), (again, same) = (network(x, return_state=True) for network in (net, canonical))
    assert torch.equal(y, again) and torch.equal(state.values, same.values)


def test_canonical_values_by_hand():
    net, group = three(k=4)
    with torch.no_grad():
        group.send[0].bias.copy_(torch.tensor([2.0, -3]))
    canonical, left = ng.canonicalise(net)
    norm, _, conv = next(group for group in canonical.functions.groups if len(group.send)).send
    assert left == {} and norm.weight.tolist() == [-1, 1] and norm.bias.tolist() == [0.5, -3]
    assert conv.weight.flatten().tolist() == [1, -1] and canonical.weight.tolist() == [2, -6, 6, 3]
    # magnitudes rank as strengths did
    assert torch.equal(ng.TopK(2).rule.effective(canonical.weight, canonical.weight.abs() >= 6) != 0,
                       three(k=2)[0].selection().real)


def test_what_stays_is_named():
    functions = [NodeFunction("norm activation conv", activation="tanh"), NodeFunction("activation conv", activation="tanh"),
                 NodeFunction("norm activation conv"), NodeFunction("norm activation conv", activation="leaky_relu"),
                 NodeFunction("norm")]
    wiring = ng.wirings.from_edges([(u, 4) for u in range(4)], inputs=range(4), outputs=[4], functions=functions)
    net = drawn(ng.StaticNeuralGraph(wiring, ng.Complete()))
    net.functions.groups[int(wiring.function[2])].send[0].weight.data.zero_()
    canonical, left = ng.canonicalise(net)
    assert left == {0: "tanh is not homogeneous: f(a x) is not a f(x)", 2: "its scale is 0"}
    assert (canonical.weight == net.weight).tolist() == [True, False, True, False]


def test_an_operation_says_that_it_is_homogeneous():
    before = dict(OPERATIONS)
    try:
        ng.register_operation(prelu())
        wiring = ng.wirings.blocks([2, 3, 2], NodeFunction("norm prelu conv"))
        net = drawn(ng.StaticNeuralGraph(wiring, ng.Complete(), dtype=torch.float64)).eval()
        x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
        canonical, left = ng.canonicalise(net)
        torch.testing.assert_close(canonical(x), net(x), rtol=1e-10, atol=1e-12)
        assert left == {}
        torch.testing.assert_close(canonical.weight.abs(), net.weight.abs() * net.functions.gain()[wiring.src])
    finally:
        OPERATIONS.clear()
        OPERATIONS.update(before)


def test_networks_whose_edges_would_be_others_are_refused():
    net = drawn(ng.StaticNeuralGraph(ng.wirings.blocks([3, 6, 2]), ng.TopK(10)))
    with pytest.raises(InputError, match="TopK would make another network.*freeze"):
        ng.canonicalise(net)
    x = torch.randn(2, 3, 6, 6)
    net.freeze()
    net.eval()
    torch.testing.assert_close(ng.canonicalise(net).network(x), net(x), rtol=1e-4, atol=1e-5)
    strong = drawn(ng.StaticNeuralGraph(ng.wirings.blocks([3, 6, 2]), SynapticStrength(10))).eval()
    canonical = ng.canonicalise(strong).network
    torch.testing.assert_close(canonical(x), strong(x), rtol=1e-4, atol=1e-5)
    canonical.selector = ng.TopK(10)
    assert torch.equal(canonical.selection().real, strong.selection().real)
    untied = ng.DiscreteTimeNeuralGraph(ng.wirings.complete(4, inputs=1, outputs=1), ng.Complete(), steps=2, tied=False)
    with pytest.raises(InputError, match="untied"):
        ng.canonicalise(untied)
    with pytest.raises(InputError, match="expected a neural graph, got Linear"):
        ng.canonicalise(nn.Linear(2, 2))
