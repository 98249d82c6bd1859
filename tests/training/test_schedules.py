"""Learning rates over a training, by hand."""

import math

import pytest

from neuralgraph.training import Recipe


def test_schedules():
    cosine = Recipe("r", "", epochs=4, lr=0.3)
    assert [cosine.learning_rate(t, 5) for t in range(20)] == pytest.approx(
        [0.15 * (1 + math.cos(math.pi * (t + 1) / 20)) for t in range(20)])
    step = Recipe("r", "", epochs=160, lr=0.1, schedule="step", milestones=(80, 120))
    assert [step.learning_rate(e * 7, 7) for e in (0, 79, 80, 119, 120, 159)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert Recipe("r", "", schedule="constant").learning_rate(10**6, 10) == 0.1
