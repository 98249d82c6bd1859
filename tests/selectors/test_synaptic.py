"""Synaptic strength: which edges and kernels carry most, and what its penalty does."""

import copy
import importlib.util
import json
import warnings

import pytest
import torch
from checkout import ROOT
from graphs import drawn, graph_with
from strengths import three
from torch import nn

import neuralgraph as ng
from neuralgraph import NodeFunction
from neuralgraph.errors import InputError, SelectionError, UnknownNameError
from neuralgraph.selectors import SynapticStrength, Weights


@pytest.mark.parametrize("score, strength", [
    ("full", [2.0, 6, 6, 3]), ("weight-kernel", [0.5, 6, 1.5, 3]), ("weight", [1.0, 2, 3, 1]), ("scale", [4.0, 1, 4, 1])])
def test_the_written_scores(score, strength):
    """|w| ||theta|| |gamma|, by hand; ties go to the higher number."""
    net, _ = three(score)
    assert net.selector.strength_of(net.weight).tolist() == strength
    order = sorted(range(4), key=lambda edge: (strength[edge], edge))
    assert net.selection().real.nonzero().flatten().tolist() == sorted(order[2:])
    assert torch.equal(ng.analysis.strengths(net, score), torch.tensor(strength, dtype=torch.float64))


def test_one_step_by_hand():
    """Gradients reach all weights as of w, and the penalty's all factors; then the largest strengths are others."""
    net, group = three(k=2, strength=0.1)
    kernel, gamma = group.send[2].weight, group.send[0].weight
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    ng.rewire(net, optimizer, total_steps=1)
    x = torch.randn(4, 2, 1, 3, dtype=torch.float64)
    message = (torch.relu(nn.functional.batch_norm(x, None, None, gamma.detach(), None, True)) *
               kernel.detach().view(1, 2, 1, 1))
    real = torch.tensor([0.0, 1, 1, 0], dtype=torch.float64)
    y = net(x)
    torch.testing.assert_close(y, torch.stack([-2 * message[:, 1], 3 * message[:, 0]], 1))
    loss = y.square().sum()
    loss.backward()
    cotangent = 2 * y.detach()
    data = torch.stack([(message[:, u] * cotangent[:, v]).sum() for u, v in ((0, 0), (1, 0), (0, 1), (1, 1))])
    torch.testing.assert_close(net.weight.grad, data)
    from_data = kernel.grad.clone(), gamma.grad.clone()
    before = net.weight.detach().clone()
    size, signs = before.abs(), before.sign()
    optimizer.step()
    # d/dw sum s = sgn(w) ||theta|| |gamma|; d/dtheta = sgn(theta) |gamma| sum |w|; d/dgamma likewise
    torch.testing.assert_close(net.weight.detach(), before - data - 0.1 * signs * torch.tensor([2.0, 3, 2, 3]).double())
    out = torch.stack([size[0] + size[2], size[1] + size[3]])
    torch.testing.assert_close(kernel.grad.flatten(), from_data[0].flatten() + 0.1 * torch.tensor([1.0, -1]) *
                               torch.tensor([4.0, 1]).double() * out)
    torch.testing.assert_close(gamma.grad, from_data[1] + 0.1 * torch.tensor([-1.0, 1]) * torch.tensor([0.5, 3]).double()
                               * out)
    strength = net.weight.abs() * (kernel.flatten().abs() * gamma.abs())[net.wiring.src]
    assert net.selection().real.sum() == 2
    assert strength[net.selection().real].min() >= strength[~net.selection().real].max()
    assert real.sum() == 2


def test_the_penalty_of_slimming_counts_a_node_once():
    net, _ = three("scale", strength=0.5)
    assert net.selector.penalty(net.weight).item() == 0.5 * (4 + 1)
    assert three("weight", strength=0.5)[0].selector.penalty(net.weight).item() == 0.5 * 7
    assert three(strength=0.0)[0].selector.penalty(net.weight) is None


def test_factors_before_a_norm_do_not_count():
    """It undoes them; and what inputs of a static graph receive does not act."""
    wiring = ng.wirings.chain([2, 2, 1], NodeFunction("norm", "conv norm activation", norm="instance"))
    net = drawn(ng.StaticNeuralGraph(wiring, ng.Complete()))
    assert torch.equal(net.functions.gain()[:4], net.functions.groups[0].send[0].weight.abs())
    wiring = ng.wirings.chain([2, 2, 1], NodeFunction("activation", "conv"))
    net = drawn(ng.StaticNeuralGraph(wiring, ng.Complete()))
    kernel = net.functions.groups[0].receive[0].weight.flatten(1).norm(dim=1)
    assert torch.equal(net.functions.gain(), torch.cat([torch.ones(2), kernel[2:], torch.ones(1)]))


@pytest.mark.parametrize("what", ["kernel", "gamma", "through data"])
def test_a_selection_notices_kernels_and_norms(what):
    """In evaluation it is kept until the strengths change, not only the weights."""
    net, group = three(k=1)
    net.eval()
    assert net.selection().real.tolist() == [False, False, True, False]
    with torch.no_grad():
        if what == "kernel":
            group.send[2].weight[1] = 30
        elif what == "gamma":
            group.send[0].weight[1] = 10
        else:
            group.send[0].weight.data[1] = 10
    assert net.selection().real.tolist() == [False, True, False, False]


def test_untied_steps_have_the_mean_of_their_scales():
    wiring = ng.wirings.complete(5, inputs=1, outputs=1, function=NodeFunction("norm activation"))
    net = ng.DiscreteTimeNeuralGraph(wiring, SynapticStrength(k=6), steps=2, tied=False)
    drawn(net)
    with torch.no_grad():
        for value in net.later_functions.parameters():
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    gain = (net.functions.gain() + net.later_functions[0].gain()) / 2
    torch.testing.assert_close(net.selector.strength_of(net.weight), net.weight.abs() * gain[wiring.src])
    again = copy.deepcopy(net)
    again.later_functions[0].groups[0].send[0].weight.data.mul_(9)
    assert not torch.equal(again.selector.strength_of(net.weight), net.selector.strength_of(net.weight))


def test_measured_strength_is_the_weight_times_the_spread_of_what_is_sent():
    wiring = ng.wirings.blocks([2, 3, 2], NodeFunction("norm activation conv", activation="tanh"))
    net = drawn(ng.StaticNeuralGraph(wiring, ng.Complete(), dtype=torch.float64)).eval()
    batches = [torch.randn(size, 2, 5, 5, dtype=torch.float64) for size in (4, 2)]
    measured = ng.analysis.strengths(net, "measured", batches=batches)
    sent = net.functions.send(0, net.functions.rows(torch.arange(2)), torch.cat(batches))
    torch.testing.assert_close(measured[wiring.src == 0], net.weight.abs()[wiring.src == 0] * sent[:, 0].std(correction=0))
    assert measured.shape == (wiring.num_edges,)
    with pytest.raises(InputError, match="batches"):
        ng.analysis.strengths(net, "measured")


def test_tau_keeps_what_is_at_least_as_strong():
    net, _ = three(k=None, tau=3.0)
    assert net.selection().real.tolist() == [False, True, True, True] and net.selector.num_real == 3
    net.selector.tau = 6.0
    assert net.selection().real.sum() == net.selector.num_real == 2
    net.selector.tau = 6.1
    with pytest.raises(SelectionError, match="tau=6.1 is above all strengths, of which the largest is 6: nothing would"):
        net(torch.zeros(1, 2, 3, 3, dtype=torch.float64))
    net.selector.tau, net.selector.k = None, 1
    assert net.selection().real.sum() == 1


@pytest.mark.parametrize("make, error, message", [
    (lambda: SynapticStrength(), SelectionError, "needs k.*or tau"),
    (lambda: SynapticStrength(k=3, tau=0.1), SelectionError, "and the other None; got k=3, tau=0.1"),
    (lambda: SynapticStrength(k=2.5), SelectionError, "must be an integer, got 2.5"),
    (lambda: SynapticStrength(tau=-1), SelectionError, "tau must be a number, expected at least 0"),
    (lambda: SynapticStrength(tau=float("nan")), SelectionError, "tau must be a number"),
    (lambda: SynapticStrength(k=3, strength=-1), SelectionError, "strength must be a number, expected at least 0"),
    (lambda: SynapticStrength(k=3, score="kernel"), UnknownNameError, "did you mean 'weight-kernel'"),
    (lambda: SynapticStrength(tau=1.0, per="node"), SelectionError, "without k nothing competes"),
    (lambda: ng.sparsify(nn.Linear(4, 4), 0.5, selector="synaptic-strength", first_layer_dense=False,
                         selector_options={"score": "scale"}), SelectionError, "is for graphs"),
    (lambda: ng.sparsify(nn.Linear(4, 4), 0.5, selector="synaptic-strength", first_layer_dense=False,
                         selector_options={"tau": 0.1}), SelectionError, "k=8, tau=0.1"),
    (lambda: ng.sparsify(nn.Linear(4, 4), None, selector="synaptic-strength", first_layer_dense=False,
                         selector_options={"tau": 9.0})(torch.zeros(1, 4)), SelectionError, "above all strengths"),
    (lambda: ng.sparsify(nn.Linear(4, 4), None, first_layer_dense=False), InputError, "'dnw' needs a density"),
    (lambda: ng.sparsify(nn.Linear(4, 4), None, first_layer_dense=False, budget="erdos-renyi-kernel",
                         selector="synaptic-strength", selector_options={"tau": 0.1}), InputError,
     "density map or none"),
])
def test_bad_settings(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_penalty_that_nobody_adds_is_told():
    net, _ = three()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="SynapticStrength adds a penalty to the loss, but nobody asks.*neuralgraph.rewire"):
        for _ in range(2):
            net(torch.randn(2, 2, 3, 3, dtype=torch.float64)).square().mean().backward()
            optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet, _ = three(strength=0.0)
        optimizer = torch.optim.SGD(quiet.parameters(), lr=0.1)
        for _ in range(2):
            quiet(torch.randn(2, 2, 3, 3, dtype=torch.float64)).square().mean().backward()
            optimizer.step()


def test_the_penalty_reaches_what_an_optimizer_trains():
    net, group = three(strength=0.1)
    ng.rewire(net, first := torch.optim.SGD([net.weight], lr=1.0), total_steps=3)
    net(torch.zeros(2, 2, 3, 3, dtype=torch.float64)).sum().backward()
    group.send[0].weight.grad.zero_()
    first.step()
    assert not group.send[0].weight.grad.any()  # nobody trains it
    net, group = three(strength=0.1)
    parts = [torch.optim.SGD([net.weight], lr=1.0), torch.optim.SGD(net.functions.parameters(), lr=1.0)]
    with pytest.raises(InputError, match="only a part of the weights"):
        ng.rewire(net, parts, total_steps=3)


# In layers


def test_strengths_of_kernels_by_hand():
    """s K / ||K|| of the k largest |s|; gradients of s and K through the written formula, and lambda sgn(s)."""
    selector = SynapticStrength(k=2, strength=0.25)
    weight = torch.tensor([3.0, 4, 0, 2, 6, 8], dtype=torch.float64, requires_grad=True)  # norms 5, 2, 10
    selector.bind(Weights((3, 1, 2), "kernel"), weight, torch.Generator())
    assert selector.strengths.tolist() == [5, 2, 10] and selector.strengths.dtype == torch.float64
    with torch.no_grad():
        selector.strengths.copy_(torch.tensor([-4.0, 1, 0.5]))
    real = selector.select(weight)
    assert real.tolist() == [True, True, False]
    effective = selector.effective(weight.view(3, 1, 2), real)
    torch.testing.assert_close(effective.flatten(), torch.tensor([-2.4, -3.2, 0, 1, 0, 0], dtype=torch.float64))
    effective.backward(torch.tensor([1.0, 2, 3, 4, 5, 6], dtype=torch.float64).view(3, 1, 2))
    torch.testing.assert_close(selector.strengths.grad, torch.tensor([2.2, 4, 7.8], dtype=torch.float64))  # <g, K / ||K||>
    # s / ||K|| (g - <g, K/||K||> K/||K||)
    by_hand = torch.stack([-4 / 5 * (torch.tensor([1.0, 2]) - 2.2 * torch.tensor([0.6, 0.8])),
                           1 / 2 * torch.tensor([3.0, 0]),
                           0.5 / 10 * (torch.tensor([5.0, 6]) - 7.8 * torch.tensor([0.6, 0.8]))]).double()
    torch.testing.assert_close(weight.grad.view(3, 2), by_hand, rtol=1e-6, atol=1e-7)
    gradient, = torch.autograd.grad(selector.penalty(weight), selector.strengths)
    assert gradient.tolist() == [-0.25, 0.25, 0.25]


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 5))


X = torch.rand(4, 3, 6, 6)


@pytest.mark.parametrize("per", ["layer", "model"])
def test_prune_and_fine_tune_in_layers(per):
    """Train all kernels with the penalty, keep the strongest, fine-tune what is left, bake it in."""
    model = ng.sparsify(small(), 1.0, selector="synaptic-strength", per=per, granularity="kernel",
                        selector_options={"strength": 1e-3})
    torch.testing.assert_close(model(X), small()(X))  # s starts at ||K||
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    ng.rewire(model, optimizer, total_steps=6)

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (model(X) - 1).square().mean().backward()
            optimizer.step()
    train(3)
    choices = dict(ng.layers.choices_of(model))
    assert len(choices) == (1 if per == "model" else 3)
    for choice in choices.values():
        choice.selector.k = choice.selector.num_edges // 4
        strength = choice.selector.strength_of(choice._flat())
        assert torch.equal(choice.selector.select(choice._flat()), strength >= strength.sort().values[-choice.selector.k])
    y, real = model.eval()(X), {name: layer.real() for name, layer in model.named_children() if name in "246"}
    ng.layers.freeze(model)
    assert torch.equal(model(X), y)
    before = copy.deepcopy(model.state_dict())
    model.train()
    train(3)
    after = model.state_dict()
    for name, mask in real.items():
        layer = model.get_submodule(name)
        assert torch.equal(layer.real(), mask)
        assert torch.equal((layer.effective_weight() != 0), mask)
    moved = [name for name in after if "strengths" in name and not torch.equal(after[name], before[name])]
    assert moved  # strengths are weights: fine-tuning trains them
    owner = next(iter(choices.values())).selector
    mask = owner.mask
    changed = owner.other.strengths.detach() != before[moved[0]] if owner.other.strengths is not None else ~mask
    if per == "model":
        assert not changed[~mask].any() and changed[mask].any()  # of absent ones neither data nor penalty
    with pytest.raises(SelectionError, match="frozen already"):
        ng.layers.freeze(model)
    baked, y = ng.densify(model.eval()), model(X)
    assert torch.equal(baked(X), y) and type(baked[2]) is nn.Conv2d
    again = ng.sparsify(small(), 1.0, selector="synaptic-strength", per=per, granularity="kernel")
    ng.layers.freeze(again)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(X), y)
    ng.layers.thaw(model)
    assert all(type(choice.selector) is SynapticStrength for choice in choices.values())
    assert not any(name.endswith(".other.k") or "other" in name for name in model.state_dict())
    with pytest.raises(SelectionError, match="not frozen"):
        ng.layers.thaw(model)
    with pytest.raises(InputError, match="no sparse layers"):
        ng.layers.freeze(nn.Linear(2, 2))


def test_tau_in_layers_reports_how_many_are_left():
    model = ng.sparsify(small(), None, selector="synaptic-strength", granularity="kernel",
                        selector_options={"tau": 0.2})
    for name in "246":
        layer = model.get_submodule(name)
        norms = layer.weight.detach().flatten(2).norm(dim=2) if layer.weight.dim() > 2 else layer.weight.detach().abs()
        kernels = int((norms >= 0.2).sum())
        assert layer.selector.num_real == kernels and layer.k == kernels * layer.weight[0, 0].numel()


@pytest.mark.parametrize("name", ["edge-popup", "rigl", "dnw", "feather"])
def test_any_selector_in_layers_can_be_frozen(name):
    model = ng.sparsify(small(), 0.25, selector=name)
    y, real = model.eval()(X), model[2].real()
    ng.layers.freeze(model)
    assert torch.equal(model(X), y) and torch.equal(model[2].real(), real) and model[2].weight.requires_grad
    model(X).sum().backward()
    assert not model[2].weight.grad[~real].any() and model[2].weight.grad[real].any()
    ng.layers.thaw(model)
    assert torch.equal(model(X), y) and model[2].weight.requires_grad == (name != "edge-popup")


def test_it_serves_graphs_of_every_kind():
    for net, x in (
            (ng.ContinuousTimeNeuralGraph(ng.wirings.complete(5, inputs=1, outputs=1), SynapticStrength(8)), (2, 1, 4, 4)),
            (ng.StaticNeuralGraph(ng.Wiring(graph_with(([0, 1], [1, 2]), [1, 0, 2])), SynapticStrength(1)), (2, 1, 4, 4))):
        y = net(torch.randn(x))
        y.square().sum().backward()
        assert net.selection().real.sum() == net.selector.num_real and net.weight.grad.shape == net.weight.shape
        assert copy.deepcopy(net).selection().real.sum() == net.selector.num_real


def test_the_benchmark_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    """Killed within a training and between them, it ends with the numbers of a run in one go."""
    folder = ROOT / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    spec = importlib.util.spec_from_file_location("synaptic_benchmark", folder / "synaptic.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    words = ["--images", "64", "--tested", "40", "--width", "2", "--epochs", "2", "--fine-tune", "1", "--lambdas", "1e-3",
             "--kept", "0.3", "--batch", "32", "--out"]
    benchmark.main([*words, str(tmp_path / "whole")])
    epoch, made = benchmark.Images.epoch, []

    def failing(self, *arguments):
        made.append(1)
        if len(made) in (2, 4, 6, 7):
            raise KeyboardInterrupt
        return epoch(self, *arguments)
    monkeypatch.setattr(benchmark.Images, "epoch", failing)
    stops = 0
    while True:
        try:
            benchmark.main([*words, str(tmp_path / "pieces")])
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops == 4
    one, other = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "pieces"))
    assert one == other and len(one["rows"]) == 5
    assert all(row["accuracy_of_the_smaller_model"] == row["test_accuracy"] for row in one["rows"].values() if "kept" in row)
    with pytest.raises(SystemExit, match="other settings"):
        benchmark.main([*words, str(tmp_path / "whole"), "--lr", "0.1"])


def test_torch_transforms_and_traces():
    """Strengths are of the values that the network is called with."""
    net = drawn(ng.StaticNeuralGraph(ng.wirings.blocks([3, 6, 2]), SynapticStrength(20), backend="dense")).eval()
    x, call = torch.randn(2, 3, 5, 5), torch.func.functional_call
    values = {name: value + 0.5 * torch.randn_like(value) for name, value in net.named_parameters()}
    twin = copy.deepcopy(net)
    twin.load_state_dict({**net.state_dict(), **values})
    y = twin(x)
    assert torch.equal(call(net, values, (x,)), y) and not torch.equal(net.selection().real, twin.selection().real)
    gradients = torch.func.grad(lambda values: call(net, values, (x,)).square().sum())(values)
    y.square().sum().backward()
    for name, value in twin.named_parameters():
        torch.testing.assert_close(gradients[name], value.grad, rtol=1e-4, atol=1e-4)
    gamma = next(name for name in values if name.endswith("send.0.weight"))
    with pytest.raises(InputError, match="vmap over edge weights, or what they are chosen by"):
        torch.func.vmap(lambda g: call(net, {gamma: g}, (x,)))(torch.stack([values[gamma]] * 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(torch.jit.trace(net, x)(x), net(x))
