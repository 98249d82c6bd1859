"""Which edges are real: exactly k, ties by the stated rule, the authors' own numbers."""

import pytest
import torch
from checkout import GOLDEN, needs_golden
from graphs import k_of
from hypothesis import given, settings, strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import neuralgraph as ng
from neuralgraph.errors import SelectionError, UnknownNameError
from neuralgraph.selectors import GRADIENTS, SELECTORS, groups as module_of_groups, soft_gate
from neuralgraph.selectors.groups import Groups, Whole
from neuralgraph.selectors.regrowth import largest
from neuralgraph.selectors.selector import check_finite
from neuralgraph.selectors.topk import top_k

# num_real is not k at first
STARTS_WITH_MORE = ("l1-anneal", "gradual", "targeted-dropout-regular", "feather", "granet", "snip", "spartan")


def by_sorting(score, k):
    """The rule as written: the last k of a stable ascending sort."""
    mask = torch.zeros(len(score), dtype=torch.bool)
    mask[score.argsort(stable=True)[len(score) - k:]] = True
    return mask


@given(st.data())
def test_top_k_equals_a_stable_sort(data):
    values = data.draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 1e-30]) |
                                st.floats(0, 10, width=32), min_size=1, max_size=60))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    score = torch.tensor(values, dtype=dtype)
    k = data.draw(st.integers(0, len(values)))
    assert torch.equal(top_k(score, k), by_sorting(score, k))


def test_finite_weights_are_told_by_one_sum():
    """Each operation is a launch on a GPU, where a step of small products waits for them."""
    weight, seen = torch.ones(4), []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    with Seen():
        check_finite(weight)
    assert [name for name in seen if name not in ("detach", "alias")] == ["sum", "_local_scalar_dense"]
    check_finite(torch.full((2,), 3e38))  # though their sum is not


def test_top_k_at_size():
    score = torch.rand(300_000, generator=torch.Generator().manual_seed(0)).mul(1000).round()
    for k in (1, 31_999, 150_000, 299_999, 300_000):
        assert torch.equal(top_k(score, k), by_sorting(score, k))


def by_sorting_groups(score, group, keep):
    """As written: by score, then by group, both stable; of each group the last ``keep`` are real."""
    by_score = score.argsort(stable=True)
    order = by_score[group[by_score].argsort(stable=True)]
    size = torch.bincount(group, minlength=len(keep))
    mask = torch.zeros(len(score), dtype=torch.bool)
    mask[order[torch.arange(len(score)) >= (size.cumsum(0) - keep).repeat_interleave(size)]] = True
    return mask


@pytest.mark.parametrize("way", ["by sorting", "a call for each group", "compiled"])
@settings(max_examples=40)
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8), dtype=st.sampled_from([torch.float32, torch.float64]),
       values=st.sampled_from(["different", "ties", "equal", "infinite"]), mixed=st.booleans(), seed=st.integers(0, 2**32))
def test_the_largest_of_groups_equal_a_stable_sort(way, sizes, dtype, values, mixed, seed):
    """However many groups there are, in order or mixed, with ties and without; of all candidates, and of some."""
    g = torch.Generator().manual_seed(seed)
    size = torch.tensor(sizes)
    group = torch.arange(len(sizes)).repeat_interleave(size)
    group = group[torch.randperm(len(group), generator=g)] if mixed else group
    score = torch.randn(len(group), generator=g, dtype=dtype)
    score = {"different": score, "ties": score.round(), "equal": score * -0.0,
             "infinite": score.where(score.abs() < 0.5, score.sign() * torch.inf)}[values]
    keep = (torch.rand(len(sizes), generator=g) * (size + 1)).long()
    groups = Groups(group, keep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module_of_groups, "CALLS", 0 if way == "a call for each group" else 10**9)
        patch.setattr(module_of_groups, "FEW", 0 if way == "compiled" else 10**9)
        assert torch.equal(groups.top(score), by_sorting_groups(score, group, keep))
        other = (torch.rand(len(sizes), generator=g) * (size + 1)).long()
        assert torch.equal(groups.top(score, other), by_sorting_groups(score, group, other))
        among = torch.rand(len(score), generator=g) < 0.5
        few = torch.minimum(other, groups.counts(among))
        expected = by_sorting_groups(score.where(among, -torch.inf), group, few)
        if values != "infinite":  # of which only those of the mask are meant
            assert torch.equal(largest(groups, score, among, few), expected)
        whole = Whole(len(score), 0)
        k, rest = few.sum()[None], torch.zeros_like(group)
        expected = by_sorting_groups(score.where(among, -torch.inf), rest, k)
        if values != "infinite":
            assert torch.equal(largest(whole, score, among, k), expected)


def bound(selector, wiring=None, edges=None, seed=0):
    """The selector after a network took it, and that network's weights."""
    wiring = wiring or ng.wirings.chain([edges, 1])
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(wiring.num_edges, generator=generator, requires_grad=True)
    selector.bind(wiring, weight, generator)
    return weight


# whether the gradient reaches all candidates; a selector that is new has its word for it
REACHES_ALL = {**dict.fromkeys(["dnw", "edge-popup", "feather", "spartan", "supermask", "synaptic-strength", "top-kast"], True),
               **dict.fromkeys(["chts", "cht", "complete", "fine-tune", "gradual", "granet", "l0", "l1-anneal", "lottery-ticket",
                                "no-update", "random", "rigl", "set", "snfs", "snip", "srigl", "str", "targeted-dropout",
                                "targeted-dropout-regular", "variational-dropout"], False)}


@pytest.mark.parametrize("name", SELECTORS)
@given(edges=st.integers(1, 50), data=st.data())
def test_exactly_k_and_the_gradient_rule(name, edges, data):
    k = k_of(name, data.draw(st.integers(0, edges)))
    selector = ng.selectors.create(name, k)
    weight = bound(selector, edges=edges, seed=edges)
    selector.eval()
    real = selector.select(weight)
    assert real.dtype == torch.bool and real.sum() == selector.num_real
    if k is not None and name not in STARTS_WITH_MORE:
        assert selector.num_real == k
    selection = selector.weighted(weight, real)
    assert selection.real is real and selection.reaches_all == selector.reaches_all
    dense = REACHES_ALL.get(name, selector.reaches_all)
    assert selector.reaches_all == dense
    cotangent = torch.randn(edges)
    selection.weight.backward(cotangent)
    if name in ("edge-popup", "feather", "l0", "spartan", "str", "supermask", "top-kast"):
        return  # formulas of their own: test_candidates.py, test_gates.py and the like
    assert torch.equal(selection.weight, weight * real)
    assert torch.equal(weight.grad, cotangent * (torch.ones(edges) if dense else real))
    assert (selector.gradient == "ste") == dense


@given(seed=st.integers(0, 10**6))
def test_soft_gate_gradient_equals_straight_through(seed):
    """The author response's gate: w g(w), g = 1 - eps/|w|, has derivative 1 for every eps."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(30, dtype=torch.float64, generator=generator).requires_grad_()
    real, cotangent = top_k(weight.detach().abs(), 10), torch.randn(30, dtype=torch.float64)
    for epsilon in (1e-9, 1e-6, 1e-3, 0.5):
        rule = ng.TopK(10, gradient=soft_gate(epsilon)).rule
        soft, = torch.autograd.grad(rule.effective(weight, real), weight, cotangent)
        hard, = torch.autograd.grad(GRADIENTS["ste"].effective(weight, real), weight, cotangent)
        assert torch.equal(soft, hard) and torch.equal(hard, cotangent)
        assert torch.equal(rule.effective(weight, real), weight * real)


def test_soft_gate_of_zero_and_of_weights_below_epsilon():
    weight = torch.tensor([0.0, 1e-12, -1e-30, 1e-7, 0.3], requires_grad=True)
    real = torch.tensor([True, True, False, True, True])
    effective = GRADIENTS["soft_g"].effective(weight, real)
    effective.sum().backward()
    assert torch.equal(effective, weight * real)
    assert torch.equal(weight.grad, torch.ones(5))
    assert GRADIENTS["soft_g"].reaches_all
    for epsilon in (0.0, -1.0, float("nan")):
        with pytest.raises(SelectionError, match="above 0"):
            soft_gate(epsilon)


@given(seed=st.integers(0, 10**6), k=st.integers(0, 62))
def test_per_block(seed, k):
    """k in proportion to the candidates of each destination block, the largest of each."""
    wiring = ng.wirings.blocks([3, 4, 4, 2])
    selector = ng.TopK(k, per="block")
    weight = bound(selector, wiring, seed=seed)
    real = selector.select(weight)
    assert real.sum() == k
    for block in (1, 2, 3):
        inside = wiring.block[wiring.dst] == block
        kept = int(real[inside].sum())
        assert abs(kept - inside.sum() * k / 62) < 1
        expected = by_sorting(weight.detach().abs()[inside], kept)
        assert torch.equal(real[inside], expected)


@given(seed=st.integers(0, 10**6), fan_in=st.integers(0, 3))
def test_per_node_is_constant_fan_in(seed, fan_in):
    wiring = ng.wirings.blocks([3, 4, 4, 2])
    selector = ng.TopK(10 * fan_in, per="node")
    weight = bound(selector, wiring, seed=seed)
    real = selector.select(weight)
    for node in range(3, 13):
        inside = wiring.dst == node
        assert torch.equal(real[inside], by_sorting(weight.detach().abs()[inside], fan_in))


def test_per_block_takes_any_block_numbers():
    wiring = ng.wirings.blocks([3, 4, 4, 2])
    graph = wiring.data
    graph.ndata["block"] = torch.tensor([0, 7, 10**15, 10**12])[wiring.block]
    few, many = ng.TopK(20, per="block"), ng.TopK(20, per="block")
    weight = bound(few, wiring)
    bound(many, ng.Wiring(graph))
    kept = [int(many.select(weight)[wiring.block[wiring.dst] == block].sum()) for block in (1, 2, 3)]
    assert kept == [4, 9, 7]  # of 12, 28 and 22: 3.87, 9.03 and 7.10


def test_per_node_needs_a_fitting_k():
    wiring = ng.wirings.blocks([3, 4, 4, 2])
    with pytest.raises(SelectionError, match="multiple of 10, got 15; the nearest are 10 and 20"):
        bound(ng.TopK(15, per="node"), wiring)
    with pytest.raises(SelectionError, match="node 3 has only 3 candidates; choose k of at most 30"):
        bound(ng.TopK(40, per="node"), wiring)


def test_coupled_random_graph_keeps_the_largest_initial_weights():
    selector = ng.RandomGraph(7, coupled=True)
    weight = bound(selector, edges=30)
    assert torch.equal(selector.select(weight), by_sorting(weight.detach().abs(), 7))
    assert torch.equal(selector.select(-torch.ones(30)), by_sorting(weight.detach().abs(), 7))


def test_ticket_takes_the_largest_of_other_weights():
    selector = ng.selectors.create("lottery-ticket", 5)
    bound(selector, edges=20)
    trained = torch.randn(20)
    selector.draw(trained)
    assert torch.equal(selector.select(torch.zeros(20)), by_sorting(trained.abs(), 5))
    with pytest.raises(SelectionError, match="20 candidate edges"):
        selector.draw(torch.zeros(3))
    with pytest.raises(SelectionError, match="NaN"):
        selector.draw(torch.full((20,), float("nan")))


@pytest.mark.parametrize("shape, power, strength", [("cubic", 3, 0.1), ("linear", 1, 0.1), ("cubic", 3, None)])
def test_l1_anneal_and_gradual_follow_their_schedule(shape, power, strength):
    options = {"end": 0.75, "every": 10, "shape": shape}
    selector = ng.selectors.create("gradual", 20, **options) if strength is None else \
        ng.selectors.create("l1-anneal", 20, strength=strength, **options)
    weight = bound(selector, edges=200)
    alive, total = torch.ones(200, dtype=torch.bool), 400
    for step in range(1, total + 1):
        weight = torch.randn(200, generator=torch.Generator().manual_seed(step))
        selector.advance(step, total, weight)
        real = selector.select(weight)
        assert not (real & ~alive).any()  # what is removed stays removed
        if step % 10 == 0:
            tau = min(1, step / total / 0.75)
            assert real.sum() == 20 + -(-round(180 * (1 - tau)**power * 1e9) // 10**9)
            gone = alive & ~real
            if gone.any():
                assert weight[gone].abs().max() <= weight[real].abs().min()
        alive = real.clone()
        penalty = selector.penalty(weight)
        if step < 300 and strength:
            assert penalty.item() == pytest.approx(0.1 * weight[real].abs().sum().item(), rel=1e-5)
        else:
            assert penalty is None
    assert alive.sum() == 20


def test_targeted_dropout():
    """In training the k largest always take part and each other one with probability 1 - rho."""
    selector = ng.selectors.TargetedDropout(30, drop=0.9)
    weight = bound(selector, edges=330)
    largest = by_sorting(weight.detach().abs(), 30)
    counts, rounds = torch.zeros(330), 300
    for _ in range(rounds):
        real = selector.sample(weight)
        assert real[largest].all()
        counts += real
    rate = counts[~largest].mean().item() / rounds
    assert rate == pytest.approx(0.1, abs=0.005)  # 300 x 300 draws: standard deviation 0.001
    assert counts[~largest].std().item() == pytest.approx((rounds * 0.09)**0.5, rel=0.2)
    assert torch.equal(selector.select(weight), largest)


def test_targeted_dropout_draws_as_dropout_does():
    """From the global generator, which torch.utils.checkpoint and training loops restore."""
    selector = ng.selectors.TargetedDropout(5, drop=0.5)
    weight = bound(selector, edges=50)
    state = torch.get_rng_state()
    drawn = [selector.sample(weight) for _ in range(3)]
    assert not torch.equal(drawn[0], drawn[1])
    torch.set_rng_state(state)
    assert all(torch.equal(selector.sample(weight), before) for before in drawn)
    assert not selector.state_dict()


def test_regular_targeted_dropout_targets_each_nodes_weights():
    wiring = ng.wirings.blocks([6, 5, 4])
    selector = ng.selectors.create("targeted-dropout-regular", 25, drop=1.0)  # of 74
    weight = bound(selector, wiring)
    real = selector.select(weight)
    for node in range(6, 15):
        inside = wiring.dst == node
        size = int(inside.sum())
        expected = by_sorting(weight.detach().abs()[inside], size - size * (74 - 25) // 74)
        assert torch.equal(real[inside], expected)
    assert real.sum() == selector.num_real


@needs_golden
@pytest.mark.parametrize("case", range(5))
def test_authors_numbers(case):
    from safetensors.torch import load_file

    golden = {name.split(".", 1)[1]: value
              for name, value in load_file(GOLDEN / "choose_top_edges.safetensors").items()
              if name.startswith(f"{case}.")}
    weight = golden["weight"].flatten().requires_grad_()
    k = len(weight) - int(golden["prune_rate"].item() * len(weight))
    selector = ng.TopK(k)
    bound(selector, edges=len(weight))
    effective = selector.rule.effective(weight, selector.select(weight))
    effective.backward(golden["cotangent"].flatten())
    assert torch.equal(effective.detach(), golden["effective"].flatten())
    assert torch.equal(weight.grad, golden["grad"].flatten())


def test_random_graph_is_uniform_and_frozen():
    counts = torch.zeros(20)
    for seed in range(400):
        selector = ng.RandomGraph(5)
        bound(selector, edges=20, seed=seed)
        counts += selector.real
        assert torch.equal(selector.select(torch.randn(20)), selector.select(torch.randn(20)))
    assert counts.min() > 60 and counts.max() < 145  # 100 expected, standard deviation 8.7


def test_random_graph_travels_in_the_state_dict():
    make = lambda seed: ng.StaticNeuralGraph(ng.wirings.blocks([3, 4, 2]), ng.RandomGraph(7), seed=seed)
    a, b = make(0), make(1)
    assert not torch.equal(a.selection().real, b.selection().real)
    b.eval().selection()
    b.load_state_dict(a.state_dict())
    assert torch.equal(a.selection().real, b.selection().real)


@pytest.mark.parametrize("make, message", [
    (lambda: ng.TopK(-1), "at least 0, got -1"),
    (lambda: ng.TopK(2.5), "must be an integer, got 2.5"),
    (lambda: ng.StaticNeuralGraph(ng.wirings.blocks([2, 2]), ng.TopK(5)), "at most the 4 candidate edges, got 5"),
    (lambda: ng.StaticNeuralGraph(ng.wirings.blocks([2, 2]), ng.RandomGraph(5)), "at most the 4"),
    (lambda: ng.selectors.create("complete", k=3), "takes no k"),
    (lambda: ng.selectors.create("dnw"), "needs k"),
    (lambda: ng.selectors.create("targeted-dropout", 3, drop=1.5), "expected 0 to 1, got 1.5"),
    (lambda: ng.selectors.create("l1-anneal", 3, start=0.9), "start < end"),
    (lambda: ng.selectors.create("l1-anneal", 3, every=0), "every >= 1"),
    (lambda: ng.selectors.create("l1-anneal", 3, every=2.5), "every >= 1, got 2.5"),
    (lambda: ng.selectors.create("l1-anneal", 3, strength=float("nan")), "strength must be a number, expected at least 0, got nan"),
    (lambda: ng.selectors.create("lottery-ticket", 3).draw(torch.zeros(4)), "serves no network yet"),
    (lambda: setattr(ng.Complete(), "k", 3), "takes no k"),
    (lambda: ng.selectors.create("l1-anneal", 3, start=None), "start must be a number"),
    (lambda: ng.selectors.create("targeted-dropout", 3, drop="half"), "got 'half'"),
    (lambda: soft_gate("small"), "above 0, got 'small'"),
])
def test_bad_k(make, message):
    with pytest.raises(SelectionError, match=message):
        make()


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="did you mean 'random'"):
        ng.selectors.create("randon", 3)
    with pytest.raises(UnknownNameError, match="unknown gradient rule 'st'"):
        ng.TopK(3, gradient="st")
    with pytest.raises(UnknownNameError, match="did you mean 'drop'"):
        ng.selectors.create("targeted-dropout", 3, dorp=0.5)
    with pytest.raises(UnknownNameError, match="did you mean 'block'"):
        ng.TopK(3, per="blocks")
    assert set(GRADIENTS) >= {"ste", "masked"}


def test_threshold():
    network = ng.StaticNeuralGraph(ng.wirings.blocks([2, 2, 1]), ng.TopK(3))
    expected = network.weight.abs().sort().values[-3].item()
    assert network.selection().threshold() == expected
