"""What selectors choose among: one class serves graphs, layers and several layers, within all groups."""

import math
from pathlib import Path

import pytest
import torch
from graphs import k_of
from hypothesis import given, settings, strategies as st

import neuralgraph as ng
from neuralgraph.errors import CheckpointError, SelectionError
from neuralgraph.selectors import Edges, Joined, Weights
from neuralgraph.training.checkpoint import load_model

KINDS = {
    "graph": lambda: Edges(ng.wirings.blocks([4, 4, 4])),
    "linear": lambda: Weights((8, 6)),
    "convolution": lambda: Weights((4, 4, 3, 1)),
    "kernels": lambda: Weights((4, 4, 3, 1), "kernel"),
    "grouped": lambda: Weights((4, 2, 2), "kernel", groups=2),
    "transposed": lambda: Weights((4, 2, 3), rows_are="sources", groups=2),
    "joined": lambda: Joined([Weights((4, 3)), Weights((4, 4, 2, 2), "kernel"), Weights((2, 4, 3))]),
}


def ends(kind):
    """(target, source, block, indices of its weights) of each candidate, by loops."""
    def layer(shape, granularity="weight", sources=False, groups=1, first=(0, 0), block=0):
        rows, columns, *kernel = shape
        entries = math.prod(kernel)
        for row in range(rows):
            for column in range(columns):
                other = row // (rows // groups) * columns + column
                target, source = (other, row) if sources else (row, other)
                flat = [(row * columns + column) * entries + entry for entry in range(entries)]
                for indices in ([flat] if granularity == "kernel" else [[index] for index in flat]):
                    yield target + first[0], source + first[0], block, [index + first[1] for index in indices]
    if kind == "graph":
        wiring = ng.wirings.blocks([4, 4, 4])
        return [(int(v), int(u), int(wiring.block[v]), [e])
                for e, (u, v) in enumerate(zip(wiring.src, wiring.dst))]
    return {
        "linear": lambda: list(layer((8, 6))), "convolution": lambda: list(layer((4, 4, 3, 1))),
        "kernels": lambda: list(layer((4, 4, 3, 1), "kernel")),
        "grouped": lambda: list(layer((4, 2, 2), "kernel", groups=2)),
        "transposed": lambda: list(layer((4, 2, 3), sources=True, groups=2)),
        "joined": lambda: [*layer((4, 3)), *layer((4, 4, 2, 2), "kernel", first=(4, 12), block=1),
                           *layer((2, 4, 3), first=(8, 76), block=2)],
    }[kind]()


def by_sorting(score, members, k):
    """The last k of a stable ascending sort of the members."""
    return sorted(members, key=lambda index: (score[index], index))[len(members) - k:] if k else []


@pytest.mark.parametrize("kind", KINDS)
def test_ends_and_weights(kind):
    candidates, expected = KINDS[kind](), ends(kind)
    assert candidates.num == len(expected)
    assert candidates.target().tolist() == [target for target, *_ in expected]
    assert candidates.source().tolist() == [source for _, source, *_ in expected]
    pairs = [(target, source) for target, source, *_ in expected]
    assert candidates.nth().tolist() == [pairs[:c].count(pair) for c, pair in enumerate(pairs)]
    assert [index for *_, indices in expected for index in indices] == list(range(candidates.num_weights))
    weight, values = torch.randn(candidates.num_weights), torch.randn(candidates.num)
    score = [math.sqrt(sum(weight[index].item()**2 for index in indices)) for *_, indices in expected]
    torch.testing.assert_close(candidates.magnitude(weight), torch.tensor(score))
    torch.testing.assert_close(candidates.gather(weight), torch.stack(
        [weight[indices].sum() for *_, indices in expected]))
    assert candidates.spread(values).tolist() == [values[c].item() for c, (*_, indices) in enumerate(expected)
                                                 for _ in indices]


@pytest.mark.parametrize("per", ["layer", "block", "node", "group"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6)
@given(seed=st.integers(0, 1000), share=st.floats(0, 1))
def test_exact_k_and_the_written_gradient(kind, per, seed, share):
    """The k largest of each group by a loop over a sorted list; forward w 1{real}, backward 1."""
    candidates, expected = KINDS[kind](), ends(kind)
    targets = sorted({target for target, *_ in expected})
    fewest = min(sum(target == node for target, *_ in expected) for node in targets)
    k = len(targets) * round(share * fewest) if per in ("node", "group") else round(share * candidates.num)
    selector = ng.TopK(k, per=per, group=2 if per == "group" else None)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(candidates.num_weights, generator=generator).mul(4).round().requires_grad_()  # with ties
    selector.bind(candidates, weight, generator)
    real = selector.select(weight)
    assert real.sum() == k == selector.num_real
    assert torch.equal(selector.groups().counts(real), selector.groups().keep)
    score = candidates.magnitude(weight.detach()).tolist()
    if per == "layer":
        wanted = by_sorting(score, range(candidates.num), k)
    elif per == "node":
        wanted = [index for node in targets for index in by_sorting(
            score, [c for c, (target, *_) in enumerate(expected) if target == node], k // len(targets))]
    elif per == "block":
        wanted = []
        for block in {block for *_, block, _ in expected}:
            members = [c for c, (*_, own, _) in enumerate(expected) if own == block]
            kept = int(real[members].sum())
            assert abs(kept - k * len(members) / candidates.num) < 1
            wanted += by_sorting(score, members, kept)
    else:
        wanted, nodes = [], {node: place // 2 for place, node in enumerate(targets)}
        for group in set(nodes.values()):
            pairs = {}
            for c, (target, source, *_) in enumerate(expected):
                if nodes[target] == group:
                    nth = sum((t, s) == (target, source) for t, s, *_ in expected[:c])
                    pairs.setdefault((source, nth), []).append(c)
            total = {pair: candidates.magnitude(weight.detach())[members].sum().item() for pair, members in pairs.items()}
            kept = sorted(pairs, key=lambda pair: (total[pair], pair))[len(pairs) - k // len(targets):]
            wanted += [c for pair in kept for c in pairs[pair]]
    assert real.nonzero().flatten().tolist() == sorted(wanted)
    selection = selector.weighted(weight.view(2, -1), real)
    assert torch.equal(selection.weight.flatten(), weight * candidates.spread(real))
    cotangent = torch.randn(2, weight.numel() // 2, generator=generator)
    selection.weight.backward(cotangent)
    assert torch.equal(weight.grad, cotangent.flatten())


def bind(selector, candidates, weight):
    selector.bind(candidates, weight, torch.Generator().manual_seed(0))
    return weight


def test_rigl_by_hand():
    """6 candidates, 4 real, drop 0.5: at step 2 of 8 (end 1) floor(4 * 0.25 (1 + cos(pi / 4))) = 1 changes."""
    selector = ng.selectors.RigL(4, drop=0.5, every=2, end=1.0)
    weight = bind(selector, Weights((1, 6)), torch.tensor([0.1, -5.0, 3.0, -2.0, 9.0, 7.0]))
    selector.keep(torch.tensor([True, True, True, True, False, False]))
    selector.begin(0, 8)
    assert not selector.reaches_all
    assert selector.advance(1, 8, weight) is None
    assert selector.reaches_all and selector.dense  # for step 2
    gradient = torch.tensor([0.2, 0.0, 9.0, 0.0, -0.1, -0.3])
    changed = selector.advance(2, 8, weight, gradient)
    assert not selector.reaches_all
    assert changed.tolist() == [True, False, False, False, False, True]  # 0 goes, 5 comes
    assert selector.mask.tolist() == [False, True, True, True, False, True]
    selector.advance(3, 8, weight)
    # 0 would go, if it were real; the smallest real one, 3, is dropped but has the largest gradient: it stays
    changed = selector.advance(4, 8, weight, torch.tensor([0.0, 0.0, 0.0, 5.0, 1.0, 0.0]))
    assert not changed.any() and selector.mask.sum() == 4
    assert [selector.wants_gradient(step, 8) for step in range(1, 9)] == [False, True] * 3 + [False, False]


def test_rigl_between_changes_reaches_real_edges_only():
    selector = ng.selectors.RigL(2, every=2)
    weight = bind(selector, Weights((1, 4)), torch.randn(4).requires_grad_())
    cotangent = torch.randn(4)
    for dense in (False, True):
        selector.dense, weight.grad = dense, None
        selection = selector.weighted(weight, selector.select(weight))
        selection.weight.backward(cotangent)
        assert torch.equal(selection.weight, weight * selector.mask)
        assert torch.equal(weight.grad, cotangent if dense else cotangent * selector.mask)


def test_edge_popup_by_hand():
    selector = ng.selectors.EdgePopup(2)
    weight = bind(selector, Weights((2, 2)), torch.tensor([1.0, -2.0, 3.0, -4.0], requires_grad=True))
    assert not weight.requires_grad and selector.scores.abs().max() <= 2**-0.5
    selector.scores.data = torch.tensor([-0.5, 0.1, 0.4, -0.2])
    selection = selector.weighted(weight, selector.select(weight))
    assert selection.weight.tolist() == [1.0, 0.0, 3.0, 0.0] and selection.reaches_all
    selection.weight.backward(torch.tensor([10.0, 20.0, 30.0, 40.0]))
    # g w sgn(s), of every candidate
    assert selector.scores.grad.tolist() == [-10.0, -40.0, 90.0, 160.0] and weight.grad is None


def test_edge_popup_of_kernels_and_signed_constants():
    selector = ng.selectors.EdgePopup(1, weights="signed-constant")
    weight = bind(selector, Weights((1, 2, 2), "kernel"), torch.tensor([1.0, -2.0, -3.0, 4.0]))
    # fan-in 4 weights, 1 of 2 candidates: sqrt(2 / (4 / 2)) = 1
    assert weight.tolist() == [1.0, -1.0, -1.0, 1.0]
    selector.scores.data = torch.tensor([-0.5, 0.1])
    selection = selector.weighted(weight, selector.select(weight))
    selection.weight.backward(torch.tensor([1.0, 2.0, 3.0, 5.0]))
    assert selection.weight.tolist() == [1.0, -1.0, 0.0, 0.0]
    assert selector.scores.grad.tolist() == [1.0, 2.0]  # -(1 - 2) and (-3 + 5)


def test_feather_by_hand():
    """|w|^3 = 1, 8, 27, 64; the two largest, above tau = 2: (27 - 8)^(1/3) and (64 - 8)^(1/3)."""
    selector = ng.selectors.Feather(2, theta=0.5, ramp=0.0)
    weight = bind(selector, Weights((1, 4)), torch.tensor([1.0, -2.0, -3.0, 4.0], dtype=torch.float64,
                                                          requires_grad=True))
    selection = selector.weighted(weight, selector.select(weight))
    torch.testing.assert_close(selection.weight, torch.tensor([0.0, 0.0, -19.0**(1 / 3), 56.0**(1 / 3)],
                                                              dtype=torch.float64))
    selection.weight.backward(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    assert weight.grad.tolist() == [0.5, 1.0, 3.0, 4.0]


def test_feather_of_a_kernel_and_per_node():
    selector = ng.selectors.Feather(2, ramp=0.0, per="node")
    weight = bind(selector, Weights((2, 2, 2), "kernel"), torch.tensor([3.0, 4.0, 0.0, 4.0, 1.0, 0.0, 0.0, -2.0]))
    selection = selector.weighted(weight, selector.select(weight))
    factor = (125 - 64)**(1 / 3) / 5
    torch.testing.assert_close(selection.weight, torch.tensor(
        [3 * factor, 4 * factor, 0, 0, 0, 0, 0, -7**(1 / 3)]))


def test_feather_follows_its_schedule():
    """k_u = k + (E - k) (1 - 2u)^3 until half of the training; theta by the sparsity."""
    selector = ng.selectors.Feather(4)
    weight = bind(selector, Weights((1, 100)), torch.randn(100))
    assert selector.num_real == 100 and selector.select(weight).all()
    for step in range(1, 41):
        selector.advance(step, 40, weight)
        wanted = 4 + math.ceil(96 * max(0, 1 - step / 20)**3 - 1e-9)
        assert selector.select(weight).sum() == wanted == selector.num_real
    assert selector.weighted(weight, selector.select(weight)).reaches_all
    assert selector._share_outside == 0.5 and bind(few := ng.selectors.Feather(5), Weights((1, 100)), weight) is weight
    assert few._share_outside == 1.0


@pytest.mark.parametrize("make, message", [
    (lambda: bind(ng.TopK(3, per="node"), Weights((2, 4)), torch.zeros(8)), "multiple of 2, got 3"),
    (lambda: bind(ng.TopK(4, per="group", group=3), Weights((4, 4)), torch.zeros(16)), "does not divide the 4"),
    (lambda: bind(ng.TopK(4, per="group"), Weights((4, 4)), torch.zeros(16)), "needs group.*got None"),
    (lambda: bind(ng.TopK(8, per="group", group=2), Joined([Weights((2, 4)), Weights((2, 1))]), torch.zeros(10)),
     "only 1 candidates; choose k of at most 4"),
    (lambda: bind(ng.TopK(4, per="group", group=2), Weights((4, 2, 1), groups=4), torch.zeros(8)), "same candidate parents"),
    (lambda: bind(ng.TopK(9), Weights((2, 2, 2), "kernel"), torch.zeros(8)), "at most the 4 kernels, got 9"),
    (lambda: bind(ng.selectors.RigL(9), Weights((2, 4)), torch.zeros(8)), "at most the 8 weights, got 9"),
    (lambda: ng.selectors.RigL(9, drop=2), "drop must be a number, expected 0 to 1"),
    (lambda: ng.selectors.RigL(9, every=0), "every >= 1"),
    (lambda: ng.selectors.Feather(9, theta=-1), "theta must be a number"),
])
def test_bad_settings(make, message):
    with pytest.raises(SelectionError, match=message):
        make()


@pytest.mark.parametrize("name", ng.selectors.SELECTORS)
def test_the_state_of_another_selector_is_refused(name):
    net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 4, 2]), ng.selectors.create(name, k_of(name, 7)))
    for other in ("dnw", "random", "rigl", "edge-popup", "feather"):
        theirs = ng.StaticNeuralGraph(ng.wirings.blocks([3, 4, 2]), ng.selectors.create(other, 7))
        if set(theirs.state_dict()) != set(net.state_dict()):
            with pytest.raises(RuntimeError, match="another selector"):
                net.load_state_dict(theirs.state_dict())


def test_states_of_earlier_versions_open():
    """l1-anneal had a flag ``finished``, targeted dropout a seed and a number of draws."""
    net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 4, 2]), ng.selectors.create("l1-anneal", 7))
    state = {name: value for name, value in net.state_dict().items() if name != "selector.clock"}
    state["selector.finished"] = torch.tensor(True)
    state["selector.real"] = torch.arange(26) < 9
    net.load_state_dict(state)
    assert net.selector.mask.tolist() == [True] * 9 + [False] * 17 and net.state_dict()["selector.real"].dtype == torch.bool
    net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 4, 2]), ng.selectors.create("targeted-dropout", 7))
    net.load_state_dict({**net.state_dict(), "selector.seed": torch.tensor(3), "selector.draws": torch.tensor(4)})


@pytest.mark.parametrize("use_buffers", [False, True])
def test_averaged_models_have_averaged_masks(use_buffers):
    """Real are the k that were real most often; without averaged buffers, the latest."""
    net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 4, 2]), ng.selectors.RigL(3))
    averaged = torch.optim.swa_utils.AveragedModel(net, use_buffers=use_buffers)
    for edges in ([0, 1, 2], [0, 1, 3], [0, 4, 5]):
        net.selector.real[:] = torch.zeros(26).index_fill_(0, torch.tensor(edges), 1)
        averaged.update_parameters(net)
    real = averaged.module.selection().real.nonzero().flatten().tolist()
    # shares 1, 2/3 and four times 1/3, of which the last is kept
    assert real == ([0, 1, 5] if use_buffers else [0, 4, 5])
    again = ng.StaticNeuralGraph(ng.wirings.blocks([3, 4, 2]), ng.selectors.RigL(3))
    again.load_state_dict(averaged.module.state_dict())
    assert torch.equal(again.selection().real, averaged.module.selection().real)


def test_a_selector_is_one_registered_class():
    @ng.selectors.register("smallest")
    class Smallest(ng.selectors.RankingSelector):
        def select(self, weight):
            return self.groups().top(-weight.abs())
    try:
        net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 4, 2]), ng.selectors.create("smallest", 5, per="layer"))
        assert net.weight[net.selection().real].abs().max() <= net.weight[~net.selection().real].abs().min()
        with pytest.raises(ng.errors.InputError, match="already"):
            ng.selectors.register("smallest")(ng.TopK)
    finally:
        del ng.selectors.SELECTORS["smallest"]


def mask_of(*edges, n=12):
    return torch.zeros(n).index_fill_(0, torch.tensor(edges), 1).bool()


@pytest.mark.parametrize("name", ["dnw", "no-update", "rigl", "edge-popup"])
@pytest.mark.parametrize("per", ["layer", "node"])
def test_always_and_never(name, per):
    """Some are real whatever their score, some are not, and k is met."""
    always, never = mask_of(0, 7), mask_of(1, 5, 10)
    selector = ng.selectors.create(name, 6, per=per, always=always, never=never)
    weight = torch.tensor([0.0, 9, 1, 2, 3, 9, 1, 0, 2, 3, 9, 1])
    bind(selector, Weights((3, 4)), weight)
    for step in range(1, 4):
        real = selector.select(weight)
        assert real.sum() == 6 and real[always].all() and not real[never].any()
        if name in ("dnw", "no-update"):
            wanted = mask_of(0, 7, 9, 4, 8, 3) if per == "layer" else mask_of(0, 3, 4, 7, 8, 9)
            assert torch.equal(real, wanted)
        if name == "rigl":
            selector.every = 1
            selector.advance(step, 10, weight, torch.randn(12))


@pytest.mark.parametrize("make, message", [
    (lambda: ng.TopK(3, always=mask_of(1, 2), never=mask_of(2, 3)), "both name 2"),
    (lambda: ng.TopK(3, always=[True]), "must be a bool tensor"),
    (lambda: bind(ng.TopK(1, always=mask_of(1, 2)), Weights((3, 4)), torch.zeros(12)), "always has 2 of 12.*1 are kept"),
    (lambda: bind(ng.TopK(11, never=mask_of(1, 2)), Weights((3, 4)), torch.zeros(12)), "never has 2 of 12"),
    (lambda: bind(ng.TopK(3, per="node", always=mask_of(1, 2)), Weights((3, 4)), torch.zeros(12)), "always has 2 of 4"),
    (lambda: bind(ng.TopK(3, always=mask_of(1, n=5)), Weights((3, 4)), torch.zeros(12)), "a mask of the 12 weights"),
    (lambda: bind(ng.TopK(4, per="group", group=2, always=mask_of(1, n=16)), Weights((4, 4)), torch.zeros(16)), "another competition"),
])
def test_masks_that_cannot_be(make, message):
    with pytest.raises(SelectionError, match=message):
        make()


def test_checkpoints_of_earlier_versions_open():
    """Their names are brought up to date before they are compared with the model's."""
    net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 4, 2]), ng.selectors.create("l1-anneal", 7))
    old = {name: value for name, value in net.state_dict().items() if name != "selector.clock"}
    old |= {"selector.finished": torch.tensor(False), "selector.real": torch.arange(26) < 9}
    load_model(net, {f"model.{name}": value for name, value in old.items()}, Path("old"))
    assert net.selection().real.sum() == 9
    with pytest.raises(CheckpointError, match="selector.real.*missing"):
        load_model(net, {f"model.{name}": value for name, value in old.items() if "real" not in name}, Path("old"))


@pytest.mark.parametrize("name", ng.selectors.SELECTORS)
def test_what_is_learned_goes_elsewhere_with_its_effective_weights(name):
    """As a wiring of the real edges, compiled and in ONNX, whatever the effective weights are."""
    wiring = ng.wirings.blocks([3, 6, 6, 2])
    network = ng.StaticNeuralGraph(wiring, ng.selectors.create(name, k_of(name, 30))).eval()
    if hasattr(network.selector, "draw"):
        network.selector.draw(network.weight)
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        expected = network(x)
        twin = ng.StaticNeuralGraph(network.learned_wiring(), ng.Complete()).eval()
        for y in (twin(x), ng.compile(network)(x)):
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
