"""Compiled kernels against torch in double precision, over random shapes, and never out of bounds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkout import ROOT
from hypothesis import given, settings, strategies as st

from neuralgraph import kernels

if not kernels.AVAILABLE:
    pytest.skip("numba is not there", allow_module_level=True)

from neuralgraph.kernels import maps, operators, plain, ranking, record, rows, sums
from neuralgraph.kernels.edges import EdgeList
from neuralgraph.kernels.plain import by_entry, by_other_end, by_row

CANARY = 64
sizes = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 49, 64, 65, 100, 130])
sides = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 14, 16, 17, 33])
dtypes = st.sampled_from([torch.float32, torch.float64])

pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.fixture(autouse=True)
def canaries(monkeypatch):
    """Everything kernels allocate lies between numbers that must not change."""
    new_empty, guarded = torch.Tensor.new_empty, []

    def allocate(self, *size, **options):
        shape = new_empty(self, *size, **options, device="meta").shape
        whole = new_empty(self, shape.numel() + 2 * CANARY, **options)
        whole.fill_(float("nan") if whole.is_floating_point() else 77)
        guarded.append(whole)
        return whole[CANARY:CANARY + shape.numel()].view(shape)

    monkeypatch.setattr(torch.Tensor, "new_empty", allocate)
    yield
    for whole in guarded:
        assert torch.cat([whole[:CANARY], whole[-CANARY:]]).isnan().all()


def surrounded(*shape, dtype, generator):
    """Random numbers with nan before and after each sample's and each row's numbers."""
    batch, n, *rest = shape
    whole = torch.full((batch, n + 2, *rest), float("nan"), dtype=dtype)
    inside = whole[:, 1:n + 1]
    inside.copy_(torch.randn(shape, dtype=dtype, generator=generator))
    return inside


def close(actual, expected):
    """Equal to rounding, of the size of the largest value."""
    tolerance = 1e-11 if actual.dtype == torch.float64 else 2e-4
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=tolerance * scale)


@given(batch=st.integers(1, 4), n=st.integers(1, 9), m=st.integers(0, 9), length=sizes, dtype=dtypes,
       density=st.sampled_from([0.0, 0.3, 1.0]), seed=st.integers(0, 2**32))
@settings(max_examples=150)
def test_sums_and_dots(batch, n, m, length, dtype, density, seed):
    g = torch.Generator().manual_seed(seed)
    x = surrounded(batch, n, length, dtype=dtype, generator=g)
    y = surrounded(batch, m, length, dtype=dtype, generator=g)
    real = torch.rand(m, n, generator=g) < density
    weight = torch.randn(m, n, dtype=dtype, generator=g) * real
    dst, src = (end.flatten().int() for end in
                torch.meshgrid(torch.arange(m), torch.arange(n), indexing="ij"))
    edges = EdgeList.of(real.flatten(), dst, src, m)
    number = torch.arange(m * n, dtype=torch.int32)
    for lists in (vars(EdgeList.of_entries(real.flatten(), entries, (m, n))).values() for entries in (None, number)):
        assert all(map(torch.equal, lists, vars(edges).values()))
    some = (torch.rand(m * n, generator=g) < 0.5).nonzero().flatten()  # candidates, a part of the matrix
    part = real.flatten()[some], some.int()
    expected = EdgeList.of(part[0], dst[some], src[some], m)
    for lists in (EdgeList.of_entries(*part, (m, n)), EdgeList(*by_entry(*part, m, n))):
        assert all(map(torch.equal, vars(lists).values(), vars(expected).values()))
    out = sums.weighted_sums(x, edges.first, edges.index, weight.flatten()[edges.place])
    close(out, torch.einsum("vu,bul->bvl", weight.double(), x.double()))
    more = surrounded(batch, m, length, dtype=dtype, generator=g)
    for onto in (True, False):
        before = onto * more.double()
        sums.weighted_sums_into(more, x, edges.first, edges.index, weight.flatten()[edges.place], onto)
        close(more, before + torch.einsum("vu,bul->bvl", weight.double(), x.double()))

    back = edges.transposed(n)
    out = sums.weighted_sums(y, back.first, back.index, weight.flatten()[back.place])
    close(out, torch.einsum("vu,bvl->bul", weight.double(), y.double()))

    expected = torch.einsum("bvl,bul->vu", y.double(), x.double())
    close(sums.edge_dots(x, y, src, dst), expected.flatten())
    close(sums.edge_dots(x, y, edges.index, edges.rows), expected.flatten()[edges.place])
    assert torch.equal(rows.channel_rows(x), x.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("length", [3, 83])
def test_dots_of_many_edges(length, two_threads):
    """More than are added up at a time by all threads; of whole numbers, which are exact."""
    x, y = (torch.randint(-9, 10, (2, n, length)).float() for n in (401, 400))
    dst, src = (end.flatten().int() for end in torch.meshgrid(torch.arange(400), torch.arange(401), indexing="ij"))
    assert len(src) > 16 * sums.TOGETHER
    assert torch.equal(sums.edge_dots(x, y, src, dst), torch.einsum("bvl,bul->vu", y, x).flatten())


@given(n=st.integers(0, 8), m=st.integers(1, 8), edges=st.integers(0, 40), seed=st.integers(0, 2**32))
def test_edge_lists_equal_those_of_plain_torch(n, m, edges, seed):
    g = torch.Generator().manual_seed(seed)
    edges = edges if n else 0
    row = torch.randint(m, (edges,), generator=g).int()
    other = torch.randint(max(n, 1), (edges,), generator=g).int()
    kept = torch.rand(edges, generator=g) < 0.6
    mine = EdgeList.of(kept, row, other, m)
    expected = by_row(kept, row, other, m)
    for actual, wanted in zip((mine.first, mine.index, mine.place), expected):
        assert torch.equal(actual, wanted)
    turned = mine.transposed(max(n, 1))
    for actual, wanted in zip((turned.first, turned.index, turned.place),
                              by_other_end(*expected, max(n, 1))):
        assert torch.equal(actual, wanted)


def reference(x, weight, bias, mean, rstd, kernel, norm, slope, stride):
    """norm, activation and convolution as they are written."""
    if norm != maps.NO_NORM:
        if norm != maps.FIXED:
            dims = (2, 3) if norm == maps.INSTANCE else (0, 2, 3)
            middle = x.mean(dims, keepdim=True)
            x = (x - middle) / (((x - middle)**2).mean(dims, keepdim=True) + 1e-5).sqrt()
        else:
            x = (x - mean.view(-1, 1, 1)) * rstd.view(-1, 1, 1)
        x = x * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)
    x = torch.where(x > 0, x, slope * x)
    if kernel is None:
        return x
    return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=x.shape[1])


def check_maps(batch, n, height, width, side, stride, norm, slope, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    x = surrounded(batch, n, height, width, dtype=dtype, generator=g)
    weight, bias, mean = (torch.randn(n, dtype=dtype, generator=g) for _ in range(3))
    rstd = torch.rand(n, dtype=dtype, generator=g) + 0.5
    kernel = torch.randn(n, 1, side, side, dtype=dtype, generator=g) if side else None
    if norm == maps.NO_NORM:
        weight = bias = mean = rstd = None
    twins = {name: value.double().clone().requires_grad_() for name, value in
             dict(x=x, weight=weight, bias=bias, kernel=kernel).items() if value is not None}
    expected = reference(twins["x"], twins.get("weight"), twins.get("bias"),
                         None if mean is None else mean.double(),
                         None if rstd is None else rstd.double(), twins.get("kernel"), norm, slope, stride)
    if norm == maps.BATCH:
        mean, rstd, variance = maps.channel_moments(x, 1e-5)
        close(variance, x.double().var((0, 2, 3), unbiased=False))
    out = surrounded(*expected.shape, dtype=dtype, generator=g)
    own_mean, own_rstd = maps.map_forward(out, x, weight, bias, mean, rstd, kernel, norm, slope, stride,
                                          1e-5)
    close(out, expected.detach())
    if norm == maps.INSTANCE:
        mean, rstd = own_mean, own_rstd
    gradient = surrounded(*out.shape, dtype=dtype, generator=g)
    wanted = dict(zip(twins, torch.autograd.grad(expected, list(twins.values()), gradient.double())))
    actual = dict(zip(("x", "weight", "bias", "kernel"), maps.map_backward(
        gradient, x, weight, bias, mean, rstd, kernel, norm, slope, stride)))
    for name, value in wanted.items():
        close(actual[name], value)


@given(batch=st.integers(1, 3), n=st.integers(1, 3), height=sides, width=sides,
       side=st.sampled_from([0, 1, 3, 5, 7]), stride=st.integers(1, 3),
       norm=st.sampled_from([maps.NO_NORM, maps.FIXED, maps.INSTANCE, maps.BATCH]),
       slope=st.sampled_from([0.0, 0.01, 1.0]), dtype=dtypes, seed=st.integers(0, 2**32))
@settings(max_examples=300)
def test_maps(batch, n, height, width, side, stride, norm, slope, dtype, seed):
    if dtype == torch.float32 and height * width < 4:
        dtype = torch.float64  # a variance of two numbers may be tiny
    check_maps(batch, n, height, width, side, stride, norm, slope, dtype, seed)


@pytest.mark.parametrize("shape", [(64, 3, 8, 8), (2, 3, 1, 5), (3, 2, 33, 17)])
@pytest.mark.parametrize("middle", [0.0, 1000.0, -3e4])
def test_moments_do_not_suffer_from_a_mean_far_from_zero(shape, middle):
    """As exact as the type can say them: what is left is the rounding of the mean itself."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + middle
    exact = x.double()
    mean, rstd, variance = maps.channel_moments(x, 1e-5)
    dims, ulp = (0, 2, 3), 2**-23
    near = dict(rtol=ulp, atol=4 * ulp)
    torch.testing.assert_close(mean.double(), exact.mean(dims), **near)
    torch.testing.assert_close(variance.double(), exact.var(dims, unbiased=False), rtol=8 * ulp, atol=0)
    torch.testing.assert_close(rstd.double(), (exact.var(dims, unbiased=False) + 1e-5).rsqrt(), rtol=8 * ulp, atol=0)
    own_mean, own_rstd = maps.map_forward(torch.empty_like(x), x, torch.ones(shape[1]), torch.zeros(shape[1]), None,
                                          None, None, maps.INSTANCE, 1.0, 1, 1e-5)
    torch.testing.assert_close(own_mean.double(), exact.mean((2, 3)), **near)
    torch.testing.assert_close(own_rstd.double(), (exact.var((2, 3), unbiased=False) + 1e-5).rsqrt(), rtol=8 * ulp,
                               atol=0)


def test_sums_of_gradients_over_many_samples():
    """Many gradients of one sign: added in float32 one after the other they would lose digits."""
    g = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(4000, 2, 4, 4, generator=g), torch.rand(4000, 2, 4, 4, generator=g) + 1
    ones, zeros = torch.ones(2), torch.zeros(2)
    _, to_weight, to_bias, _ = maps.map_backward(gradient, x, ones, zeros, zeros, ones, None, maps.FIXED, 1.0, 1)
    torch.testing.assert_close(to_bias.double(), gradient.double().sum((0, 2, 3)), rtol=2e-7, atol=0)
    torch.testing.assert_close(to_weight.double(), (gradient.double() * x.double()).sum((0, 2, 3)), rtol=0, atol=0.02)


@pytest.mark.parametrize("wrong", [{"batch": 2}, {"batch": 2, "x": 7, "slope": 0.5, "y": 1}])
def test_arguments_are_given_by_name(wrong):
    packer = record.Packer(record.record("batch x", "slope"))
    block = packer.block(packer.fields(x=7, slope=0.3, batch=2))
    numbers = np.frombuffer(block, packer.layout)[0]
    assert numbers.tolist() == (0, 0, 2, 7, 0.3)  # the counters first, and no rounding
    with pytest.raises(TypeError):
        packer.fields(**wrong)


def check_every_small_shape():
    """What LLVM once got wrong: loops whose remainder it forgot, for small maps and kernels."""
    for height in (1, 2, 3, 5, 8):
        for width in (1, 2, 3, 5, 8, 17):
            for side in (0, 1, 3, 5):
                for stride in (1, 2):
                    for norm in (maps.NO_NORM, maps.FIXED):
                        check_maps(2, 3, height, width, side, stride, norm, 0.0, torch.float64, 0)


def test_code_from_the_disk_computes_the_same():
    """What numba reads from its cache is optimised in another way than what it has just compiled."""
    check_every_small_shape()
    code = "import test_kernels; test_kernels.check_every_small_shape()"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers"), os.path.dirname(__file__)])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_kernels_are_compiled_again_when_a_part_of_them_changes(tmp_path):
    """The part stands in another file than the kernel."""
    package = Path(sums.__file__).parents[1]
    shutil.copytree(package, tmp_path / "neuralgraph", ignore=shutil.ignore_patterns("__pycache__"))
    code = """
import torch
from neuralgraph.kernels.sums import weighted_sums
first, index = torch.tensor([0, 4]).int(), torch.tensor([0, 1, 2, 3]).int()
print(float(weighted_sums(torch.ones(1, 4, 16), first, index, torch.tensor([1.0, 2, 3, 4]))[0, 0, 0]))
"""
    part = tmp_path / "neuralgraph" / "kernels" / "vector.py"
    results = []
    for change in ("builder.fadd(a, b)", "builder.fsub(a, b)"):
        part.write_text(part.read_text().replace("builder.fadd(a, b)", change))
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")})
        results.append(float(done.stdout))
    assert results == [10.0, (1 - 2) - (3 - 4)]


@given(n=st.integers(16, 400), share=st.floats(0.0, 1.0), levels=st.sampled_from([3, 20, 10**6]),
       by_magnitude=st.booleans(), dtype=dtypes, seed=st.integers(0, 2**32))
def test_bracketed_top_k(n, share, levels, by_magnitude, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    values = torch.randint(-levels, levels + 1, (n,), generator=g).to(dtype)
    k = max(1, round(share * n))
    sample, ranking.SAMPLE = ranking.SAMPLE, 16
    try:
        mask = ranking.bracketed_top_k(values, k, by_magnitude)
    finally:
        ranking.SAMPLE = sample
    if mask is None:  # the sample misled: rare, and the caller ranks in another way
        return
    score = values.abs() if by_magnitude else values
    expected = torch.zeros(n, dtype=torch.bool)
    expected[score.argsort(stable=True)[n - k:]] = True
    assert torch.equal(mask, expected)


def test_a_random_sample_rarely_misleads():
    g = torch.Generator().manual_seed(0)
    values = torch.randn(200_000, generator=g)
    found = [ranking.bracketed_top_k(values.roll(i), k, True) is not None
             for i in range(5) for k in (1, 10, 1000, 32_000, 100_000, 199_999, 200_000)]
    assert sum(found) >= 0.9 * len(found)


@pytest.mark.skipif(not hasattr(torch.library, "opcheck"), reason="before PyTorch 2.4")
def test_operators_are_what_torch_expects_of_operators(monkeypatch):
    monkeypatch.undo()
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 16, generator=g), torch.randn(2, 4, 16, generator=g)
    images = torch.randn(2, 3, 4, 4, generator=g)
    first, index = torch.tensor([0, 2, 3, 3, 4]).int(), torch.tensor([0, 1, 2, 1]).int()
    weight, kernel = torch.randn(4, generator=g), torch.randn(3, 1, 3, 3, generator=g)
    scale, shift = torch.rand(3, generator=g), torch.rand(3, generator=g)
    tests = ("test_schema", "test_faketensor")
    check = torch.library.opcheck
    check(operators.weighted_sums, (x, first, index, weight), test_utils=tests)
    for onto in (True, False):
        check(operators.weighted_sums_into, (torch.randn(2, 4, 16), x, first, index, weight, onto), test_utils=tests)
    check(operators.edge_dots, (x, y, index, torch.tensor([0, 0, 1, 3]).int()), test_utils=tests)
    check(operators.channel_rows, (x,), test_utils=tests)
    check(operators.channel_moments, (images, 1e-5), test_utils=tests)
    check(operators.map_forward, (torch.empty_like(images), images, scale, shift, None, None, kernel,
                                  maps.INSTANCE, 0.0, 1, 1e-5), test_utils=tests)
    check(operators.map_backward, (images, images, scale, shift, scale, scale, kernel, maps.FIXED, 0.0, 1),
          test_utils=tests)


@given(batch=st.integers(1, 3), n=st.integers(1, 5), m=st.integers(1, 5), length=st.integers(1, 9),
       seed=st.integers(0, 2**32))
@settings(max_examples=30)
def test_plain_torch_does_the_same(batch, n, m, length, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, n, length, generator=g, dtype=torch.float64)
    y = torch.randn(batch, m, length, generator=g, dtype=torch.float64)
    real = torch.rand(m, n, generator=g) < 0.5
    dst, src = (end.int() for end in real.nonzero().T)
    edges = EdgeList.of(torch.ones(len(src), dtype=torch.bool), dst, src, m)
    weight = torch.randn(len(src), generator=g, dtype=torch.float64)
    close(plain.weighted_sums(x, edges.first, edges.index, weight),
          sums.weighted_sums(x, edges.first, edges.index, weight))
    for onto in (True, False):
        into = [torch.ones(batch, m, length, dtype=torch.float64) for _ in range(2)]
        for way, out in zip((plain, sums), into):
            way.weighted_sums_into(out, x, edges.first, edges.index, weight, onto)
        close(*into)
    close(plain.edge_dots(x, y, src, dst), sums.edge_dots(x, y, src, dst))
