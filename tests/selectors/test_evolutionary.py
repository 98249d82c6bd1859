"""SET against its written definition."""

import copy
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from loops import OPTIMIZERS, network, same, train
from selecting import bind, edges_of, mask_of

import neuralgraph as ng
from neuralgraph.selectors import Joined, Weights


def test_set_by_hand():
    """Of 4 real of 6 the 2 smallest go; every pair of the 4 others, these two among them, is as likely."""
    weight, seen = torch.tensor([0.1, -5.0, 3.0, -0.2, 9.0, 7.0]), Counter()
    for seed in range(600):
        selector = ng.selectors.SET(4, drop=0.5, every=2)
        bind(selector, Weights((1, 6)), weight, seed)
        selector.keep(mask_of(0, 1, 2, 3, n=6))
        selector.begin(0, 8)
        assert not selector.dense and selector.advance(1, 8, weight) is None and not selector.dense
        changed = selector.advance(2, 8, weight)
        assert edges_of(changed) == sorted({0, 1, 2, 3} ^ set(edges_of(selector.mask)))
        seen[tuple(edges_of(selector.mask))] += 1
    assert set(seen) == {tuple(sorted((1, 2, *pair))) for pair in itertools.combinations((0, 3, 4, 5), 2)}
    assert all(70 < number < 130 for number in seen.values())  # 100 expected, standard deviation 9


def test_new_weights_of_set_are_drawn_as_initial_ones_were():
    """U(-sqrt(3) sigma, sqrt(3) sigma) by draws of seed and step; of kernels all entries, sigma of each layer."""
    candidates = Joined([Weights((4, 5)), Weights((3, 4, 3), "kernel")])
    selector = ng.selectors.SET(16, drop=0.5, every=1, new="init")
    bind(selector, candidates, torch.cat([torch.tensor([-1.0, 3] * 10), torch.tensor([0.5, -0.5] * 18)]))
    selector.begin(0, 8)
    selector.advance(1, 8, torch.randn(56, generator=torch.Generator().manual_seed(0)))
    draw = np.random.Generator(np.random.Philox(key=[int(selector.seed), 1], counter=[0, 0, 0, 1])).random(56)
    size = torch.tensor([2.0] * 20 + [0.5] * 36, dtype=torch.float64)  # -1 and 3 are 2 from their mean
    torch.testing.assert_close(selector.new_weights(), (2 * torch.from_numpy(draw) - 1) * size * 3**0.5, rtol=1e-6, atol=0)
    assert ng.selectors.SET(3).new_weights() is None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_new_weights_are_written_where_edges_grow(optimizer):
    """What grew has its draw, what was dropped 0, what stayed its own; the same after a resume."""
    states, nets = None, []
    for first, last in ((0, 9), (0, 4), (4, 9)):
        net = network("set", seed=first, new="init", every=3)
        steps = OPTIMIZERS[optimizer](net.parameters())
        if first:
            net.load_state_dict(states[0]), steps.load_state_dict(states[1])
        ng.rewire(net, steps, total_steps=12)
        for step in range(first, last):
            before = net.selection().real
            train(net, steps, step, step + 1)
            real = net.selection().real
            grown, dropped = real & ~before, before & ~real
            assert bool(grown.any()) == (step % 3 == 2)
            assert torch.equal(net.weight[grown], net.selector.new_weights().float()[grown]) and net.weight[grown].all()
            assert not net.weight[dropped].any() and (before & real).any() and net.weight[before & real].all()
            for value in steps.state[net.weight].values():
                assert value.shape != net.weight.shape or not value[grown | dropped].any()
        states = copy.deepcopy((net.state_dict(), steps.state_dict()))
        nets.append(net)
    assert same(nets[0], nets[2])
