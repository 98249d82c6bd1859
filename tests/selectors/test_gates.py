"""Learned gates, masks and thresholds against their written formulas."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from selecting import UNIT, bind, weights
from torch import nn

import neuralgraph as ng
from neuralgraph.selectors import Joined, Weights, spartan, train_scores_only

LINEAR = ng.NodeFunction()


def at(selector, step, total):
    """The selector as after that many steps."""
    selector.clock.copy_(torch.tensor([step, total]))
    return selector


def through(selector, weight, gradient, sampled=False):
    """Effective weights of one forward, once ``gradient`` went back through them."""
    real = (selector.sample if sampled else selector.select)(weight.detach())
    selection = selector.weighted(weight, real)
    selection.weight.backward(torch.as_tensor(gradient, dtype=weight.dtype))
    return selection


# Supermask and edge-popup


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


# Soft thresholds


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


# Spartan


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


# Top-KAST


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


# One step on a graph of a few edges: x into each, y = their sum, loss = c y, weights after plain SGD of rate 0.5
X, COST = [1.0, 2.0, -1.0, 3.0], 0.1
G = [COST * x for x in X]
W = [0.5, -1.0, 0.25, 2.0]


def one_step(selector, total_steps=10, prepare=None):
    wiring = ng.wirings.chain([4, 1], LINEAR)
    net = ng.StaticNeuralGraph(wiring, selector, dims=0, dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(torch.tensor(W))
        if prepare:
            prepare(net.selector)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    ng.rewire(net, optimizer, total_steps=total_steps)
    y = net(torch.tensor([X], dtype=torch.float64))
    (COST * y).sum().backward()
    optimizer.step()
    return net, y.item()


def test_a_step_of_top_kast():
    net, y = one_step(ng.selectors.TopKAST(1, backward=0.3, strength=0.01))  # M = 1 of 3: edge 1
    assert y == 6.0
    # gradients 0.3 + 0.02 * 2 and 0.2 + 0.02 * 4 * -1
    assert net.weight.tolist() == pytest.approx([0.5, -1 - 0.5 * 0.12, 0.25, 2 - 0.5 * 0.34])
    assert net.selection().real.tolist() == [False, False, False, True]


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


def test_a_step_of_spartan():
    """Before the first step all are real and m is 1: a step of the dense network."""
    net, y = one_step(ng.selectors.Spartan(2), total_steps=2)
    assert y == pytest.approx(sum(x * w for x, w in zip(X, W)))
    after = [w - 0.5 * g for w, g in zip(W, G)]
    assert net.weight.tolist() == pytest.approx(after)
    assert net.selection().real.tolist() == [False, True, False, True]
    m = as_written(torch.tensor(after, dtype=torch.float64).abs(), 2, 1 + 19 * 0.5 / 0.8)
    torch.testing.assert_close(net.selection().weight[[1, 3]].detach(), (torch.tensor(after).double() * m)[[1, 3]])


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
