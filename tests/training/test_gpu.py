"""Training on a GPU."""

import copy
import dataclasses

import pytest
import torch
from graphs import k_of
from quick import QUICK, same
from stopping import StopAfter

import neuralgraph as ng
from neuralgraph.selectors import SELECTORS, Selector
from neuralgraph.training import Interrupted, Run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def run_of(data, folder, **changes):
    return Run.create(dataclasses.replace(QUICK, **changes), folder, data, device="cuda")


def losses(run):
    return torch.tensor([[row["train_loss"], row["test_loss"]] for row in run.train()])


@pytest.mark.parametrize("changes", [{}, {"model": "tiny-discrete"}, {"precision": "bfloat16"}, {"selector": "rigl"}])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(data, tmp_path, changes):
    whole, stopped = (run_of(data, tmp_path / name, **changes) for name in ("whole", "stopped"))
    whole.train()
    with pytest.raises(Interrupted):
        stopped.train(StopAfter(2))
    again = Run.open(stopped.folder, data, device="cuda")
    again.train()
    assert same(again, whole)


def test_a_gpu_trains_as_the_cpu_does(data, tmp_path):
    there, here = run_of(data, tmp_path / "there"), Run.create(QUICK, tmp_path / "here", data)
    torch.testing.assert_close(losses(there), losses(here), rtol=2e-2, atol=2e-2)
    one = Run.open(there.folder, data)  # on the CPU
    assert one.evaluate() == pytest.approx(there.evaluate(), rel=1e-2)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("changes", [{}, {"model": "tiny-discrete"}, {"selector": "rigl"}])
def test_compiled_training_has_the_same_losses(data, tmp_path, mode, changes):
    torch._dynamo.reset()
    plain, compiled = run_of(data, tmp_path / "plain", **changes), \
        run_of(data, tmp_path / "compiled", torch_compile=mode, **changes)
    torch.testing.assert_close(losses(compiled), losses(plain), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", SELECTORS)
def test_a_gpu_chooses_what_the_cpu_chooses(name):
    wiring = ng.wirings.blocks([3, 12, 12, 2])
    here = ng.StaticNeuralGraph(wiring, ng.selectors.create(name, k=k_of(name, 60)), dtype=torch.float64)
    there = copy.deepcopy(here).cuda()
    x = torch.randn(6, 3, 6, 6, dtype=torch.float64)
    masks = []
    for network in (here, there):
        optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.05)
        ng.rewire(network, optimizer, total_steps=12)
        for _ in range(6):
            optimizer.zero_grad()
            network(x.to(network.weight.device)).square().mean().backward()
            optimizer.step()
        masks.append(network.selection().real.cpu())
    assert masks[0].shape == masks[1].shape
    if type(here.selector).sample is Selector.sample:  # nothing is drawn by the device's own generator
        assert torch.equal(*masks)


def test_a_network_of_half_precision_trains_as_one_of_single():
    unit = ng.NodeFunction(send="norm activation conv", norm="batch")
    one = ng.StaticNeuralGraph(ng.wirings.blocks([3, 6, 6, 2], unit), ng.TopK(40)).cuda().train()
    half = copy.deepcopy(one).half()
    x = torch.randn(8, 3, 6, 6, device="cuda")
    outputs = [net(data) for net, data in ((one, x), (half, x.half()))]
    for y in outputs:
        y.float().square().mean().backward()
    torch.testing.assert_close(outputs[1].float(), outputs[0], rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(half.weight.grad.float(), one.weight.grad, rtol=5e-2, atol=5e-2)
    for (name, mine), theirs in zip(half.named_buffers(), one.buffers(), strict=True):
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=2e-2, atol=2e-2, msg=name)
