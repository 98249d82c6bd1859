"""Sums of every width that some processor's registers hold, whatever this one's do."""

import numpy as np
import pytest
import torch
from numba import njit

from neuralgraph.kernels import four_sums, map_gradients, shifting
from neuralgraph.kernels.vector import narrow, splat

STORED = {"float32": np.float32, "float64": np.float64, "float16": np.int16, "bfloat16": np.uint16}
LANES = 16
FOURS = {"four_wide_sums": 4, "four_sums": 2, "four_narrow_sums": 1}  # vectors
ADDING = {"_four_by_four": 4, "_four_by_one": 1}


def sums_of_four(name, zero, stored, lanes):
    function = getattr(four_sums, name)

    @njit
    def run(x, stride, index, weight, out, out_stride, begin, end, bias, slope):
        function(narrow(splat(zero, 16), lanes), stored, x, stride, index, weight, out, out_stride, begin, end, bias, slope)
    return run


def rows_of(kind, count, length):
    """Rows as they are stored, and as float64."""
    rows = torch.randn(count, length, generator=torch.Generator().manual_seed(0)).to(getattr(torch, kind))
    return rows, rows.double().numpy()


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("name, lanes", [*((name, LANES) for name in FOURS), ("four_narrow_sums", 8)])
def test_four_sums(kind, name, lanes):
    number = np.float64 if kind == "float64" else np.float32
    rows, exact = rows_of(kind, 12, 64)
    generator = np.random.default_rng(1)
    index, weight = generator.integers(0, 12, 9).astype(np.int32), generator.normal(size=(9, 4)).astype(number)
    bias, out = generator.normal(size=4).astype(number), np.full((4, 64), np.nan, number)
    run = sums_of_four(name, number(0), STORED[kind](0), lanes)
    run(rows.data_ptr(), rows.stride(0) * rows.element_size(), index.ctypes.data, weight.ctypes.data, out.ctypes.data,
        out.strides[0], 2, 9, bias.ctypes.data, 0.25)
    width = lanes * FOURS[name]
    expected = bias[:, None] + weight[2:].T @ exact[index[2:]]
    expected = np.where(expected < 0, 0.25 * expected, expected)[:, :width]
    np.testing.assert_allclose(out[:, :width], expected, rtol=0, atol=1e-13 if kind == "float64" else 1e-5)
    assert np.isnan(out[:, width:]).all()


@pytest.mark.parametrize("name", ADDING)
def test_adding_to_four_rows(name):
    function, width = getattr(shifting, name), LANES * ADDING[name]
    rows, exact = rows_of("float32", 12, 64)
    generator = np.random.default_rng(2)
    places = generator.integers(0, 12, 9)
    index, weight = (64 * places).astype(np.int32), generator.normal(size=(9, 4)).astype(np.float32)
    out = generator.normal(size=(4, 64)).astype(np.float32)
    expected = out.copy()
    expected[:, :width] += (weight[3:].T @ exact[places[3:]])[:, :width]

    @njit
    def run(x, index, weight, out, out_row):
        function(splat(np.float32(0), 16), x, 3, 9, index, weight, out, out_row)

    run(rows.data_ptr(), index.ctypes.data, weight.ctypes.data, out.ctypes.data, out.strides[0])
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


def test_adding_to_one_row():
    rows, exact = rows_of("float32", 12, 128)
    generator = np.random.default_rng(3)
    places = generator.integers(0, 12, 9)
    index, weight = (128 * places).astype(np.int32), generator.normal(size=9).astype(np.float32)
    out = generator.normal(size=128).astype(np.float32)
    expected = out + weight[1:] @ exact[places[1:]]

    @njit
    def run(x, index, weight, out):
        shifting._eight(splat(np.float32(0), 16), x, 1, 9, index, weight, out)

    run(rows.data_ptr(), index.ctypes.data, weight.ctypes.data, out.ctypes.data)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_correlations(lanes):
    """Of a map's nine neighbours with a gradient, in nine vectors."""
    height, width = 5, 2 * lanes
    pitch = width + 2 + 16
    x, gradient = np.zeros((2, height + 2, pitch), np.float64)
    generator = np.random.default_rng(4)
    x[1:-1, 1:width + 1] = generator.normal(size=(height, width))
    gradient[1:-1, 1:width + 1] = generator.normal(size=(height, width))
    sums = np.ones((9, lanes))

    @njit
    def run(x, gradient, sums):
        map_gradients._correlate3(narrow(splat(np.float64(0), 16), lanes), x, gradient, pitch, sums, height, width)

    run(x.ctypes.data, gradient.ctypes.data, sums.ctypes.data)
    inside = gradient[1:-1, 1:width + 1]
    expected = [(x[dy:dy + height, dx:dx + width] * inside).sum() + lanes for dy in range(3) for dx in range(3)]
    np.testing.assert_allclose(sums.sum(1), expected, rtol=1e-12)
