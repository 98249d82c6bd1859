"""Maps in 16 bits: each number of a map that is sent is rounded once, to the nearest, and nothing else is."""

import copy
import os
import pickle
import subprocess
import sys
from unittest.mock import patch

import pytest
import torch
from checkout import ROOT
from compiled import content_of, perturb, rewrite
from graphs import random_dag
from hypothesis import example, given, settings, strategies as st
from torch import nn

import neuralgraph as ng
from neuralgraph.errors import CheckpointError, InputError
from neuralgraph.nodes import NodeFunction
from neuralgraph.plan import running
from neuralgraph.testing import graphs

pytestmark = pytest.mark.usefixtures("two_threads", "poisoned")

HALVES = [torch.float16, torch.bfloat16]
TOO_LARGE = {torch.float16: "above 65504, which torch.float16 cannot hold: compile .*storage=torch.bfloat16",
             torch.bfloat16: r"above 3.3895e\+38, which torch.bfloat16 cannot hold: compile the model without storage"}
WHOLE = [  # functions that give whole numbers of whole numbers
    NodeFunction("activation conv"), NodeFunction("conv", "bias activation"), NodeFunction("activation conv", kernel_size=5),
    NodeFunction("activation conv", stride=2), NodeFunction("conv activation", stride=2, zero_pad=True),
    NodeFunction(receive="bias activation"), NodeFunction("bias", "bias"), NodeFunction(), NodeFunction(aggregate="product")]


def rounded_run(plan, x, storage):
    """The plan as plain torch runs it, each message rounded; and the largest number that is rounded."""
    messages, largest = {}, 0.0
    result = x.new_zeros(len(x), plan.num_outputs, *plan.output_space(tuple(x.shape[2:])))
    for group in (*plan.before, *plan.groups):
        y = running._group(plan, group, messages, x)
        if group.outputs is None:
            largest = max(largest, float(y.abs().max()))
            messages |= dict(zip(group.nodes.tolist(), y.to(storage).to(x.dtype).unbind(1)))
        else:
            result[:, torch.from_numpy(group.outputs)] = y.expand(len(x), *y.shape[1:])
    return result, largest


def whole_numbers(network, seed, size):
    """All weights whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randint(-size, size + 1, value.shape, generator=generator))
    return network.eval()


@pytest.mark.parametrize("storage", HALVES)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1, 2, 6]), batch=st.sampled_from([1, 2, 3, 9, 16]),
       space=st.sampled_from([(1, 1), (2, 3), (5, 5), (8, 8), (17, 9), (3, 1)]), chained=st.booleans())
@settings(max_examples=60)
@example(seed=169, size=6, batch=1, space=(2, 3), chained=True)  # products that are infinite
def test_whole_numbers_are_rounded_once_where_they_are_sent(storage, seed, size, batch, space, chained):
    """Sums of float32 are exact there, so that every bit is known."""
    with patch.object(graphs, "FUNCTIONS", WHOLE):
        wirings = [random_dag(seed)]
        if chained:
            wirings.append(random_dag(seed + 1, num_inputs=len(wirings[0].outputs)))
    networks = [whole_numbers(ng.StaticNeuralGraph(wiring, ng.Complete(), "dense"), seed, size) for wiring in wirings]
    x = torch.randint(-9, 10, (batch, len(wirings[0].inputs), *space), generator=torch.Generator().manual_seed(seed)).float()
    plans = [plan for network in networks for plan in ng.compile(network).plans]
    fast = ng.inference.CompiledNetwork(*plans, storage=storage)
    expected, largest = rounded_run(fast._whole, x, storage)
    if largest > torch.finfo(storage).max:
        with pytest.raises(InputError, match=TOO_LARGE[storage]):
            fast(x)
    elif max(largest, float(expected.abs().max())) < 2**18:  # so that no sum was rounded
        assert torch.equal(fast(x), expected)
        assert torch.equal(fast(x), expected)  # in used memory


@pytest.mark.parametrize("storage", HALVES)
@given(seed=st.integers(0, 10**6), batch=st.sampled_from([1, 2, 8, 9]), space=st.sampled_from([(4, 4), (8, 8), (17, 9)]))
@settings(max_examples=30)
def test_random_graphs(storage, seed, batch, space):
    network = perturb(ng.StaticNeuralGraph(random_dag(seed), ng.Complete(), "dense", seed), seed)
    fast = ng.compile(network, storage=storage)
    x = torch.randn(batch, len(network.wiring.inputs), *space, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected, _ = rounded_run(fast._whole, x, storage)
        # a sum that lies between two numbers may go to either: an error of one of the roundings
        torch.testing.assert_close(fast(x), expected, rtol=0, atol=float(2 * torch.finfo(storage).eps * expected.abs().max()))
        exact = network(x)
    assert (fast(x) - exact).abs().max() <= 40 * torch.finfo(storage).eps * exact.abs().max()


@pytest.mark.parametrize("storage", HALVES)
@pytest.mark.parametrize("name, options, size", [
    ("tiny-static", dict(k=4000), 32), ("tiny-discrete", dict(k=6000), 32), ("mobilenet-dnw", dict(width=0.1), 32),
    ("mobilenet-dnw", dict(width=0.1, selector_options={"per": "group", "group": 8}), 64)])
def test_models(storage, name, options, size):
    torch.manual_seed(0)
    model = ng.models.create(name, num_classes=5, image_size=size, **options)
    for _ in range(3):  # so that maps have the size of trained ones
        model(torch.randn(8, 3, size, size))
    model, x = model.eval(), torch.randn(9, 3, size, size)
    fast = ng.compile(model, storage=storage)
    with torch.no_grad():
        expected, roundings = model(x), []
        for images in (x, x[:1]):
            error = (fast(images) - expected[:len(images)]).abs().max() / expected.abs().max()
            roundings.append(float(error / torch.finfo(storage).eps))
    assert 1e-5 < max(roundings) < 4
    assert str(storage) in repr(fast)


def small(dtype=torch.float32):
    torch.manual_seed(0)
    return ng.StaticNeuralGraph(ng.wirings.blocks([2, 5, 4, 2]), ng.TopK(20), dtype=dtype).eval()


def test_numbers_too_large_are_refused_and_nothing_is_left_of_them():
    network = ng.StaticNeuralGraph(ng.wirings.blocks([2, 3, 2], NodeFunction()), ng.Complete()).eval()
    fast, x = ng.compile(network, storage=torch.float16), torch.randn(3, 2, 6, 6)
    expected = fast(x)
    for number in (65505.0, -7e4, torch.inf):
        wrong = x.clone()
        wrong[1, 1, 3, 3] = number
        with pytest.raises(InputError, match="maps with numbers above 65504, which torch.float16 cannot hold"):
            fast(wrong)
    x[0, 0, 0, 0] = 65504.0
    assert fast(x).isfinite().all()
    x[0, 0, 0, 0] = torch.nan
    assert fast(x)[0].isnan().any()
    assert torch.equal(fast(x)[1:], expected[1:])
    with torch.no_grad():
        large = torch.full_like(x, 1e30)
        torch.testing.assert_close(ng.compile(network, storage=torch.bfloat16)(large), network(large), rtol=0.05, atol=1e27)


@pytest.mark.parametrize("storage", HALVES)
def test_what_is_no_number_stays_none(storage):
    """Whatever its bits are: none becomes 0 or infinite by rounding."""
    network = ng.StaticNeuralGraph(ng.wirings.from_edges([(0, 1)], inputs=[0], outputs=[1]), ng.Complete())
    with torch.no_grad():
        network.weight.fill_(1)
    bits = torch.tensor([0x7FFFFFFF, 0x7F800001, 0x7FC00000, -1, -0x7FFFFF])  # int32
    x = bits.to(torch.int32).view(torch.float32).view(1, 1, 1, 5)
    assert x.isnan().all()
    assert ng.compile(network.eval(), storage=storage)(x).isnan().all()


def test_files_copies_and_modules(tmp_path):
    fast, x = ng.compile(small(), storage=torch.bfloat16), torch.randn(3, 2, 6, 6)
    expected = fast(x)
    fast.save(tmp_path / "fast.ng")
    for again in (ng.inference.load(tmp_path / "fast.ng"), copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert again.storage == torch.bfloat16
        assert torch.equal(again(x), expected)
    arrays, header = content_of(tmp_path / "fast.ng")
    header["network"][0]["storage"] = "float8"
    rewrite(tmp_path / "wrong.ng", arrays, header)
    with pytest.raises(CheckpointError):
        ng.inference.load(tmp_path / "wrong.ng")
    module = nn.Sequential(nn.Conv2d(1, 2, 1), small())
    assert ng.compile(module.eval(), storage=torch.float16)[1].storage == torch.float16
    assert fast(x[:0]).shape == (0, 2, 6, 6)


@pytest.mark.parametrize("make, storage, message", [
    (small, torch.float64, "expected storage=torch.float16 or torch.bfloat16, or None"),
    (small, "float16", "expected storage=torch.float16 or torch.bfloat16, or None"),
    (lambda: small(torch.float64), torch.float16, "are for networks of float32, got one of torch.float64"),
])
def test_other_storages_are_refused(make, storage, message):
    with pytest.raises(InputError, match=message):
        ng.compile(make(), storage=storage)


def test_ordinary_models_have_no_storage():
    with pytest.raises(InputError, match="are for networks that are graphs"):
        ng.compile(nn.Linear(3, 3), torch.randn(1, 3), storage=torch.float16)


def test_a_processor_that_cannot_convert():
    code = """
import torch, neuralgraph as ng
network = ng.StaticNeuralGraph(ng.wirings.blocks([2, 3, 2]), ng.TopK(5)).eval()
ng.compile(network, storage=torch.bfloat16)
try:
    ng.compile(network, storage=torch.float16)
except ng.errors.InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "NUMBA_CPU_NAME": "core2", "NUMBA_CPU_FEATURES": "+sse2"})
    assert done.stdout.startswith("this machine's processor cannot convert float16: use storage=torch.bfloat16"), done.stderr
