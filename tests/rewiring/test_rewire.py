"""Selectors in plain training loops: schedules, penalties, dropping and growing beside any optimizer."""

import copy
import math
import subprocess
import sys
import warnings

import pytest
import torch
from checkout import ROOT
from graphs import k_of
from loops import OPTIMIZERS, STEPS, batch, loss_of, network, same, train
from torch import nn
from torch.utils.checkpoint import checkpoint

import neuralgraph as ng
from neuralgraph.errors import InputError, SelectionError
from neuralgraph.selectors import SELECTORS


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rigl_in_a_plain_loop_is_the_written_one(optimizer):
    """A loop that masks gradients, drops, grows and resets by hand, on a dense network of one layer."""
    x, y = torch.randn(32, 6, dtype=torch.float64), torch.randn(32, 2, dtype=torch.float64)
    net = ng.StaticNeuralGraph(ng.wirings.chain([6, 2], ng.NodeFunction(receive="")),
                               ng.selectors.RigL(5, drop=0.8, every=4, end=0.75), dims=0, dtype=torch.float64)
    weight, real = nn.Parameter(net.weight.detach().clone()), net.selection().real
    outer, by_hand = OPTIMIZERS[optimizer](net.parameters()), OPTIMIZERS[optimizer]([weight])
    ng.rewire(net, outer, total_steps=40)
    place = (net.wiring.dst - 6, net.wiring.src)
    swapped = 0
    for step in range(1, 41):
        outer.zero_grad()
        (net(x) - y).square().mean().backward()
        outer.step()
        matrix = torch.zeros(2, 6, dtype=torch.float64).index_put(place, weight * real)
        matrix.retain_grad()
        (x @ matrix.T - y).square().mean().backward()
        gradient = matrix.grad[place]
        weight.grad = gradient * real
        by_hand.step()
        if step % 4 == 0 and step < 30:
            drop = math.floor(5 * 0.4 * (1 + math.cos(math.pi * step / 30)))
            with torch.no_grad():
                kept = real & (weight.abs() > weight.abs()[real].sort().values[drop - 1]) if drop else real
                grown = torch.zeros_like(real).index_fill_(
                    0, gradient.abs().masked_fill(kept, -1).topk(drop).indices, True)
                changed = real ^ (kept | grown)
                swapped += int(changed.sum())
                real = kept | grown
                weight[changed] = 0
                for value in by_hand.state[weight].values():
                    if value.shape == weight.shape:
                        value[changed] = 0
        assert torch.equal(net.selection().real, real), step
        torch.testing.assert_close(net.weight, weight, rtol=1e-9, atol=1e-12)  # absent ones too
    assert swapped > 4


def test_l1_anneal_in_a_plain_loop():
    """The loss gains strength sum |w| of what is left; k_t of 203 candidates remain."""
    net, twin = network("l1-anneal", every=1, strength=0.1), network("l1-anneal", every=1, strength=0.1)
    assert torch.equal(net.weight, twin.weight)
    optimizer, real = torch.optim.SGD(net.parameters(), lr=0.05), torch.ones(len(net.weight), dtype=torch.bool)
    ng.rewire(net, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        train(net, optimizer, step, step + 1)
        twin.selector.keep(real)
        twin.selector.is_served = True  # by hand
        twin.zero_grad()
        penalty = 0.1 * twin.weight[real].abs().sum() if step / STEPS < 0.75 else 0.0
        (loss_of(twin, step) + penalty).backward()
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter -= 0.05 * parameter.grad
        keep = 30 + math.ceil((len(real) - 30) * max(0.0, 1 - (step + 1) / STEPS / 0.75)**3 - 1e-9)
        if keep < real.sum():
            score = twin.weight.detach().abs().masked_fill(~real, -1)
            real = torch.zeros_like(real).index_fill_(0, score.topk(keep).indices, True)
        assert torch.equal(net.selection().real, real)
        torch.testing.assert_close(net.weight, twin.weight, rtol=1e-5, atol=1e-6)
    assert real.sum() == 30


def test_edge_popup_trains_scores_only():
    net = network("edge-popup")
    before = net.weight.detach().clone()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    ng.rewire(net, optimizer, total_steps=STEPS)
    real, first = net.selection().real, loss_of(net, 99).item()
    train(net, optimizer)
    assert torch.equal(net.weight, before) and not torch.equal(net.selection().real, real)
    assert loss_of(net, 99) < first


@pytest.mark.parametrize("name", ["rigl", "l1-anneal", "feather"])
def test_a_schedule_that_nobody_advances_is_told(name):
    net = network(name)
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(batch(0)[0]), net(batch(0)[0])  # looking is no training
    with pytest.warns(UserWarning, match=r"neuralgraph.rewire\(model, optimizer") as told:
        train(net, optimizer, last=5)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ng.rewire(net, optimizer, total_steps=5)
        train(net, optimizer, last=5)
        other = network("dnw")
        train(other, OPTIMIZERS["sgd"](other.parameters()), last=3)


@pytest.mark.parametrize("name", ["rigl", "l1-anneal", "edge-popup"])
def test_accumulated_gradients_are_those_of_the_whole_batch(name):
    nets = [network(name).double() for _ in range(2)]
    for net, parts in zip(nets, (1, 4)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        ng.rewire(net, optimizer, total_steps=STEPS)
        for step in range(STEPS):
            optimizer.zero_grad()
            x, y = (part.double() for part in batch(step))
            for a, b in zip(x.chunk(parts), y.chunk(parts)):
                ((net(a) - b).square().mean() / parts).backward()
            optimizer.step()
    assert torch.equal(nets[0].selection().real, nets[1].selection().real)
    torch.testing.assert_close(nets[0].weight, nets[1].weight)


def test_gradient_scaler_and_autocast():
    """Unscaled gradients decide; a step that overflows does not count."""
    plain, scaled = network("rigl"), network("rigl")
    steps = [torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9) for net in (plain, scaled)]
    for net, optimizer in zip((plain, scaled), steps):
        ng.rewire(net, optimizer, total_steps=STEPS)
    train(plain, steps[0])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=10**6)
    step, calls = 0, 0
    while step < STEPS:
        overflows, calls = calls == 5, calls + 1
        steps[1].zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            loss = loss_of(scaled, step)
        scaler.scale(loss * (float("inf") if overflows else 1)).backward()
        scaler.step(steps[1])
        scaler.update()
        step += not overflows
        assert scaled.selector.done == (step, STEPS)
    assert calls == STEPS + 1
    assert torch.equal(plain.selection().real, scaled.selection().real)
    torch.testing.assert_close(plain.weight, scaled.weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss_of(scaled, 0).isfinite()


def test_closures_are_served_once_and_lbfgs_refused():
    plain, closed = network("rigl"), network("rigl")
    optimizer = OPTIMIZERS["sgd"](plain.parameters())
    ng.rewire(plain, optimizer, total_steps=STEPS)
    train(plain, optimizer)
    optimizer = OPTIMIZERS["sgd"](closed.parameters())
    ng.rewire(closed, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        def closure():
            optimizer.zero_grad()
            loss = loss_of(closed, step)
            loss.backward()
            return loss
        assert optimizer.step(closure).isfinite()
    assert same(plain, closed)
    with pytest.raises(InputError, match="LBFGS evaluates the loss several times.*the network"):
        ng.rewire(plain, torch.optim.LBFGS(plain.parameters()), 3)


def test_several_optimizers():
    model = nn.ModuleList([network("rigl"), network("l1-anneal", seed=1), nn.Linear(3, 3)])
    first = OPTIMIZERS["sgd"](model[0].parameters())
    second = OPTIMIZERS["adamw"]([*model[1].parameters(), *model[2].parameters()])
    ng.rewire(model, [first, second], total_steps=STEPS)
    for step in range(STEPS):
        x, y = batch(step)
        (model[2](model[0](x) + model[1](x)) - y).square().mean().backward()
        for optimizer in (first, second):
            optimizer.step(), optimizer.zero_grad()
    assert [net.selection().real.sum() for net in model[:2]] == [30, 30]


def test_activation_checkpointing_draws_once():
    """A recomputed forward lets the same edges take part."""
    gradients = []
    for recomputed in (False, True):
        net = network("targeted-dropout", drop=0.5)
        torch.manual_seed(3)
        x, y = batch(0)
        x.requires_grad_()
        output = checkpoint(net, x, use_reentrant=False) if recomputed else net(x)
        (output - y).square().mean().backward()
        gradients.append((output.detach(), net.weight.grad, torch.rand(3)))
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_averages_of_models():
    net = network("rigl")
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    averaged = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.8), use_buffers=True)
    ng.rewire(net, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        train(net, optimizer, step, step + 1)
        averaged.update_parameters(net)
    assert averaged.module.selection().real.sum() == 30
    assert loss_of(averaged.eval(), 99).isfinite()


def test_two_processes_keep_equal_masks(tmp_path):
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           ROOT / "tests" / "helpers" / "two_loops.py", tmp_path], capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, states in first.items():
        assert all(torch.equal(states[key], second[name][key]) for key in states), name
    # the gradient of both halves together is that of the whole batch
    alone = network("rigl")
    optimizer = OPTIMIZERS["sgd"](alone.parameters())
    ng.rewire(alone, optimizer, total_steps=STEPS)
    train(alone, optimizer)
    assert (first["rigl"]["selector.real"] != alone.state_dict()["selector.real"]).sum() <= 2  # rounding


def rewired(net, total_steps=3, **options):
    return ng.rewire(net, torch.optim.SGD(net.parameters(), lr=0.1), total_steps, **options)


def spent():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ng.rewire(net, optimizer, 2)
    train(net, optimizer, last=3)


def without_gradients():
    net = network(every=1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ng.rewire(net, optimizer, 5)
    optimizer.step()


@pytest.mark.parametrize("call, error, message", [
    (lambda: ng.rewire(network(), torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), 3), InputError,
     "optimizer holds no weights of the network"),
    (lambda: (lambda net: (rewired(net), rewired(net)))(network()), InputError, "rewired already"),
    (lambda: rewired(nn.Linear(2, 2)), InputError, "no selectors"),
    (lambda: rewired(network(), 0), InputError, "total_steps must be an integer from 1"),
    (lambda: rewired(network(), 2.5), InputError, "total_steps must be an integer"),
    (lambda: rewired(network(), 5, done=6), InputError, "more than total_steps=5"),
    (lambda: ng.rewire(network(), "sgd", 3), InputError, "must be a torch.optim.Optimizer"),
    (lambda: ng.rewire([network()], None, 3), InputError, "expected a torch.nn.Module"),
    (spent, SelectionError, "step 3 of total_steps=2"),
    (without_gradients, SelectionError, "call loss.backward"),
])
def test_bad_use(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_removed_and_rewired_again():
    net = network()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    ng.rewire(net, optimizer, total_steps=STEPS)
    train(net, optimizer, last=10)
    whole = copy.deepcopy(net)
    steps = OPTIMIZERS["sgd"](whole.parameters())
    steps.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    ng.rewire(whole, steps, total_steps=STEPS)  # a copy is nobody's yet
    train(whole, steps, first=10)
    train(net, optimizer, first=10)
    assert same(net, whole)


@pytest.mark.parametrize("name", [name for name in SELECTORS if name != "targeted-dropout-regular"])
def test_frozen_edges_stay_and_are_thawed(name):
    """The same outputs, gradients of real edges only, and a training that goes on where it was."""
    net = network(name)
    optimizer = torch.optim.SGD(list(net.parameters()), lr=0.05)
    ng.rewire(net, optimizer, total_steps=STEPS)
    train(net, optimizer, last=4)
    net.eval()
    x, selection, before = batch(0)[0], net.selection(), net.selector
    y = net(x)
    net.freeze()
    assert torch.equal(net(x), y) and torch.equal(net.selection().real, selection.real)
    assert net.weight.requires_grad
    net.train()
    train(net, optimizer, first=4, last=8)
    assert torch.equal(net.selection().real, selection.real)
    net.zero_grad()
    net(x).sum().backward()
    assert torch.equal(net.weight.grad[~selection.real], torch.zeros(int((~selection.real).sum())))
    assert all(parameter.grad is None for parameter in before.parameters())
    again = network(name, seed=3)
    again.freeze()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.eval()(x), net.eval()(x))
    with pytest.raises(SelectionError, match=r"thaw\(\) them first"):
        net.freeze()
    net.train().thaw()
    assert net.selector is before and net.weight.requires_grad != before.freezes_weight
    assert before.dense == before.wants_gradient(9, STEPS)  # of the next step
    if before.scheduled:
        assert before.done == (8, STEPS)
    with pytest.raises(SelectionError, match="not frozen"):
        net.thaw()
    train(net, optimizer, first=8)
    if k_of(name, 30):
        assert net.selection().real.sum() == 30


def test_a_selector_that_is_assigned_is_bound_or_refused():
    net, other = network("dnw"), network("dnw")
    net.selector = ng.TopK(7)
    assert net.selection().real.sum() == 7 and net(batch(0)[0]).shape == (16, 3)
    net.selector = ng.selectors.RigL(5)
    assert net.selection().real.sum() == 5
    with pytest.raises(SelectionError, match="serves another network"):
        net.selector = other.selector
    with pytest.raises(SelectionError, match="at most the 188"):
        net.selector = ng.TopK(1000)
    assert net.selection().real.sum() == 5


def test_k_may_change_as_it_goes_on():
    net = network("dnw")
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    for step in range(6):
        net.selector.k = 60 - 10 * step
        train(net, optimizer, step, step + 1)
        assert net.selection().real.sum() == 60 - 10 * step


def test_lightning_trains_the_same():
    """Its trainer hands the optimizer a closure, in which gradients are made."""
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network("rigl")

        def training_step(self, batch, number):
            return (self.net(batch[0]) - batch[1]).square().mean()

        def configure_optimizers(self):
            optimizer = OPTIMIZERS["sgd"](self.parameters())
            ng.rewire(self, optimizer, total_steps=STEPS)
            return optimizer

    module, plain = Module(), network("rigl")
    trainer = lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu",
                                enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(module, torch.utils.data.DataLoader([batch(step) for step in range(STEPS)], batch_size=None))
    optimizer = OPTIMIZERS["sgd"](plain.parameters())
    ng.rewire(plain, optimizer, total_steps=STEPS)
    train(plain, optimizer)
    assert same(module.net, plain)
