"""Learned gates, L0 and variational dropout, against their written formulas."""

import math

import pytest
import torch
from selecting import G, W, X, bind, one_step, through, weights

import neuralgraph as ng
from neuralgraph.selectors import Weights

# L0


def l0_gate(s):
    return min(1.0, max(0.0, s * 1.2 - 0.1))


def test_l0_by_hand():
    selector = ng.selectors.L0(strength=0.5)
    weight = bind(selector, Weights((2, 3)), weights(1, -2, 3, -4, 5, -6))
    values = [0.5, -3.0, 4.0, 0.0, -1.0, 1.0]
    selector.log_alpha.data = weights(*values).data
    torch.manual_seed(2)
    u = torch.rand(6, dtype=torch.float64).tolist()
    torch.manual_seed(2)
    g = [1.0, 2, 3, 4, 5, 6]
    selection = through(selector, weight, g, sampled=True)
    s = [1 / (1 + math.exp(-(math.log(q) - math.log(1 - q) + a) * 1.5)) for q, a in zip(u, values)]
    z = [l0_gate(value) for value in s]
    assert 0.0 in z and any(0 < value < 1 for value in z)
    assert selection.weight.tolist() == pytest.approx([a * b for a, b in zip(weight.tolist(), z)])
    assert selection.real.tolist() == [value > 0 for value in z] and not selection.reaches_all
    assert weight.grad.tolist() == pytest.approx([a * b for a, b in zip(g, z)])
    slope = [1.2 * 1.5 * a * (1 - a) if 0 < b < 1 else 0.0 for a, b in zip(s, z)]
    assert selector.log_alpha.grad.tolist() == pytest.approx(
        [a * b * c for a, b, c in zip(g, weight.tolist(), slope)])
    # in evaluation without noise: log alpha = -3 is closed
    z = [l0_gate(1 / (1 + math.exp(-a))) for a in values]
    real = selector.select(weight)
    assert real.tolist() == [True, False, True, True, True, True] and selector.num_real == 5
    assert selector.weighted(weight, real).weight.tolist() == pytest.approx([a * b for a, b in zip(weight.tolist(), z)])


def test_l0_penalty_is_the_expected_number_of_open_gates():
    selector = ng.selectors.L0(strength=0.5)
    weight = bind(selector, Weights((1, 4)), torch.ones(4, dtype=torch.float64))
    values = [-3.0, -1.0, 0.0, 2.0]
    selector.log_alpha.data = weights(*values).data
    p = [1 / (1 + math.exp(-(a - 2 / 3 * math.log(0.1 / 1.1)))) for a in values]
    penalty = selector.penalty(weight)
    penalty.backward()
    assert penalty.item() == pytest.approx(0.5 * sum(p))
    assert selector.log_alpha.grad.tolist() == pytest.approx([0.5 * q * (1 - q) for q in p])
    rate = torch.stack([selector.sample(weight) for _ in range(4000)]).double().mean(0)
    assert rate.tolist() == pytest.approx(p, abs=0.03)


def test_l0_starts_open_or_closed_and_stays_within_bounds():
    selector = ng.selectors.L0(drop=0.3)
    bind(selector, Weights((100, 100)), torch.ones(10_000))
    assert selector.log_alpha.mean().item() == pytest.approx(math.log(7 / 3), abs=1e-3)
    assert selector.log_alpha.std().item() == pytest.approx(0.01, rel=0.05)
    with torch.no_grad():
        selector.log_alpha[:2] = torch.tensor([-50.0, 50.0])
    selector.advance(1, 10, torch.ones(10_000))
    assert selector.log_alpha[:2].tolist() == pytest.approx([-math.log(100), math.log(100)])


# Variational dropout


def test_variational_dropout_by_hand():
    """w + sigma sgn(w) e: the derivative to w is 1, to log sigma^2 sigma sgn(w) e / 2."""
    selector = ng.selectors.VariationalDropout(strength=2.0)
    weight = bind(selector, Weights((1, 4)), weights(1, -2, 3, 0.5))
    assert selector.log_variance.tolist() == [-10.0] * 4
    variance = [0.0, 1.0, -2.0, 6.0]  # log alpha 0, -0.386, -4.197, 7.386
    selector.log_variance.data = weights(*variance).data
    torch.manual_seed(1)
    e = torch.randn(4, dtype=torch.float64).tolist()
    torch.manual_seed(1)
    selection = through(selector, weight, [1, 2, 3, 4], sampled=True)
    shift = [math.exp(v / 2) * math.copysign(q, w * q) for v, q, w in zip(variance, e, weight.tolist())]
    assert selection.real.all()
    assert selection.weight.tolist() == pytest.approx([w + s for w, s in zip(weight.tolist(), shift)], rel=1e-6)
    assert weight.grad.tolist() == pytest.approx([1, 2, 3, 4], rel=1e-6)
    assert selector.log_variance.grad.tolist() == pytest.approx([g * s / 2 for g, s in zip((1, 2, 3, 4), shift)], rel=1e-6)
    log_alpha = [v - math.log(w * w) for v, w in zip(variance, weight.tolist())]
    divergence = [0.63576 - 0.63576 / (1 + math.exp(-1.8732 - 1.48695 * a)) + 0.5 * math.log(1 + math.exp(-a))
                  for a in log_alpha]
    assert selector.penalty(weight).item() == pytest.approx(2 * sum(divergence), rel=1e-6)
    assert selector.select(weight).tolist() == [True, True, True, False]  # log alpha >= 3
    assert selector.num_real is None
    assert selector.weighted(weight, selector.select(weight)).weight.tolist() == [1, -2, 3, 0]
    exact = ng.selectors.VariationalDropout(2)
    bind(exact, Weights((1, 4)), weight)
    exact.log_variance.data = weights(*variance).data
    assert exact.select(weight).tolist() == [False, True, True, False] and exact.num_real == 2


def test_variational_dropout_of_zeros_and_of_kernels():
    """alpha is at most e^8 and gradients stay finite; one draw for all of a kernel."""
    selector = ng.selectors.VariationalDropout()
    weight = bind(selector, Weights((2, 1, 2), "kernel"), weights(3, 4, 0, 0))
    selector.log_variance.data = weights(math.log(25), 0).data  # of 3 and 4: alpha = 1
    torch.manual_seed(1)
    e = torch.randn(2, dtype=torch.float64)[0].item()
    torch.manual_seed(1)
    selection = through(selector, weight, [1, 1, 1, 1], sampled=True)
    assert selection.weight.tolist() == pytest.approx([3 + 3 * e, 4 + 4 * e, 0, 0], rel=1e-6)
    selector.penalty(weight).backward()
    assert weight.grad.isfinite().all() and selector.log_variance.grad.isfinite().all()
    assert selector.select(weight).tolist() == [True, False]


def test_a_step_of_l0_and_variational_dropout():
    def opened(selector):
        selector.log_alpha.fill_(4.0)  # gates of 1 whatever is drawn here
    torch.manual_seed(0)
    net, y = one_step(ng.selectors.L0(strength=0.1), prepare=opened)
    assert y == pytest.approx(sum(x * w for x, w in zip(X, W)))
    assert net.weight.tolist() == pytest.approx([w - 0.5 * g for w, g in zip(W, G)])
    q = 1 / (1 + math.exp(-(4 - 2 / 3 * math.log(0.1 / 1.1))))
    assert net.selector.log_alpha.tolist() == pytest.approx([4 - 0.5 * 0.1 * q * (1 - q)] * 4)
    torch.manual_seed(0)
    e = torch.randn(4, dtype=torch.float64).tolist()
    torch.manual_seed(0)
    net, y = one_step(ng.selectors.VariationalDropout(strength=0), prepare=lambda own: own.log_variance.fill_(-2))
    noise = [math.exp(-1) * math.copysign(q, q * w) for q, w in zip(e, W)]
    assert y == pytest.approx(sum(x * (w + n) for x, w, n in zip(X, W, noise)), rel=1e-6)
    assert net.weight.tolist() == pytest.approx([w - 0.5 * g for w, g in zip(W, G)], rel=1e-5)
    assert net.selector.log_variance.tolist() == pytest.approx([-2 - 0.25 * g * n for g, n in zip(G, noise)])
