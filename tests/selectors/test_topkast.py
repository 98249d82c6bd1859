"""Top-KAST against its written formulas."""

import pytest
import torch
from selecting import UNIT, bind, one_step, through, weights

import neuralgraph as ng
from neuralgraph.selectors import Weights


def test_top_kast_by_hand():
    """8 candidates, k = 2, a third of 6 absent ones: M = 2. The loss gains 0.1 (49 + 64 + (25 + 36) / (2 / 8))."""
    selector = ng.selectors.TopKAST(2, backward=1 / 3, strength=0.1)
    weight = bind(selector, Weights((2, 4)), weights(1, -5, 7, 2, 6, -8, 3, 4))
    selection = through(selector, weight, torch.arange(1.0, 9.0))
    assert selection.weight.tolist() == [0, 0, 7, 0, 0, -8, 0, 0] and selection.reaches_all
    assert weight.grad.tolist() == [0, 2, 3, 0, 5, 6, 0, 0]
    weight.grad = None
    penalty = selector.penalty(weight)
    penalty.backward()
    assert penalty.item() == pytest.approx(0.1 * (49 + 64 + 4 * (25 + 36)))
    assert weight.grad.tolist() == pytest.approx([0, 0.2 * 4 * -5, 0.2 * 7, 0, 0.2 * 4 * 6, 0.2 * -8, 0, 0])


def trained(selector, steps=12, seed=0, build=lambda: ng.wirings.blocks([4, 8, 8, 3], UNIT), **options):
    net = ng.StaticNeuralGraph(build(), selector, dims=0, seed=seed)
    optimizer = torch.optim.SGD(net.parameters(), **{"lr": 0.2, "momentum": 0.9, "weight_decay": 1e-3, **options})
    ng.rewire(net, optimizer, total_steps=steps)
    for step in range(steps):
        torch.manual_seed(step)
        x = torch.randn(16, 4)
        optimizer.zero_grad()
        (net(x) - x[:, :3].sin()).square().mean().backward()
        optimizer.step()
    return net


@pytest.mark.parametrize("backward, name", [(1, "dnw"), (0, "no-update")])
def test_top_kast_becomes_dnw_and_no_update(backward, name):
    """Bit for bit over a training."""
    net = trained(ng.selectors.TopKAST(30, backward=backward, strength=0))
    twin, first = trained(ng.selectors.create(name, 30)), trained(ng.TopK(30), steps=1)
    assert torch.equal(net.weight, twin.weight) and torch.equal(net.selection().real, twin.selection().real)
    if name == "dnw":
        assert not torch.equal(net.selection().real, first.selection().real)


def test_a_step_of_top_kast():
    net, y = one_step(ng.selectors.TopKAST(1, backward=0.3, strength=0.01))  # M = 1 of 3: edge 1
    assert y == 6.0
    # gradients 0.3 + 0.02 * 2 and 0.2 + 0.02 * 4 * -1
    assert net.weight.tolist() == pytest.approx([0.5, -1 - 0.5 * 0.12, 0.25, 2 - 0.5 * 0.34])
    assert net.selection().real.tolist() == [False, False, False, True]
