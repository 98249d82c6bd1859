"""SNFS against its written definition."""

import torch
from selecting import bind, edges_of, mask_of

import neuralgraph as ng
from neuralgraph.selectors import Joined, Weights


def test_snfs_by_hand():
    """m = g1 / 2 + g2; of 2 and 3 real each layer loses 1; both grow in proportion to the mean |m| of what was real.

    Layer 0: real 0 and 1 with m = 6 and 0, mean 3. Layer 1: real 4, 5, 6 with m = 1. 2 * 3 / 4 = 1.5 and 0.5: of equal
    remainders the first, so both in layer 0, which has 3 free places.
    """
    selector = ng.selectors.SNFS(5, drop=0.5, last=0.5, momentum=0.5, window=2, every=4)
    weight = bind(selector, Joined([Weights((1, 4)), Weights((1, 4))]), torch.tensor([1.0, 2, 0, 0, 4, -3, 5, 0]))
    selector.keep(mask_of(0, 1, 4, 5, 6, n=8))
    selector.begin(0, 16)
    wanted = []
    for step in range(1, 5):
        wanted.append(selector.dense)
        gradient = {3: [4.0, 0, 0, 8, 0, 2, -2, 9], 4: [4.0, 0, -3, 0, 1, 0, 0, 0]}.get(step)
        changed = selector.advance(step, 16, weight, *[torch.tensor(gradient)] if gradient else [])
    assert wanted == [False, False, True, True]
    # dropped: 0 (|w| = 1) and 5 (3). |m| of layer 0: 6, 0, 3, 4: candidates 0 and 3 grow, 0 as it was
    assert edges_of(selector.mask) == [0, 1, 3, 4, 6]
    assert edges_of(changed) == [3, 5]
    assert not selector.average.any()


def test_snfs_fills_at_most_99_percent_of_a_layer():
    """Layer 0 has all the momentum, but only 3 free places of 4, of which 2 are given; the rest goes to layer 1."""
    selector = ng.selectors.SNFS(6, drop=0.5, last=0.5, window=1, every=1)
    weight = bind(selector, Joined([Weights((1, 4)), Weights((1, 8))]), torch.arange(1.0, 13.0))
    selector.keep(mask_of(0, 1, 4, 5, 6, 7, n=12))
    selector.begin(0, 4)
    gradient = torch.zeros(12)
    gradient[:4] = torch.tensor([1.0, 1, 3, 2])
    selector.advance(1, 4, weight, gradient)
    # dropped 0, and 4 and 5; growth of 3: 2 in layer 0 (2 and 3), 1 in layer 1, where all |m| are 0: the last
    assert edges_of(selector.mask) == [1, 2, 3, 6, 7, 11]
