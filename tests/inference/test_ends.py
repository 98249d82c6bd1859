"""The stem and the head's mean, which a compiled classifier computes with its network, against the model itself."""

import copy
import math

import pytest
import torch
from compiled import perturb, same
from hypothesis import given, settings, strategies as st
from torch import nn

import neuralgraph as ng
from neuralgraph.errors import InputError
from neuralgraph.inference import layout
from neuralgraph.inference.ends import ends_of
from neuralgraph.kernels.instructions import BORDER, FOUR_SUMS, STEM, SUM
from neuralgraph.models.tiny import GlobalPool

pytestmark = pytest.mark.usefixtures("two_threads")

batches = st.sampled_from([1, 2, 3, 5, 8, 9, 16, 19])  # 1, 2, 4 and 8 samples in a row, and some left over
sides = st.integers(1, 20)


def model_of(stem, head, inner=(5, 6), function=None, stride=1, seed=0):
    """A classifier with one graph behind the stem, of float64."""
    wiring = ng.wirings.blocks([stem.out_channels, *inner], function, input_stride=stride)
    network = ng.StaticNeuralGraph(wiring, ng.TopK(max(1, 2 * wiring.num_edges // 3)), "dense", seed)
    return perturb(ng.models.Classifier(stem, [network], head, in_channels=stem.in_channels, image_size=9).double(), seed)


def kinds_of(fast):
    return {int(kind) for found in fast.network._layouts.values() for kind in found.code["kind"]}


@given(seed=st.integers(0, 10**6), half=st.integers(0, 3), stride=st.integers(1, 4), inputs=st.integers(1, 4),
       outputs=st.integers(1, 9), bias=st.booleans(), pooled=st.booleans(), norm=st.sampled_from(["batch", "instance"]),
       inner=st.sampled_from([1, 2]), batch=batches, height=sides, width=sides)
@settings(max_examples=60, deadline=None)
def test_stems_and_means(seed, half, stride, inputs, outputs, bias, pooled, norm, inner, batch, height, width):
    torch.manual_seed(seed)
    stem = nn.Conv2d(inputs, outputs, 2 * half + 1, stride, half, bias=bias)
    if norm == "instance" and math.ceil(height / stride) * math.ceil(width / stride) < 5:
        norm = "batch"  # of a few pixels the variance may be nothing but rounding
    model = model_of(stem, nn.Sequential(GlobalPool(), nn.Linear(6, 3)) if pooled else nn.Flatten(),
                     function=ng.NodeFunction("norm activation conv", norm=norm), stride=inner, seed=seed)
    fast = ng.compile(model)
    same(model, fast, (batch, inputs, height, width), seed, tolerance=1e-9)
    assert {BORDER, STEM} <= kinds_of(fast)
    found = next(iter(fast.network._layouts.values()))
    assert found.ends.pooled == pooled


@pytest.mark.parametrize("change", [
    dict(padding=0), dict(padding=2), dict(padding=(1, 0)), dict(kernel_size=(3, 1), padding=(1, 0)), dict(stride=(1, 2)),
    dict(dilation=2, padding=2), dict(groups=2), dict(padding_mode="circular"), dict(kernel_size=2, padding=1)])
def test_other_convolutions_stay_with_torch(change):
    stem = nn.Conv2d(2, 4, **{"kernel_size": 3, "padding": 1, **change})
    model = model_of(stem, nn.Sequential(GlobalPool()))
    fast = ng.compile(model)
    same(model, fast, (3, 2, 9, 7))
    assert ends_of(fast.stem, fast.head).stem is None and STEM not in kinds_of(fast)


@pytest.mark.parametrize("padding", [1, (1, 1), "same"])
def test_borders_by_any_name(padding):
    model = model_of(nn.Conv2d(2, 4, 3, padding=padding), nn.Flatten())
    fast = ng.compile(model)
    same(model, fast, (3, 2, 9, 7))
    assert STEM in kinds_of(fast)


def test_layers_of_a_compiled_model_may_change():
    """What is computed with the network is what the layers around it are when it is called."""
    model = model_of(nn.Conv2d(2, 4, 3, padding=1), nn.Sequential(GlobalPool(), nn.Linear(6, 3)))
    fast, x = ng.compile(model), torch.randn(3, 2, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(3):  # on all threads and on one
            fast(x)
        for changed in (fast, model):
            changed.stem.weight.mul_(2)
        torch.testing.assert_close(fast(x), model(x))
        for changed in (fast, model):
            changed.stem.bias = nn.Parameter(torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
        torch.testing.assert_close(fast(x), model(x))
        for number in range(6):  # the new one may stand where one before it was
            for changed in (fast, model):
                changed.stem.bias = nn.Parameter(torch.full((4,), float(number), dtype=torch.float64))
            for _ in range(2):
                torch.testing.assert_close(fast(x), model(x))
        seen = []
        handle = fast.stem.register_forward_hook(lambda layer, given, result: seen.append(result))
        torch.testing.assert_close(fast(x), model(x))
        assert len(seen) == 1
        handle.remove()
        for changed in (fast, model):
            changed.head[0] = nn.Flatten()
            changed.head[1] = nn.Identity()
        torch.testing.assert_close(fast(x), model(x))
        for changed in (fast, model):
            changed.head = GlobalPool()
        torch.testing.assert_close(fast(x), model(x))


def test_copies_and_images_in_other_orders():
    model = model_of(nn.Conv2d(3, 5, 3, 2, 1), nn.Sequential(GlobalPool(), nn.Linear(6, 3)))
    fast = copy.deepcopy(ng.compile(model))
    x = torch.randn(9, 3, 12, 10, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        for given_x in (x, x.to(memory_format=torch.channels_last), x.transpose(0, 1).contiguous().transpose(0, 1)):
            torch.testing.assert_close(fast(given_x), expected)
        torch.testing.assert_close(fast(x[:1].expand(9, 3, 12, 10)), model(x[:1].expand(9, 3, 12, 10)))


def test_no_images_and_images_without_pixels():
    fast = ng.compile(model_of(nn.Conv2d(2, 4, 3, 2, 1), nn.Sequential(GlobalPool(), nn.Linear(6, 3))))
    assert fast(torch.zeros(0, 2, 9, 7, dtype=torch.float64)).shape == (0, 3)
    for shape in ((2, 2, 0, 7), (2, 2, 7, 0)):
        with pytest.raises(InputError, match="pixels"):
            fast(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("band", [1, 16, 40, 10**9])
@given(seed=st.integers(0, 10**6), batch=batches, height=sides, width=sides, stride=st.integers(1, 2), share=st.booleans())
@settings(max_examples=15, deadline=None)
def test_rows_at_a_time(band, seed, batch, height, width, stride, share):
    """Sums are convolved some rows at a time: as many as the first cache holds, here any number."""
    before, layout.BAND = layout.BAND, band
    try:
        stem = nn.Conv2d(2, 7, 3, 1, 1)
        model = model_of(stem, nn.Flatten(), (9, 8, 3), stride=stride, seed=seed)
        if share:  # all have the same parents: four at a time
            with torch.no_grad():
                network = model.networks[0]
                network.selector = ng.TopK(network.wiring.num_edges)
        fast = ng.compile(model)
        same(model, fast, (batch, 2, height, width), seed, tolerance=1e-9)
        banded = {int(kind) for found in fast.network._layouts.values() for kind in found.code["kind"][found.code["band"] > 0]}
        assert height < 5 or banded >= {STEM, FOUR_SUMS if share else SUM}
    finally:
        layout.BAND = before


def test_norms_too_large_or_small_to_be_in_the_weights_stay_norms():
    """A scale times a weight that would be infinite or round to 0 is not computed."""
    functions = [ng.NodeFunction(""), ng.NodeFunction("norm activation conv"), ng.NodeFunction("")]
    for scale, x in ((1e20, 1e-25), (1e-20, 1e25)):
        wiring = ng.wirings.chain([2, 3, 2], functions)
        network = ng.StaticNeuralGraph(wiring, ng.TopK(wiring.num_edges), "dense").eval()
        with torch.no_grad():
            network.weight[wiring.dst < 5] *= scale
            for name, value in network.named_parameters():
                if "functions" in name and value.dim() == 1:
                    value.fill_(scale if name.endswith("weight") else 0.0)
            x = x * torch.randn(3, 2, 8, 8)
            expected = network(x)
            assert expected.isfinite().all() and expected.abs().max() > 0
            torch.testing.assert_close(ng.compile(network)(x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
