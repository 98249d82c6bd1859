"""Products on matrix units: exact for what bfloat16 holds, within the bounds of its rounding for all else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import neuralgraph as ng

pytest.importorskip("numba")

from neuralgraph.kernels import matrix_units
from neuralgraph.kernels.matrix_units import CHUNK, PANEL, pair_products

needed = pytest.mark.skipif(not matrix_units.AVAILABLE, reason="no matrix units here")
ONE, TWO = 2.0**-8, 2.0**-16  # what one bfloat16, and the sum of two, may lack of a number


@pytest.fixture
def precision():
    """Sets how precise products are, for one test."""
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


def exact(x, y):
    return torch.einsum("bnl,bml->nm", x.double(), y.double())


def within(x, y, terms):
    """How far from the exact sums those of rounded products, added in float32, can be."""
    share = 2 * ONE + ONE**2 if terms == 1 else 3 * TWO + 3 * ONE * TWO
    length = x.shape[0] * x.shape[2]
    return (share + length * 2.0**-24) * exact(x.abs(), y.abs())


@needed
@given(batch=st.integers(1, 5), rows=st.integers(1, 70), columns=st.integers(1, 70), length=st.integers(1, 150),
       seed=st.integers(0, 999), terms=st.sampled_from([1, 2]))
@settings(max_examples=25)
def test_random_shapes(batch, rows, columns, length, seed, terms):
    """Rows of a larger tensor, of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, rows + 2, length, generator=generator)[:, 1:-1]
    y = torch.randn(batch, columns, length, generator=generator) * 10.0 ** torch.randint(-6, 6, (1, columns, 1), generator=generator)
    assert ((pair_products(x, y, terms) - exact(x, y)).abs() <= within(x, y, terms)).all()


@needed
@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("shape", [(3, 33, 5, 2 * CHUNK + 7), (2, 40, PANEL + 17, 64), (37, 31, 97, 32), (2, 1, 1, 1), (9, 50, 3, 4)])
def test_whole_numbers_are_exact(shape, terms, two_threads):
    """Of at most 8 bits, over the borders of pieces, chunks, panels and threads."""
    batch, rows, columns, length = shape
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randint(-100, 101, (batch, n, length), generator=generator).float() for n in (rows, columns))
    assert torch.equal(pair_products(x, y, terms).double(), exact(x, y))


@needed
def test_what_is_not_finite_stays_so():
    for bad in (float("inf"), float("-inf"), float("nan")):
        x, y = torch.ones(2, 20, 40), torch.ones(2, 20, 40)
        x[1, 3, 39] = bad
        for terms in (1, 2):
            product = pair_products(x, y, terms)
            assert not product[3].isfinite().any() and torch.equal(product[4:], torch.full((16, 20), 80.0))


@needed
def test_nothing_to_add():
    for shape in ((0, 3, 5), (2, 3, 0), (2, 0, 5)):
        x, y = torch.ones(shape), torch.ones(shape[0], 4, shape[2])
        assert torch.equal(pair_products(x, y, 2), torch.zeros(shape[1], 4))


def gradients(dtype, selector=None):
    network = ng.StaticNeuralGraph(ng.wirings.blocks([8, 40, 40, 10]), selector or ng.TopK(400), "sparse", dtype=dtype)
    y = network(torch.randn(4, 8, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(1)))
    y.square().sum().backward()
    return y.detach(), {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("allowed, tolerance", [("high", 2e-5), ("medium", 1e-2)])
@pytest.mark.parametrize("selector", ["dnw", "rigl"])
def test_networks_round_the_gradient_of_edges_alone(allowed, tolerance, selector, precision):
    """Where PyTorch's setting allows it; other gradients and outputs are the same bits."""
    outputs, exactly = gradients(torch.float32, ng.selectors.create(selector, k=400))
    precision(allowed)
    same, rounded = gradients(torch.float32, ng.selectors.create(selector, k=400))
    assert torch.equal(outputs, same)
    for name, value in exactly.items():
        if name == "weight":
            assert (rounded[name] - value).norm() <= tolerance * value.norm()
            assert torch.equal(rounded[name] != 0, value != 0)
            assert torch.equal(rounded[name], value) != matrix_units.AVAILABLE
        else:
            assert torch.equal(rounded[name], value), name


def test_double_precision_is_never_rounded(precision):
    exactly = gradients(torch.float64)[1]
    precision("medium")
    assert torch.equal(gradients(torch.float64)[1]["weight"], exactly["weight"])


def test_settings_of_pytorch(precision):
    most = 2 if matrix_units.AVAILABLE else 0
    for name, terms in {"highest": 0, "high": most, "medium": min(1, most)}.items():
        precision(name)
        assert matrix_units.factor_terms() == terms


@needed
def test_bfloat16_is_rounded_to_the_nearest():
    """Ties to even, as torch does it."""
    numbers = np.concatenate([np.float32(1) + np.arange(512, dtype=np.float32) * np.float32(2.0**-9), [3.3e38, 1e-37]])
    x = torch.from_numpy(numbers.astype(np.float32))
    eye = torch.zeros(1, 32, len(x))
    for first in range(0, len(x), 32):
        eye.zero_()
        width = min(32, len(x) - first)
        eye[0, torch.arange(width), torch.arange(first, first + width)] = 1
        found = pair_products(x.view(1, 1, -1), eye, 1)[0, :width]
        assert torch.equal(found, x[first:first + width].bfloat16().float())
