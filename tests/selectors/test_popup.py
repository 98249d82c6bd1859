"""Masks over frozen weights against their written formulas."""

import math

import pytest
import torch
from selecting import G, W, bind, one_step, through, weights
from torch import nn

import neuralgraph as ng
from neuralgraph.selectors import Joined, Weights, train_scores_only


def test_supermask_by_hand():
    """m w forward, g w p (1 - p) backward, whatever was drawn."""
    selector = ng.selectors.Supermask(2)
    weight = bind(selector, Weights((2, 2)), weights(1, -2, 3, -4))
    assert not weight.requires_grad and not selector.scores.any()
    selector.scores.data = weights(0, 1, -1, 2).data
    torch.manual_seed(5)
    drawn = (torch.rand(4, dtype=torch.float64) < 1 / (1 + (-selector.scores).exp())).double()
    torch.manual_seed(5)
    selection = through(selector, weight, [10, 20, 30, 40], sampled=True)
    assert 0 < drawn.sum() < 4 and selection.weight.tolist() == (drawn * weight).tolist() and selection.reaches_all
    p = [1 / (1 + math.exp(-s)) for s in (0, 1, -1, 2)]
    wanted = [g * w * q * (1 - q) for g, w, q in zip((10, 20, 30, 40), (1, -2, 3, -4), p)]
    torch.testing.assert_close(selector.scores.grad, weights(*wanted, grad=False))
    assert selector.select(weight).tolist() == [False, True, False, True]  # the two of largest p
    rate = torch.stack([selector.sample(weight) for _ in range(4000)]).double().mean(0)
    torch.testing.assert_close(rate, weights(*p, grad=False), atol=0.03, rtol=0)


def test_supermask_without_k():
    rounded = ng.selectors.create("supermask")
    weight = bind(rounded, Weights((1, 3)), weights(1, 2, 3))
    rounded.scores.data = weights(-1e-9, 0, 1e-9).data
    assert rounded.select(weight).tolist() == [False, True, True] and rounded.num_real == 2
    drawn = ng.selectors.Supermask(evaluation="sample")
    weight = bind(drawn, Weights((100, 100)), torch.ones(10_000))
    drawn.scores.data.fill_(math.log(3))
    assert torch.equal(drawn.select(weight), drawn.select(weight))
    assert drawn.num_real == drawn.select(weight).sum() and abs(drawn.num_real - 7500) < 200


def test_supermask_of_kernels_rescaled_signed_constants():
    """Of each layer's weights sgn(w) std, times the number of its candidates over that of its real ones."""
    selector = ng.selectors.Supermask(3, weights="signed-constant", rescale=True)
    parts = [Weights((2, 2, 2), "kernel"), Weights((1, 2), "kernel")]
    values = weights(1, -2, 3, 4, -5, 6, 7, -8, 0.5, -0.25)
    first, second = values.detach().clone().split([8, 2])
    weight = bind(selector, Joined(parts), values)
    size = [(part - part.mean()).square().mean().sqrt().item() for part in (first, second)]
    assert weight.tolist() == pytest.approx([size[0] * s for s in (1, -1, 1, 1, -1, 1, 1, -1)] +
                                            [size[1], -size[1]])
    selector.scores.data = weights(3, 0, 0, 4, -1, 5).data
    selection = through(selector, weight, torch.arange(1.0, 11.0))
    assert selection.real.tolist() == [True, False, False, True, False, True]
    factor = torch.tensor([2.0] * 2 + [0] * 4 + [2] * 2 + [0, 2], dtype=torch.float64)  # 4 / 2 and 2 / 1
    torch.testing.assert_close(selection.weight, weight * factor)
    p = [1 / (1 + math.exp(-s)) for s in (3, 0, 0, 4, -1, 5)]
    g = (torch.arange(1.0, 11.0) * weight * 2).tolist()
    total = [g[0] + g[1], g[2] + g[3], g[4] + g[5], g[6] + g[7], g[8], g[9]]  # over the weights of a kernel
    assert selector.scores.grad.tolist() == pytest.approx([t * q * (1 - q) for t, q in zip(total, p)])


@pytest.mark.parametrize("scaled, share", [(True, 0.1), (False, 1)])
def test_edge_popup_starts_as_written(scaled, share):
    """+-sqrt(2 / fan-in), fan-in times density if scaled; scores uniform within 1 / sqrt(fan-in)."""
    layer, first = Weights((40, 20, 3, 3)), torch.randn(7200)
    for how in ("signed-constant", "kaiming-normal"):
        selector = ng.selectors.EdgePopup(720, weights=how, scaled=scaled)
        weight = bind(selector, layer, first.clone())
        size = math.sqrt(2 / (180 * share))
        if how == "signed-constant":
            torch.testing.assert_close(weight, size * first.sign())
        else:
            assert weight.std().item() == pytest.approx(size, rel=0.04) and abs(weight.mean()) < 0.05 * size
        assert selector.scores.abs().max() <= 180**-0.5 < 1.01 * selector.scores.abs().max()
        assert selector.scores.std().item() == pytest.approx(180**-0.5 / 3**0.5, rel=0.03)


def test_scores_alone_are_trained_in_a_graph():
    function = ng.NodeFunction("norm activation conv")
    net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 6, 2], function), ng.selectors.EdgePopup(15))
    model = nn.Sequential(nn.Conv2d(3, 3, 1), net, nn.BatchNorm2d(2))
    kernel = net.functions.groups[0].send[2].weight
    sign = kernel.detach().sign()
    net.functions.groups[0].send[0].weight.data.fill_(3)
    before = [parameter.detach().clone() for parameter in model[0].parameters()]
    train_scores_only(model)
    torch.testing.assert_close(kernel.detach(), sign * math.sqrt(2 / 9))
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["1.selector.scores"]
    norm = net.functions.groups[0].send[0]
    assert norm.weight.eq(1).all() and norm.bias.eq(0).all()
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0, weight_decay=1e-2)
    frozen = {name: value.clone() for name, value in model.named_parameters() if "scores" not in name}
    scores = net.selector.scores.detach().clone()
    for _ in range(3):
        model(torch.randn(4, 3, 6, 6)).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(value, dict(model.named_parameters())[name]) for name, value in frozen.items())
    assert all(map(torch.equal, before, model[0].parameters())) and not torch.equal(scores, net.selector.scores)


def test_scores_alone_are_trained_in_layers():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8))
    model[1].weight.data.fill_(2), model[4].bias.data.fill_(1)
    model = ng.sparsify(model, 0.5, selector="supermask", first_layer_dense=False)
    train_scores_only(model)
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == [
        "0.selector.scores", "3.selector.scores"]
    assert model[1].weight.eq(1).all() and model[4].bias.eq(0).all()


def test_a_step_of_supermask_and_edge_popup():
    def set_scores(selector):
        selector.scores.copy_(torch.tensor([2.0, -3.0, 1.0, 0.0]))
    net, _ = one_step(ng.selectors.Supermask(2), prepare=set_scores)
    p = [1 / (1 + math.exp(-s)) for s in (2, -3, 1, 0)]
    assert net.weight.tolist() == W
    assert net.selector.scores.tolist() == pytest.approx(
        [s - 0.5 * g * w * q * (1 - q) for s, g, w, q in zip((2, -3, 1, 0), G, W, p)])
    assert net.selection().real.tolist() == [True, False, True, False]
    net, y = one_step(ng.selectors.EdgePopup(2), prepare=set_scores)
    assert y == 0.5 - 2 and net.weight.tolist() == W
    assert net.selector.scores.tolist() == pytest.approx(
        [s - 0.5 * g * w * sign for s, g, w, sign in zip((2, -3, 1, 0), G, W, (1, -1, 1, 0))])
