"""Cannistraci-Hebb training: scores by following paths, and what it draws."""

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings, strategies as st
from selecting import bind, edges_of, mask_of

import neuralgraph as ng
from neuralgraph.selectors import Edges, Joined, Weights, cht
from neuralgraph.selectors.cht import dead_ends, path_scores


def paths(real, u, v):
    """All u -> a <- b -> v along a set of (target, source), with the other ends of the real edges of a and b."""
    for a in [t for t, s in real if s == u]:
        for b in [s for t, s in real if t == v]:
            if (a, b) in real:
                yield a, b


def by_following_paths(real, u, v, soft):
    found = list(paths(real, u, v))
    targets, sources = {a for a, _ in found}, {b for _, b in found}
    outside_a = {a: sum(t == a and s not in sources and s != u for t, s in real) for a in targets}
    outside_b = {b: sum(s == b and t not in targets and t != v for t, s in real) for b in sources}
    if not soft:
        return sum(((1 + outside_a[a]) * (1 + outside_b[b]))**-0.5 for a, b in found)
    inside_a = {a: sum(t == a and s in sources for t, s in real) for a in targets}
    inside_b = {b: sum(s == b and t in targets for t, s in real) for b in sources}
    return sum((1 + inside_a[a]) / (1 + outside_a[a]) for a in targets) + \
        sum((1 + inside_b[b]) / (1 + outside_b[b]) for b in sources)


PLACES = {
    "linear": lambda: Weights((5, 6)),
    "convolution": lambda: Weights((4, 2, 3)),  # each entry of a kernel is a source of its own
    "graph": lambda: Edges(ng.wirings.blocks([3, 3, 3])),
    "several": lambda: Joined([Weights((4, 4)), Weights((3, 5))]),
}


@pytest.mark.parametrize("followed", [False, True])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_scores_are_sums_over_paths(place, soft, followed, seed):
    """By products of matrices and by following paths."""
    candidates, generator = PLACES[place](), torch.Generator().manual_seed(seed)
    real = torch.rand(candidates.num, generator=generator) < 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cht, "SPARSE", 2.0 if followed else 0.0)
        score = path_scores(candidates, real, soft)
    target, source = candidates.target().tolist(), candidates.source().tolist()
    if place == "convolution":
        source = [3 * s + entry for s, entry in zip(source, itertools.cycle(range(3)))]
    known = {(target[e], source[e]) for e in edges_of(real)}
    for edge in edges_of(~real):
        expected = by_following_paths(known, source[edge], target[edge], soft)
        assert score[edge].item() == pytest.approx(expected, rel=1e-6)


def test_cht_by_hand():
    """3 x 3; 1 of 4 goes, (1, 2). Left (0, 0), (0, 1), (1, 0): one path, from source 1 to target 1."""
    selector = ng.selectors.CHT(4, drop=0.25, every=1)
    weight = bind(selector, Weights((3, 3)), torch.tensor([3.0, 4, 0, 5, 0, 1, 0, 0, 0]))
    selector.keep(mask_of(0, 1, 3, 5, n=9))
    selector.begin(0, 8)
    assert not selector.dense
    assert edges_of(selector.advance(1, 8, weight)) == [4, 5]
    assert edges_of(selector.mask) == [0, 1, 3, 4]


def test_cht_draws_where_no_path_leads():
    """Both real edges of 4 x 4 are alone: of the 15 others each is as likely."""
    seen = Counter()
    for seed in range(300):
        selector = ng.selectors.CHT(2, drop=0.5, every=1)
        weight = bind(selector, Weights((4, 4)), torch.arange(1.0, 17.0), seed)
        selector.keep(mask_of(0, 15, n=16))
        selector.begin(0, 8)
        selector.advance(1, 8, weight)
        assert selector.mask[15]
        seen[edges_of(selector.mask)[0]] += 1
    assert set(seen) == set(range(15)) and max(seen.values()) < 45  # 20 expected, standard deviation 4.3


def test_chains_to_dead_nodes_are_dropped():
    """0 -> 2 -> 4 stays; 3 is read by none, so 1 -> 3 goes; 6 is reached by none, so 6 -> 5 goes, and then 5 -> 4."""
    src, dst = torch.tensor([0, 2, 1, 5, 6]), torch.tensor([2, 4, 3, 4, 5])
    role = ng.wirings.from_edges([(0, 2), (2, 4), (1, 3), (3, 4), (1, 6), (6, 5), (5, 4)], inputs=[0, 1],
                                 outputs=[4]).role
    assert edges_of(dead_ends(src, dst, role, torch.ones(5, dtype=torch.bool))) == [2, 3, 4]
    wiring = ng.wirings.blocks([2, 3, 3, 2])
    for chains, left in ((None, 0), (False, 3)):
        selector = ng.selectors.CHT(3, drop=0.0, every=1, chains=chains)
        weight = bind(selector, wiring, torch.ones(wiring.num_edges))
        selector.keep((wiring.src < 2) & (wiring.dst == 2) | (wiring.src == 2) & (wiring.dst == 5))
        before = selector.mask
        selector.begin(0, 8)
        selector.advance(1, 8, weight)
        assert (before & selector.mask).sum() >= left and selector.num_real == 3
        assert chains is False or not torch.equal(before, selector.mask)


def test_chts_draws_in_proportion():
    """1 of 3 kept with probability |w|^T / sum, T = 1 + 8 t / (end T); 2 grow at random: no path leads there."""
    weight, kept = torch.tensor([1.0, 2, 1.5, 0, 0, 0]), Counter()
    for seed in range(600):
        selector = ng.selectors.create("chts", 3, drop=0.7, every=1, end=1.0)
        bind(selector, Weights((1, 6)), weight, seed)
        selector.keep(mask_of(0, 1, 2, n=6))
        selector.begin(0, 8)
        selector.advance(1, 8, weight)  # T = 2: 4 / 7.25, 2.25 / 7.25 and 1 / 7.25 of one that is kept for sure
        kept[tuple(edges_of(selector.mask[:3]))] += 1
    # 2 of 5 others grow at random: an edge is real if it is kept, or drawn: 2 / 5
    share = {edge: sum(number for edges, number in kept.items() if edge in edges) / 600 for edge in range(3)}
    for edge, p in enumerate((1 / 7.25, 4 / 7.25, 2.25 / 7.25)):
        assert share[edge] == pytest.approx(p + (1 - p) * 0.4, abs=0.06)  # standard deviation 0.02


def test_chts_grows_in_proportion_to_the_score():
    real = mask_of(0, 1, 2, 4, 5, n=12)  # of 3 x 4
    candidates, seen = Weights((3, 4)), Counter()
    score = path_scores(candidates, real, True)
    assert edges_of(score.where(~real, 0.0) > 0) == [6]
    real = mask_of(0, 1, 2, 4, 5, 9, n=12)
    score = path_scores(candidates, real, True).where(~real, 0.0)
    for seed in range(500):
        selector = ng.selectors.create("chts", 7, drop=1 / 7, every=1)
        weight = bind(selector, candidates, torch.full((12,), 1e-30), seed)
        weight[real] = 1.0
        selector.keep(real | mask_of(3, n=12))
        selector.begin(0, 8)
        selector.advance(1, 8, weight)
        grown, = edges_of(selector.mask & ~real)
        seen[grown] += 1
    assert set(seen) <= set(edges_of(score > 0)) and len(edges_of(score > 0)) > 2
    for edge in edges_of(score > 0):
        assert seen[edge] / 500 == pytest.approx((score[edge] / score.sum()).item(), abs=0.09)
