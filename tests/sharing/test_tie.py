"""Ties: weights of a graph that are one number."""

import pytest
import torch
from shared import tied_macro

import neuralgraph as ng
from neuralgraph.errors import InputError
from neuralgraph.sharing import bake, tie


def test_ties_are_one_number_each(float64):
    network = ng.StaticNeuralGraph(ng.wirings.blocks([2, 3, 2]), ng.Complete())
    before = network.weight.detach().clone()
    groups = torch.full((network.wiring.num_edges,), -1)
    groups[:3], groups[3:5] = 1, 0
    fixed = torch.zeros_like(groups, dtype=torch.bool)
    fixed[5:7] = True
    tied = tie(network, groups, fixed=fixed)
    weight = tied.weight.detach()
    assert (weight[:3] == before[:3].mean()).all() and (weight[3:5] == before[3:5].mean()).all()
    assert torch.equal(weight[5:], before[5:]) and torch.equal(network.weight, before)
    free, x = bake(tied), torch.randn(3, 2, 6, 6)
    for each in (tied, free):
        each(x).square().sum().backward()
    made_by = tied.parametrizations.weight
    gradient = free.weight.grad
    torch.testing.assert_close(made_by[0].parts[0].alpha.grad, torch.stack([gradient[3:5].sum(), gradient[:3].sum()]))
    torch.testing.assert_close(made_by.original.grad, gradient[7:])
    optimizer = torch.optim.SGD(tied.parameters(), lr=0.1)
    optimizer.step()
    assert torch.equal(tied.weight[5:7], before[5:7]) and len(tied.weight[:3].unique()) == 1


def test_ties_through_a_sigmoid():
    network = tied_macro()
    alpha = network.parametrizations.weight[0].parts[0].alpha
    assert torch.equal(alpha, torch.zeros(2))
    with torch.no_grad():
        alpha[1] = 2
    wiring = network.wiring
    tied = [float(w) for w in network.weight.detach().unique() if abs(w - torch.tensor(2.0).sigmoid()) < 1e-6]
    assert len(tied) == 1 and wiring.num_edges == len(network.weight)


@pytest.mark.parametrize(("options", "message"), [
    ({"groups": torch.zeros(3, dtype=torch.long)}, r"groups must be integers of shape \(12,\)"),
    ({"groups": torch.zeros(12)}, "torch.float32"),
    ({"groups": torch.full((12,), 2)}, "numbered from 0 on without gaps"),
    ({"groups": torch.full((12,), -1)}, "nothing to tie"),
    ({"groups": torch.zeros(12, dtype=torch.long), "fixed": torch.ones(12, dtype=torch.bool)}, "one of the two only"),
    ({"groups": torch.zeros(12, dtype=torch.long), "fixed": torch.ones(12)}, "fixed must be bool"),
    ({"groups": torch.arange(12), "through": "sigmoid"}, "not between 0 and 1"),
])
def test_ties_refuse(options, message):
    network = ng.StaticNeuralGraph(ng.wirings.chain([2, 3, 2]), ng.Complete())
    with pytest.raises(InputError, match=message):
        tie(network, **options)
