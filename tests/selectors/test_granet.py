"""GraNet against its written definition."""

import math

import torch
from selecting import bind, edges_of

import neuralgraph as ng
from neuralgraph.selectors import Joined, Weights


def test_granet_by_hand():
    """8 candidates in two layers, k = 2. Step 2 of 8: 2 + ceil(6 (3/4)^3) = 5 remain; p = (1 + cos(pi / 4)) / 4."""
    selector = ng.selectors.GraNet(2, initial=1.0, drop=0.5, last=0.0, every=2, end=1.0)
    weight = bind(selector, Joined([Weights((1, 4)), Weights((1, 4))]), torch.tensor([5.0, -6, 7, 1, 2, -8, 4, 0.5]))
    assert selector.num_real == 8
    selector.begin(0, 8)
    selector.advance(1, 8, weight)
    assert selector.dense
    gradient = torch.tensor([0.0, 1, 0, 9, 3, 0, 2, 1])
    changed = selector.advance(2, 8, weight, gradient)
    # globally the largest: 0, 1, 2 | 5, 6. p = 0.427: ceil(1.28) = 2 of layer 0 go, 0 and 1, and ceil(0.85) = 1 of
    # layer 1, 6; by |g| of those that are left, 3 and 1 grow in layer 0, 4 in layer 1
    assert edges_of(selector.mask) == [1, 2, 3, 4, 5]
    assert edges_of(changed) == [0, 6, 7]
    for step in range(3, 9):
        selector.advance(step, 8, weight, gradient)
        assert selector.num_real == 2 + math.ceil(6 * (1 - step // 2 * 2 / 8)**3)
        # step 4: 1, 2 | 5 of largest |w| remain, one of each layer goes, 1 and 5, and 3 and 4 grow; step 6: 3 remain,
        # 3 and 4 go and grow again; step 8: of these the 2 largest |w|, and nothing grows
        assert step < 4 or edges_of(selector.mask) == ([2, 3, 4] if step < 8 else [2, 4])
    assert not selector.dense
