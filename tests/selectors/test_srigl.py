"""SRigL against its written definition."""

import pytest
import torch
from selecting import bind, edges_of, mask_of

import neuralgraph as ng
from neuralgraph.selectors import Weights


@pytest.mark.parametrize("is_last, gamma, g, real", [
    (False, 1.0, 0.3, [0, 1, 2, 8, 9, 11]),
    (True, 1.0, 0.3, [0, 1, 6, 7, 8, 9]),
    (False, 0.25, 9.0, [0, 1, 6, 7, 8, 9])])
def test_srigl_by_hand(is_last, gamma, g, real):
    """3 nodes of 4 candidates, 6 real, c = 2; f = 1/3: 2 go, so 4 largest |w| and 2 largest |g| are salient."""
    selector = ng.selectors.SRigL(6, gamma=gamma, drop=1 / 3, every=1, end=1.0)
    selector.fraction = lambda step, total: 1 / 3 + 1e-9
    weight = bind(selector, Weights((3, 4), is_last=is_last), torch.tensor(
        [9.0, 8, 1, 0, 0.3, 0.2, 0.5, 0.1, 7, 6, 0, 0]))
    start = selector.mask.view(3, 4).sum(1)
    assert start.tolist() == [2, 2, 2]
    selector.keep(mask_of(0, 1, 4, 5, 8, 9, n=12))
    selector.begin(0, 4)
    # kept: 0, 1, 8, 9; salient by |g|: 2 and 11. Node 1 has none: ablated, unless it is an output. Then c = 6 / 2 = 3,
    # filled by |g|: node 0 with 2, node 2 with 11. As outputs all keep c = 2: node 1 grows its largest |g|, 6 and
    # 7; so it does where 6 is salient and one is enough
    gradient = torch.tensor([0.0, 0, 5, 1, 0, 0.1, g, 0.2, 0, 0, 2, 4])
    selector.advance(1, 4, weight, gradient)
    assert edges_of(selector.mask) == real


def test_srigl_truncates_by_magnitude_and_ablates_no_more_than_there_is_room():
    selector = ng.selectors.SRigL(6, gamma=0.5, drop=0.0, every=1, end=1.0)
    weight = bind(selector, Weights((3, 4)), torch.tensor([4.0, 9, 5, 6, 3, 0, 0, 0, 2, 0, 0, 0]))
    selector.keep(mask_of(0, 1, 2, 3, 4, 8, n=12))
    selector.begin(0, 4)
    selector.advance(1, 4, weight, torch.tensor([0.0, 0, 0, 0, 0, 1, 3, 2, 0, 3, 2, 1]))
    # c = 2: node 0 keeps its largest 2 of 4, the others are filled up by |g|
    assert edges_of(selector.mask) == [1, 3, 4, 6, 8, 9]
    selector = ng.selectors.SRigL(9, gamma=1.0, drop=0.0, every=1, end=1.0)
    weight = bind(selector, Weights((3, 4)), torch.arange(12.0))
    selector.keep(mask_of(0, 1, 2, 3, 4, 5, 6, 7, 8, n=12))
    selector.begin(0, 4)
    selector.advance(1, 4, weight, torch.arange(12.0))
    assert selector.mask.view(3, 4).sum(1).tolist() == [3, 3, 3]  # node 2 has 1 < 3, but two nodes hold only 8
