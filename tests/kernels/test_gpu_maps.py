"""Norm, activation and convolution on a GPU against torch's own operations; without one, by Triton's interpreter."""

import pytest
import torch
import torch.nn.functional as F

from neuralgraph.kernels import TRITON
from neuralgraph.kernels.shapes import BATCH, FIXED, INSTANCE, NO_NORM, empty_gradients

if not TRITON:
    pytest.skip("Triton is not installed", allow_module_level=True)

from neuralgraph.kernels import gpu_maps  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPSILON = 1e-5


def reference(x, weight, bias, mean, rstd, kernel, norm, slope, stride):
    """The written formulas."""
    u = x
    if norm != NO_NORM:
        over = {INSTANCE: (2, 3), BATCH: (0, 2, 3)}.get(norm)
        if over:
            mean, var = x.mean(over, keepdim=True), x.var(over, keepdim=True, correction=0)
            rstd = (var + EPSILON)**-0.5
        u = (x - mean) * rstd * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)
    z = u.where(u > 0, slope * u)
    return z if kernel is None else F.conv2d(z, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=x.shape[1])


@pytest.mark.parametrize("norm, side, stride, shape, slope", [
    *((norm, side, stride, shape, slope) for norm in (NO_NORM, FIXED, INSTANCE, BATCH) for side, stride, shape, slope in (
        (0, 1, (3, 2, 8, 8), 0.0), (3, 1, (3, 2, 8, 8), 0.0), (3, 2, (17, 2, 5, 7), 0.01), (5, 2, (3, 1, 7, 6), 1.0))),
    (INSTANCE, 1, 1, (2, 1, 33, 31), 0.0), (BATCH, 7, 1, (1, 1, 9, 4), 0.01), (INSTANCE, 3, 1, (1, 1, 1, 2), 0.0)])
def test_results_and_gradients(norm, side, stride, shape, slope):
    batch, channels = shape[:2]
    kind = {"dtype": torch.float64, "device": DEVICE}
    x = torch.randn(batch, channels + 2, *shape[2:], **kind)[:, 1:1 + channels].requires_grad_()  # channels of a larger map
    weight, bias = (torch.randn(channels, **kind, requires_grad=True) for _ in range(2))
    kernel = torch.randn(channels, 1, side, side, **kind, requires_grad=True) if side else None
    mean, rstd = torch.randn(channels, **kind), torch.rand(channels, **kind) + 0.5
    expected = reference(x, weight, bias, mean.view(-1, 1, 1), rstd.view(-1, 1, 1), kernel, norm, slope, stride)
    gradient = torch.randn_like(expected)
    used = [t for t in (x, *(() if norm == NO_NORM else (weight, bias)), kernel) if t is not None]
    wanted = torch.autograd.grad(expected, used, gradient)

    if norm == BATCH:
        mean, rstd, variance = gpu_maps.channel_moments(x.detach(), EPSILON)
        torch.testing.assert_close(variance, x.detach().var((0, 2, 3), correction=0))
    given = [None if t is None else t.detach() for t in (x, weight, bias, mean, rstd, kernel)]
    if norm == NO_NORM:
        given[1:5] = [None] * 4
    out = torch.full_like(expected, float("nan"))
    moments = gpu_maps.map_forward(out, *given, norm, slope, stride, EPSILON)
    torch.testing.assert_close(out, expected.detach(), rtol=1e-10, atol=1e-10)
    if norm == INSTANCE:
        given[3:5] = moments
    results = gpu_maps.map_backward(gradient, *given, norm, slope, stride)
    to_x, to_weight, to_bias, to_kernel = results
    for one, told in zip(results, empty_gradients(given[0], given[-1], norm), strict=True):  # what torch.compile is told
        assert one.shape == told.shape and one.stride() == told.stride() and one.dtype == told.dtype
    found = [to_x, *(() if norm == NO_NORM else (to_weight, to_bias)), *(() if kernel is None else (to_kernel,))]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_computed_in_float32(dtype):
    x = torch.randn(4, 3, 8, 8, device=DEVICE).to(dtype)
    weight, bias, kernel = (torch.randn(*shape, device=DEVICE) for shape in ((3,), (3,), (3, 1, 3, 3)))
    out = torch.empty_like(x)
    mean, rstd = gpu_maps.map_forward(out, x, weight, bias, None, None, kernel, INSTANCE, 0.0, 1, EPSILON)
    assert mean.dtype == rstd.dtype == torch.float32
    expected = reference(x.double(), weight.double(), bias.double(), None, None, kernel.double(), INSTANCE, 0.0, 1)
    torch.testing.assert_close(out.double(), expected.to(dtype).double(), rtol=2**-7 if dtype == torch.bfloat16 else 1e-4, atol=1e-4)


def test_large_maps_and_wide_kernels_are_left_to_torch():
    assert gpu_maps.serves(torch.empty(1, 1, 64, 64), 7)
    assert not gpu_maps.serves(torch.empty(1, 1, 65, 64), 3) and not gpu_maps.serves(torch.empty(1, 1, 8, 8), 9)
