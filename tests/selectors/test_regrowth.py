"""What all selectors have in common that hold a mask and change it by dropping and growing."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from loops import OPTIMIZERS, STEPS, Net, loss_of, network, same, train, train_layers
from selecting import bind, edges_of, mask_of

import neuralgraph as ng
from neuralgraph.backends import Backend, create
from neuralgraph.errors import InputError, SelectionError, UnknownNameError
from neuralgraph.selectors import SELECTORS, DropAndGrow, Edges, Joined, Weights, options_of
from neuralgraph.selectors.regrowth import apportion

REGROWING = [name for name in SELECTORS if {"every", "drop"} <= options_of(name).keys()]
BY_GRADIENT = ("rigl", "snfs", "granet", "srigl")


def test_the_family_is_complete():
    assert set(REGROWING) >= {"set", "snfs", "rigl", "granet", "srigl", "cht", "chts"}


# What all have in common
KINDS = {
    "graph": lambda: Edges(ng.wirings.blocks([4, 4, 4])),
    "weights": lambda: Weights((4, 4, 3)),
    "kernels": lambda: Weights((8, 6, 3), "kernel"),
    "several": lambda: Joined([Weights((4, 6)), Weights((4, 6, 2), "kernel")]),
}


@pytest.mark.parametrize("per", ["layer", "block", "node", "group", None])
@pytest.mark.parametrize("name", REGROWING)
@settings(max_examples=6)
@given(kind=st.sampled_from(list(KINDS)), seed=st.integers(0, 10**6), fan_in=st.integers(0, 4),
       ties=st.booleans(), constrained=st.booleans())
def test_exact_k_within_every_group(name, per, kind, seed, fan_in, ties, constrained):
    """k at the end, and at every step but for GraNet; each node's or block's own number; always and never."""
    candidates, generator = KINDS[kind](), torch.Generator().manual_seed(seed)
    options = {} if per is None else {"per": per, **({"group": 2} if per == "group" else {})}
    if "per" not in options_of(name) and per is not None:
        return
    nodes = len(candidates.target().unique())
    k = fan_in * nodes
    is_fixed = mask_of(0, n=candidates.num)
    if constrained and per != "group" and name != "srigl" and 0 < fan_in:
        options |= {"always": is_fixed, "never": is_fixed.roll(1)} if fan_in < 4 else {"always": is_fixed}
    selector = ng.selectors.create(name, k, every=2, **options)
    weight = torch.randn(candidates.num_weights, generator=generator)
    bind(selector, candidates, weight)
    selector.begin(0, 21)
    for step in range(1, 22):
        before = selector.mask
        weight, gradient = torch.randn(2, candidates.num_weights, generator=generator)
        if ties:
            weight, gradient = weight.round(), gradient.round() * 0
        assert selector.dense == selector.wants_gradient(step, 21)
        changed = selector.advance(step, 21, weight, *[gradient] if selector.dense else [])
        real = selector.mask
        assert torch.equal(torch.zeros_like(real) if changed is None else changed, before ^ real)
        if name != "granet":
            assert real.sum() == k == selector.num_real
        for fixed, value in ((options.get("always"), True), (options.get("never"), False)):
            assert fixed is None or (real[fixed] == value).all()
        if per in ("node", "group") and name != "granet":
            assert set(torch.bincount(candidates.target()[real]).tolist()) <= {0, fan_in}
        if per == "block" and name != "granet":
            assert torch.equal(torch.bincount(candidates.block()[real]), torch.bincount(candidates.block()[before]))
    assert selector.num_real == k
    if per in ("node", "group"):
        assert set(torch.bincount(candidates.target()[real]).tolist()) <= {0, fan_in}


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_of_equal_ones_the_last_stay_and_grow(name):
    """As the stable sort of all selectors has it."""
    options = {"granet": {"initial": 0.0}}.get(name, {})
    selector = ng.selectors.create(name, 4, drop=1.0, every=1, end=1.0, **options)
    weight = bind(selector, Weights((1, 8)), torch.ones(8))
    selector.fraction = lambda step, total: 0.5
    selector.keep(mask_of(0, 1, 2, 3, n=8))
    selector.begin(0, 4)
    selector.advance(1, 4, weight, torch.ones(8))
    assert edges_of(selector.mask) == [2, 3, 6, 7]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", [*REGROWING, "snip"])
def test_weights_and_momentum_of_what_changed_become_zero(name, optimizer):
    net = network(name)
    steps = OPTIMIZERS[optimizer](net.parameters())
    ng.rewire(net, steps, total_steps=STEPS)
    before, number = net.selection().real, 0
    for step in range(STEPS):
        train(net, steps, step, step + 1)
        real = net.selection().real
        changed = real ^ before
        number += int(changed.sum())
        if name != "snip" or step == 0:
            assert not net.weight[changed].any()
        for value in steps.state[net.weight].values():
            if value.shape == net.weight.shape:
                assert not value[changed].any() and not value[before ^ real].any()
        before = real
    assert number > 4


@pytest.mark.parametrize("name", [*REGROWING, "snip"])
@pytest.mark.parametrize("make", [ng.StaticNeuralGraph, ng.DiscreteTimeNeuralGraph])
def test_gradients_of_absent_edges_are_computed_only_when_they_are_used(name, make):
    """No backend is asked for them between changes, and by SET and CHT never."""
    asked = []

    class Asking(Backend):
        """The sparse backend, listening."""

        inner = create("sparse")

        def propagate(self, stage, messages, selection, *shared):
            asked[-1] |= selection.reaches_all
            return self.inner.propagate(stage, messages, selection, *shared)

    options = {"window": 2} if name == "snfs" else {"initial": 0.2} if name == "granet" else {}
    options |= {"every": 4, "end": 0.75} if name != "snip" else {}
    wiring = ng.wirings.blocks([4, 6, 6, 3], ng.NodeFunction(receive="bias activation", activation="tanh"))
    net = make(wiring, ng.selectors.create(name, 30, **options), dims=0, backend=Asking(),
               **({"steps": 3} if make is not ng.StaticNeuralGraph else {}))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    ng.rewire(net, optimizer, total_steps=24)
    for step in range(24):
        asked.append(False)
        before = net.selection().real
        optimizer.zero_grad()
        loss_of(net, step).backward()
        assert asked[-1] or not net.weight.grad[~before].any()
        optimizer.step()
    changes = {4, 8, 12, 16}
    wanted = {"snfs": changes | {3, 7, 11, 15}, "snip": {1}}.get(name, changes if name in BY_GRADIENT else set())
    assert {step + 1 for step, dense in enumerate(asked) if dense} == wanted


@pytest.mark.parametrize("granularity, per", [("weight", "layer"), ("kernel", "model"), ("kernel", "node")])
@pytest.mark.parametrize("name", [*REGROWING, "snip"])
def test_layers_resume_bit_for_bit(name, granularity, per):
    """Weights and kernels; every layer's own number, or that of all together."""
    if per == "node" and "per" not in options_of(name):
        per = "layer"
    options = {} if name == "snip" else {"every": 3}

    def make():
        model = ng.sparsify(Net(), 0.4, selector=name, granularity=granularity, per=per, selector_options=options)
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    whole, optimizer = make()
    ng.rewire(whole, optimizer, total_steps=16)
    state = torch.get_rng_state()
    train_layers(whole, optimizer, range(16))
    assert torch.equal(torch.get_rng_state(), state)
    first, optimizer = make()
    ng.rewire(first, optimizer, total_steps=16)
    train_layers(first, optimizer, range(7))
    states = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    second, optimizer = make()
    second.load_state_dict(states[0]), optimizer.load_state_dict(states[1])
    ng.rewire(second, optimizer, total_steps=16)
    train_layers(second, optimizer, range(7, 16))
    assert same(whole, second)
    summary = ng.layers.summary(whole)
    unit = 9 if granularity == "kernel" else 1
    if per == "layer":  # 432 weights or 48 kernels, and 32 of the head, each rounded up
        assert [layer.real for layer in summary.layers if layer.real] == [math.ceil(0.4 * 432 / unit) * unit, 13]


def test_draws_are_of_the_seed_and_the_step():
    draws = []
    for seed in (0, 0, 1):
        net = network("set", seed=seed)
        net.half().double()  # the seed is exact in any type
        net.selector.begin(3, 10)
        draws.append(net.selector.uniform())
        net.selector.begin(4, 10)
        draws.append(net.selector.uniform())
    assert torch.equal(draws[0], draws[2]) and torch.equal(draws[1], draws[3])
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[4])


def test_a_shorter_training_than_planned_still_ends_with_k():
    """GraNet past its end, and SNIP that was not told of the first steps."""
    net = network("granet")
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    rewiring = ng.rewire(net, optimizer, total_steps=100)
    train(net, optimizer, last=10)
    assert net.selector.num_real > 30
    rewiring.remove()
    ng.rewire(net, optimizer, total_steps=12)
    train(net, optimizer, first=10, last=12)
    assert net.selector.num_real == 30
    net = network("snip")
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    ng.rewire(net, optimizer, total_steps=12, done=5)
    train(net, optimizer, last=1)
    assert net.selector.num_real == 30


@settings(max_examples=60)
@given(places=st.lists(st.tuples(st.floats(0, 9), st.integers(0, 9)), min_size=1, max_size=6), share=st.floats(0, 1))
def test_apportion(places, share):
    weight = torch.tensor([place[0] for place in places], dtype=torch.float64)
    most = torch.tensor([place[1] for place in places])
    total = round(share * int(most.sum()))
    number = apportion(total, weight, most)
    assert number.sum() == total and (number >= 0).all() and (number <= most).all()
    open_places = number < most
    for i, j in itertools.permutations(edges_of(open_places & (weight > 0)), 2):  # in proportion, but for one
        assert number[i] - 1 <= (number[j] + 1) * weight[i] / weight[j] + 1e-6
    if (open_places & (weight > 0)).any():
        assert not number[(weight == 0)].any()


def rewired_with_infinite_gradients():
    net = network("rigl", every=1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ng.rewire(net, optimizer, 3)
    loss_of(net, 0).backward()
    net.weight.grad[3] = math.nan
    optimizer.step()


@pytest.mark.parametrize("make, error, message", [
    *[(lambda name=name, option=option: ng.selectors.create(name, 3, **{option: 1.5}), SelectionError,
       f"{option} must be a number, expected 0 to 1, got 1.5")
      for name in REGROWING for option in ("drop", "end", "last", "initial", "gamma", "momentum")
      if option in options_of(name)],
    *[(lambda name=name: ng.selectors.create(name, 3, every=0), SelectionError, "integer every >= 1, got 0")
      for name in REGROWING],
    *[(lambda name=name: bind(ng.selectors.create(name, 9), Weights((2, 4)), torch.zeros(8)), SelectionError,
       "at most the 8 weights, got 9") for name in [*REGROWING, "snip"]],
    *[(lambda name=name: bind(ng.selectors.create(name, 6, per="group", group=4), Weights((6, 4)), torch.zeros(24)),
       SelectionError, "group=4 does not divide the 6") for name in [*REGROWING, "snip"] if name != "srigl"],
    (lambda: ng.selectors.SNFS(3, window=0), SelectionError, "integer window >= 1, got 0"),
    (lambda: ng.selectors.create("srigl", 3, per="node"), UnknownNameError, "per"),
    (lambda: ng.sparsify(Net(), 0.2, selector="srigl", per="group"), InputError, "does not let weights compete within nodes"),
    (lambda: ng.selectors.create("set", 3, per="nodes"), UnknownNameError, "did you mean 'node'"),
    (lambda: bind(ng.selectors.CHT(3, chains=True), Weights((2, 4)), torch.zeros(8)), SelectionError,
     "chains=True needs a graph"),
    (lambda: ng.selectors.SET(3, new="ones"), UnknownNameError, "unknown new 'ones'"),
    (lambda: bind(ng.selectors.SET(3, new="init"), Weights((2, 4)), torch.ones(8)), SelectionError,
     "but all of them are equal: use new='zero'"),
    (lambda: ng.selectors.CHT(3, soft="yes"), SelectionError, "soft must be True or False, got 'yes'"),
    (rewired_with_infinite_gradients, SelectionError, "1 of 188 gradients of edge weights are NaN or infinite"),
])
def test_bad_settings(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_selector_is_a_few_lines():
    """What grows is all that a new one has to say."""
    @ng.selectors.register("heaviest-again")
    class Heaviest(DropAndGrow):
        by_gradient = False

        def __init__(self, k: int, every: int = 1):
            super().__init__(k, 0.5, 0.5, every, 1.0)

        def growth(self, kept, gradient):
            return torch.arange(len(kept)).flip(0).double()
    try:
        net = network("heaviest-again")
        optimizer = OPTIMIZERS["sgd"](net.parameters())
        ng.rewire(net, optimizer, total_steps=STEPS)
        train(net, optimizer)
        assert net.selection().real[:15].all() and net.selection().real.sum() == 30
    finally:
        del SELECTORS["heaviest-again"]
