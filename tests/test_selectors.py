"""Which edges are real: exactly k, ties by the stated rule, the authors' own numbers."""

import pytest
import torch
from conftest import GOLDEN, needs_golden
from hypothesis import given
from hypothesis import strategies as st

import neuralgraph as ng
from neuralgraph.errors import SelectionError, UnknownNameError
from neuralgraph.selectors import GRADIENTS, SELECTORS
from neuralgraph.selectors.topk import top_k



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


def test_top_k_at_size():
    score = torch.rand(300_000, generator=torch.Generator().manual_seed(0)).mul(1000).round()
    for k in (1, 31_999, 150_000, 299_999, 300_000):
        assert torch.equal(top_k(score, k), by_sorting(score, k))


@pytest.mark.parametrize("name", SELECTORS)
@given(edges=st.integers(1, 50), data=st.data())
def test_exactly_k_and_the_gradient_rule(name, edges, data):
    k = None if name == "complete" else data.draw(st.integers(0, edges))
    selector = ng.selectors.create(name, k)
    selector.bind(edges, torch.Generator().manual_seed(edges))
    weight = torch.randn(edges, generator=torch.Generator().manual_seed(edges), requires_grad=True)
    real = selector.select(weight)
    assert real.dtype == torch.bool and real.sum() == selector.num_real == (edges if k is None else k)
    effective = selector.rule.effective(weight, real)
    assert torch.equal(effective, weight * real)
    cotangent = torch.randn(edges)
    effective.backward(cotangent)
    reached = torch.ones(edges, dtype=torch.bool) if selector.gradient == "ste" else real
    assert torch.equal(weight.grad, cotangent * reached)
    assert selector.rule.reaches_all == (selector.gradient == "ste")


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
    selector.bind(len(weight), torch.Generator())
    effective = selector.rule.effective(weight, selector.select(weight))
    effective.backward(golden["cotangent"].flatten())
    assert torch.equal(effective.detach(), golden["effective"].flatten())
    assert torch.equal(weight.grad, golden["grad"].flatten())


def test_random_graph_is_uniform_and_frozen():
    counts = torch.zeros(20)
    for seed in range(400):
        selector = ng.RandomGraph(5)
        selector.bind(20, torch.Generator().manual_seed(seed))
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
])
def test_bad_k(make, message):
    with pytest.raises(SelectionError, match=message):
        make()


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="did you mean 'random'"):
        ng.selectors.create("randon", 3)
    with pytest.raises(UnknownNameError, match="unknown gradient rule 'st'"):
        ng.TopK(3, gradient="st")
    assert set(GRADIENTS) >= {"ste", "masked"}


def test_threshold():
    network = ng.StaticNeuralGraph(ng.wirings.blocks([2, 2, 1]), ng.TopK(3))
    expected = network.weight.abs().sort().values[-3].item()
    assert network.selection().threshold() == expected
