"""Soft top-k against the transport problem and the written iteration."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from selecting import G, W, X, at, bind, one_step, through, weights

import neuralgraph as ng
from neuralgraph.selectors import Weights, spartan


def by_bisection(score, k, beta):
    """m = sigmoid(beta score + c) with the c at which it sums up to k."""
    low, high = -1e4, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        total = (beta * score + middle).sigmoid().sum()
        low, high = (middle, high) if total < k else (low, middle)
    return (beta * score + low).sigmoid()


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 9), beta=st.sampled_from([1.0, 5.0, 20.0]))
def test_soft_top_k_solves_the_transport_problem(seed, k, beta):
    score = torch.rand(10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    groups = ng.selectors.competition.Whole(10, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spartan, "TOLERANCE", 1e-13)
        patch.setattr(spartan, "ITERATIONS", 10_000)
        m = spartan.soft_top_k(score, groups, groups.keep, beta)
    torch.testing.assert_close(m, by_bisection(score, k, beta), rtol=1e-8, atol=1e-10)


def as_written(score, k, beta):
    """The iteration, letter by letter."""
    z, mu = beta * (score - score.sort().values[-k]), torch.zeros((), dtype=torch.float64)
    nu = -torch.nn.functional.softplus(z)
    for _ in range(100):
        old, mu = mu, math.log(k) - torch.logsumexp(z + nu, 0)
        nu = -torch.nn.functional.softplus(z + mu)
        if abs(mu - old) <= 0.01 * abs(mu):
            break
    return (z + mu + nu).exp()


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 9))
def test_soft_top_k_is_the_written_iteration(seed, k):
    score = torch.rand(10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    groups = ng.selectors.competition.Whole(10, k)
    torch.testing.assert_close(spartan.soft_top_k(score, groups, groups.keep, 7.0), as_written(score, k, 7.0))


def test_soft_top_k_of_none_and_of_all():
    groups = ng.selectors.competition.Groups(torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 2, 1]))
    m = spartan.soft_top_k(torch.rand(6), groups, groups.keep, 3.0)
    assert m.tolist() == [0, 0, 0, 1, 1, 1]


def spartan_m(weight, kind, k, beta):
    if kind == "group":  # two nodes share two of three parents, of largest sum
        return by_bisection(weight.abs().view(2, 3).sum(0), k // 2, beta).repeat(2)
    if kind == "node":
        return torch.cat([by_bisection(part, k // 2, beta) for part in weight.abs().view(2, 3)])
    if kind == "kernel":
        return by_bisection(weight.view(3, 2).norm(dim=1), k, beta).repeat_interleave(2)
    return by_bisection(weight.abs(), k, beta)


@pytest.mark.parametrize("kind", ["layer", "node", "group", "kernel"])
def test_spartan_has_the_derivative_of_w_m(kind, monkeypatch):
    """Forward w m of the k largest; backward, with all of w m, as differences of a solved problem have it."""
    monkeypatch.setattr(spartan, "TOLERANCE", 1e-13)
    monkeypatch.setattr(spartan, "ITERATIONS", 10_000)
    k, shape = {"layer": 2, "node": 2, "group": 4, "kernel": 1}[kind], (2, 3)
    options = {"node": {"per": "node"}, "group": {"per": "group", "group": 2}}.get(kind, {})
    selector = ng.selectors.Spartan(k, sharpest=6.0, end=0.9, **options)
    candidates = Weights((1, 3, 2), "kernel") if kind == "kernel" else Weights(shape)
    weight = bind(selector, candidates, weights(0.3, -1.2, 0.9, -0.5, 0.4, 1.0))
    at(selector, 45, 100)
    beta, g = 1 + 5 * 0.5, torch.tensor([1.0, -2, 3, 4, -5, 6], dtype=torch.float64)
    selection = through(selector, weight, g)
    m, real = spartan_m(weight.detach(), kind, k, beta), candidates.spread(selection.real)
    assert selection.real.sum() == k == selector.num_real and m[real].min() > m[~real].max() and selection.reaches_all
    torch.testing.assert_close(selection.weight.detach(), weight.detach() * m * real, rtol=1e-8, atol=1e-10)
    for index in range(6):
        moved = [weight.detach().clone() for _ in range(2)]
        moved[0][index] -= 1e-5
        moved[1][index] += 1e-5
        low, high = ((g * w * spartan_m(w, kind, k, beta)).sum() for w in moved)
        assert weight.grad[index].item() == pytest.approx(((high - low) / 2e-5).item(), rel=1e-6, abs=1e-8)


def test_spartan_hardens_to_the_k_largest(monkeypatch):
    """With a large b, w 1{real} forward and g 1{real} backward: DNW's network, and the No Update Rule's gradient."""
    monkeypatch.setattr(spartan, "TOLERANCE", 1e-13)
    monkeypatch.setattr(spartan, "ITERATIONS", 10_000)
    selector = ng.selectors.Spartan(3, sharpest=1e5)
    weight = bind(selector, Weights((2, 5)), torch.randn(10, dtype=torch.float64).requires_grad_())
    at(selector, 79, 100)
    g = torch.randn(10, dtype=torch.float64)
    selection, twin = through(selector, weight, g), ng.TopK(3)
    bind(twin, Weights((2, 5)), weight)
    assert torch.equal(selection.real, twin.select(weight))
    torch.testing.assert_close(selection.weight, twin.weighted(weight, selection.real).weight, rtol=1e-3, atol=0)
    torch.testing.assert_close(weight.grad, g * selection.real, rtol=1e-3, atol=1e-3)


def test_spartan_follows_its_schedule_and_freezes():
    """k falls from all to k by 20 %, b rises from 1 to 20 by 80 %, then m stays."""
    selector = ng.selectors.Spartan(10)
    bind(selector, Weights((1, 100)), torch.randn(100))
    assert selector.num_real == 100 and selector.sharpness == 1
    for step in range(1, 101):
        weight = torch.randn(100, generator=torch.Generator().manual_seed(step))
        selector.advance(step, 100, weight)
        assert selector.select(weight).sum() == 10 + math.ceil(90 * max(0, 1 - step / 20) - 1e-9) == selector.num_real
        assert selector.sharpness == pytest.approx(1 + 19 * min(1, step / 80))
        if step == 80:
            kept, m = selector.select(weight), as_written(weight.abs().double(), 10, 20.0)
            assert torch.equal(kept, weight.abs() >= weight.abs().sort().values[-10])
        assert selector.is_frozen == (step >= 80)
        assert selector.reaches_all == (step < 80)
    assert torch.equal(selector.select(weight), kept)
    weight = weight.requires_grad_()
    selection = through(selector, weight, torch.ones(100))
    torch.testing.assert_close(selection.weight.detach(), (weight.detach() * m * kept).float())
    torch.testing.assert_close(weight.grad, (m * kept).float())


def test_a_step_of_spartan():
    """Before the first step all are real and m is 1: a step of the dense network."""
    net, y = one_step(ng.selectors.Spartan(2), total_steps=2)
    assert y == pytest.approx(sum(x * w for x, w in zip(X, W)))
    after = [w - 0.5 * g for w, g in zip(W, G)]
    assert net.weight.tolist() == pytest.approx(after)
    assert net.selection().real.tolist() == [False, True, False, True]
    m = as_written(torch.tensor(after, dtype=torch.float64).abs(), 2, 1 + 19 * 0.5 / 0.8)
    torch.testing.assert_close(net.selection().weight[[1, 3]].detach(), (torch.tensor(after).double() * m)[[1, 3]])
