"""Soft thresholds against their written formula."""

import math

import pytest
import torch
from selecting import bind, one_step, through, weights
from torch import nn

import neuralgraph as ng
from neuralgraph.selectors import Weights


def test_str_by_hand():
    """t = sigmoid(-1): sgn(w) max(|w| - t, 0); dL/ds = -t (1 - t) sum of g sgn(w) over what is left."""
    selector = ng.selectors.SoftThreshold(start=-1.0)
    weight = bind(selector, Weights((1, 4)), weights(0.1, -0.5, 2.0, -0.2))
    t = 1 / (1 + math.e)
    selection = through(selector, weight, [1, 2, 3, 4])
    assert selection.weight.tolist() == pytest.approx([0, -0.5 + t, 2 - t, 0])
    assert weight.grad.tolist() == [0, 2, 3, 0]
    assert selector.threshold.grad.tolist() == pytest.approx([-t * (1 - t) * (3 - 2)])
    assert selection.real.tolist() == [False, True, True, False] and not selection.reaches_all
    assert selector.num_real is None


def test_str_with_k_by_hand():
    """t is the largest |w| that is not real, per group, and no gradient goes to it."""
    selector = ng.selectors.SoftThreshold(2, per="node")
    weight = bind(selector, Weights((2, 3)), weights(0.1, -0.5, 2.0, -4, 7, 5))
    selection = through(selector, weight, [1, 2, 3, 4, 5, 6])
    assert selection.weight.tolist() == [0, 0, 1.5, 0, 2, 0]
    assert weight.grad.tolist() == [0, 0, 3, 0, 5, 0] and not list(selector.parameters())


def test_str_has_one_threshold_per_layer():
    layers = [nn.Linear(4, 4), nn.Linear(4, 6)]
    model = ng.sparsify(nn.Sequential(*layers), None, selector="str", per="model", first_layer_dense=False,
                        selector_options={"start": -3.0})
    selector = model[0].selector
    assert selector.threshold.shape == (2,)
    with torch.no_grad():
        selector.threshold.copy_(torch.tensor([-1.0, -50.0]))
    t = 1 / (1 + math.e)
    weight = model[0].weight
    torch.testing.assert_close(model[0].effective_weight(), weight.sign() * (weight.abs() - t).clamp(min=0))
    torch.testing.assert_close(model[1].effective_weight(), model[1].weight)
    assert model[0].k == (weight.abs() > t).sum() and model[1].k == 24


@pytest.mark.parametrize("k", [None, 3])
def test_str_of_kernels_has_the_derivative_of_its_own(k):
    """w (1 - t / |w|) of a kernel's norm: against differences."""
    selector = ng.selectors.SoftThreshold(k, **{} if k else {"start": 0.0})
    weight = bind(selector, Weights((2, 2, 3), "kernel"), torch.randn(12, dtype=torch.float64).requires_grad_())
    with torch.no_grad():
        weight[:3] *= 0.01
    parameters = [weight, *selector.parameters()]
    real = selector.select(weight)
    assert torch.autograd.gradcheck(lambda *_: selector.effective(weight, real)[selector.candidates.spread(real)],
                                    parameters) if k is None else True
    size = weight.detach().view(4, 3).norm(dim=1)
    t = 0.5 if k is None else size.sort().values[0]
    wanted = weight.detach().view(4, 3) * ((size - t).clamp(min=0) / size)[:, None]
    torch.testing.assert_close(selector.effective(weight, real).detach(), wanted.flatten())


def test_a_step_of_str():
    def half(selector):
        selector.threshold.fill_(0)
    net, y = one_step(ng.selectors.SoftThreshold(), prepare=half)  # t = 1/2: 0.5 is not above it
    assert y == pytest.approx(2 * -0.5 + 3 * 1.5)
    assert net.weight.tolist() == pytest.approx([0.5, -1 - 0.5 * 0.2, 0.25, 2 - 0.5 * 0.3])
    assert net.selector.threshold.item() == pytest.approx(0.5 * 0.25 * (0.3 - 0.2))
    assert net.num_real == 2
    net, y = one_step(ng.selectors.SoftThreshold(3))  # t = 0.25
    assert y == pytest.approx(0.25 + 2 * -0.75 + 3 * 1.75)
    assert net.weight.tolist() == pytest.approx([0.5 - 0.05, -1 - 0.1, 0.25, 2 - 0.15]) and net.num_real == 3
