"""A selection whose weights are cut into runs."""

import dataclasses
import random

import torch
from hypothesis import given, strategies as st

from neuralgraph.selectors import Selection


@given(seed=st.integers(0, 10**9), number=st.integers(0, 12))
def test_runs_have_the_weights_and_together_the_gradient_of_slices(seed, number):
    rng = random.Random(seed)
    ends = sorted(rng.sample(range(number + 1), rng.randint(0, number // 2 + 1)))
    runs = [slice(first, last) for first, last in zip(ends, ends[1:]) if rng.random() < 0.7]
    leaf, factor = torch.randn(number, requires_grad=True), torch.randn(number)
    selection = Selection(torch.ones(number, dtype=torch.bool), leaf * 2, True)
    selection.cut(runs)
    asked = [*runs, slice(0, number)]
    for run in asked:
        assert torch.equal(selection.of(run), selection.weight[run])
    sum((selection.of(run) * factor[run]).sum() for run in asked).backward()
    within = torch.zeros(number)
    for run in asked:
        within[run] += 1
    torch.testing.assert_close(leaf.grad, 2 * factor * within)
    other = dataclasses.replace(selection, weight=torch.zeros(number))
    assert all(not other.of(run).any() for run in runs)
