"""SNIP against its written definition."""

import torch
from selecting import bind, edges_of, mask_of

import neuralgraph as ng
from neuralgraph.selectors import Weights


def test_snip_by_hand():
    """The k largest |g w| of the first batch, and a first step that trains these."""
    net = ng.StaticNeuralGraph(ng.wirings.chain([6, 2], ng.NodeFunction(receive="")), ng.selectors.SNIP(5), dims=0,
                               dtype=torch.float64)
    x, y = torch.randn(32, 6, dtype=torch.float64), torch.randn(32, 2, dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    ng.rewire(net, optimizer, total_steps=3)
    weight = net.weight.detach().clone()
    (net(x) - y).square().mean().backward()
    gradient = net.weight.grad.clone()
    assert net.selection().real.all() and gradient.all()
    optimizer.step()
    real = mask_of(*sorted(range(12), key=lambda edge: abs(gradient[edge] * weight[edge]).item())[-5:], n=12)
    assert torch.equal(net.selection().real, real)
    torch.testing.assert_close(net.weight, (weight - 0.1 * gradient) * real, rtol=1e-12, atol=0)
    torch.testing.assert_close(optimizer.state[net.weight]["momentum_buffer"], gradient * real, rtol=1e-12, atol=0)
    optimizer.zero_grad()
    (net(x) - y).square().mean().backward()
    assert not net.weight.grad[~real].any()  # never again
    optimizer.step()
    assert torch.equal(net.selection().real, real) and not net.weight[~real].any()


def test_snip_of_kernels_weighs_the_gate_of_a_kernel():
    selector = ng.selectors.SNIP(1)
    weight = bind(selector, Weights((1, 2, 2), "kernel"), torch.tensor([1.0, -1, 0.5, 0.5]))
    selector.begin(0, 3)
    assert selector.dense
    selector.decide(1, 3, weight, torch.tensor([5.0, 5, 1, 1]))  # |5 - 5| = 0 and |0.5 + 0.5| = 1
    assert edges_of(selector.mask) == [1]
    selector.begin(1, 3)
    assert not selector.dense
