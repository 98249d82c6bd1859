"""Splitting of graphs: outputs stay, the loss changes as the splitting matrices say, selectors go along."""

import math

import pytest
import torch
from graphs import random_dag, random_dynamic
from growth import KINDS, SMOOTH, UNIT, batches, disturbed, grow, loss
from hypothesis import assume, given, settings, strategies as st

import neuralgraph as ng
from neuralgraph.growing import split
from neuralgraph.growing.building import build
from neuralgraph.growing.carrying import check_carries, unbound
from neuralgraph.growing.units import find


@pytest.mark.parametrize("halve", ["kernel", "edges"])
@given(seed=st.integers(0, 10**9))
@settings(max_examples=15, deadline=None)
def test_without_a_step_outputs_stay(halve, seed):
    """On random graphs of mixed functions, parents and children split together; all real edges stay."""
    wiring = random_dag(seed)
    network = disturbed(ng.StaticNeuralGraph(wiring, ng.TopK(max(1, 2 * wiring.num_edges // 3)), seed=seed,
                                             dtype=torch.float64))
    assume(find(network).number)
    grown, number = grow(network, halve)
    x = torch.randn(2, len(wiring.inputs), 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(grown(x), network(x), rtol=1e-6, atol=1e-6)
    assert grown.wiring.num_nodes == wiring.num_nodes + number
    assert int(grown.selection().real.sum()) == grown.selector.k


@pytest.mark.parametrize("halve", ["kernel", "edges"])
@pytest.mark.parametrize("tied", [True, False])
def test_without_a_step_outputs_of_discrete_networks_stay(halve, tied):
    for seed in range(8):
        wiring = random_dynamic(seed)
        network = disturbed(ng.DiscreteTimeNeuralGraph(wiring, ng.Complete(), seed=seed, dtype=torch.float64, steps=3,
                                                       tied=tied))
        if not find(network).number:
            continue
        grown, number = grow(network, halve, share=0.8)
        x = torch.randn(2, len(wiring.inputs), 6, 6, dtype=torch.float64)
        torch.testing.assert_close(grown(x), network(x), rtol=1e-6, atol=1e-6)
        assert grown.wiring.num_nodes == wiring.num_nodes + number


def test_a_copy_stands_behind_its_node():
    """Blocks, channels and the order of edges are those of a graph made so from the beginning."""
    network = ng.StaticNeuralGraph(ng.wirings.blocks([2, 3, 2]), ng.Complete())
    units = find(network)
    chosen = torch.tensor([True, False, False])
    grown = build(network, units, chosen, units.spread(torch.zeros(6), {"": network.weight.detach()}), "kernel")
    assert grown.wiring == ng.wirings.blocks([2, 4, 2])
    assert torch.equal(grown.functions.export()["kernel"][2], grown.functions.export()["kernel"][3])
    named = ng.wirings.from_edges([("a", "b"), ("b", "c")], inputs=["a"], outputs=["c"],
                                  functions={"a": UNIT, "b": UNIT})
    network = ng.StaticNeuralGraph(named, ng.Complete(), dims=0)
    grown, _ = grow(network, "kernel", share=2.0)
    assert grown.wiring.labels == ("a", "b", "b'", "c")


def test_weights_of_a_split_parent_and_child():
    """a -> u -> v -> y by hand: w_uv and the step are halved with edges, kept with kernels."""
    node = ng.NodeFunction("activation conv", activation="tanh")
    wiring = ng.wirings.from_edges([(0, 1), (1, 2), (2, 3)], inputs=[0], outputs=[3], functions={0: node, 1: node, 2: node})
    network = ng.StaticNeuralGraph(wiring, ng.Complete(), dtype=torch.float64)
    network.weight.data = torch.tensor([2.0, 4.0, 8.0], dtype=torch.float64)
    step = {"": torch.tensor([0.5, 0.25, 0.0])}
    for halve, middle, last in (("edges", [2.125, 2.125, 1.875, 1.875], [4, 4]),
                                ("kernel", [4.25, 4.25, 3.75, 3.75], [8, 8])):
        grown = build(network, find(network), torch.tensor([True, True]), step, halve)
        assert grown.weight.tolist() == [2.5, 1.5, *middle, *last]
        kernels = grown.functions.export()["kernel"]
        factor = 0.5 if halve == "kernel" else 1.0
        for new, old in ((1, 1), (2, 1), (3, 2), (4, 2)):
            assert torch.equal(kernels[new], factor * network.functions.export()["kernel"][old])


@pytest.mark.parametrize("halve", ["kernel", "edges"])
@pytest.mark.parametrize("kind", KINDS)
def test_second_order_change_of_the_loss(kind, halve):
    """(L(eps) - L(0)) / (eps^2 / 2) tends to the sum of the lowest eigenvalues of what was split."""
    network = disturbed(KINDS[kind]())
    _, report = split(network, batches(), loss, 0.99, epsilon=1e-3, halve=halve, route="exact")
    assert report.split and all(node.eigenvalue < 0 for node in report.split)
    assert report.measured_change == pytest.approx(report.predicted_change, rel=2e-4)
    assert report.predicted_change == pytest.approx(-sum(node.gain for node in report.split))


def test_report_prints_and_the_model_is_as_it_was():
    network = ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 4, 2], SMOOTH), ng.TopK(25), dtype=torch.float64)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    grown, report = split(network, iter(batches()), loss, 0.2, route="exact")
    assert network.training and grown.training and all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert "of 7 nodes split" in str(report) and "output nodes: they are the model's output" in str(report)
    assert report.multiply_adds_after - report.multiply_adds_before == sum(node.cost for node in report.split)
    assert grown.selector.k == 25 + sum(int((node.cost - 9 * 25) / 25) for node in report.split)


SELECTORS = {
    "dnw": {"k": 25}, "no-update": {"k": 25}, "random": {"k": 25}, "complete": {"k": None}, "rigl": {"k": 25},
    "lottery-ticket": {"k": 25}, "targeted-dropout": {"k": 25}, "l1-anneal": {"k": 25}, "edge-popup": {"k": 25},
}


@pytest.mark.parametrize("halve", ["kernel", "edges"])
@pytest.mark.parametrize("name", SELECTORS)
def test_selectors_keep_all_real_edges(name, halve):
    """Also where a real edge becomes the smallest of all, and after the steps of a training."""
    network = ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 4, 2], SMOOTH), ng.selectors.create(name, **SELECTORS[name]),
                                   dtype=torch.float64)
    if name == "edge-popup":
        with torch.no_grad():
            network.selector.scores.copy_(torch.rand(network.wiring.num_edges))
    grown, _ = grow(disturbed(network), halve, epsilon=0.2, share=0.7)
    old, new = network.selection(), grown.selection()
    origin = {(u, v): n for n, (u, v) in enumerate(zip(grown.wiring.src.tolist(), grown.wiring.dst.tolist()))}
    assert int(new.real.sum()) > int(old.real.sum()) and len(origin) == len(new.real)
    assert grown.weight.requires_grad == network.weight.requires_grad
    assert torch.equal(new.weight, grown.weight.where(new.real, torch.zeros((), dtype=torch.float64)))
    again, _ = grow(grown, halve, share=0.5, seed=3)  # and once more
    x = batches(1)[0][0]
    torch.testing.assert_close(again(x), grown(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ng.selectors.SELECTORS)
def test_every_selector_goes_along_or_is_refused_by_name(name):
    try:
        selector = ng.selectors.create(name, 25)
    except ng.errors.SelectionError:  # takes no k
        selector = ng.selectors.create(name)
    network = ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 4, 2], SMOOTH), selector, dtype=torch.float64).eval()
    try:
        check_carries(network)
        grown, _ = grow(network, "kernel")
    except ng.errors.SelectionError as error:
        assert type(selector).__name__ in str(error)
        return
    x = batches(1)[0][0]
    torch.testing.assert_close(grown(x), network(x), rtol=1e-9, atol=1e-9)
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    ng.rewire(grown.train(), optimizer, total_steps=300)
    for _ in range(120):  # it trains on, over an update of those that drop and grow
        optimizer.zero_grad()
        grown(x).square().mean().backward()
        optimizer.step()


def test_absent_candidates_are_shrunk_only_where_they_must_be():
    network = ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 4, 2], SMOOTH), ng.TopK(25), dtype=torch.float64)
    grown, _ = grow(network, "kernel")
    real = grown.selection().real
    assert set(grown.weight[~real].tolist()) <= set(network.weight.tolist())
    grown, _ = grow(network, "edges")
    real = grown.selection().real
    assert grown.weight[~real].abs().max() < grown.weight[real].abs().min()


def test_groups_are_those_of_the_candidates_a_selector_serves_now():
    """Also where all its settings are as they were for others."""
    selector = ng.TopK(4, per="block")
    network = ng.StaticNeuralGraph(ng.wirings.chain([2, 2, 2]), selector)
    network.selection()
    wider = ng.StaticNeuralGraph(ng.wirings.chain([2, 6, 2]), unbound(selector, 0, torch.arange(8).repeat(3)))
    assert wider.selection().real.shape == (24,) and int(wider.selection().real.sum()) == 4


@pytest.mark.parametrize("name, options", [("feather", {"k": 30}), ("dnw", {"k": 30, "per": "node"})])
def test_selectors_that_cannot_grow_are_refused_by_name(name, options):
    network = ng.StaticNeuralGraph(ng.wirings.chain([5, 6, 4]), ng.selectors.create(name, **options), dtype=torch.float64)
    if name == "feather":
        network.selector.begin(90, 100)
    with pytest.raises(ng.errors.SelectionError, match="Feather|TopK"):
        split(network, batches(inputs=5), loss, 0.9, route="exact")


def test_frozen_edges_have_to_be_thawed():
    network = ng.StaticNeuralGraph(ng.wirings.chain([2, 6, 4]), ng.TopK(30), dtype=torch.float64)
    network.freeze()
    with pytest.raises(ng.errors.SelectionError, match="thaw"):
        split(network, batches(), loss)


# Choosing


def test_energy_aware_choice_against_brute_force():
    """The linear program against all its corners: every choice of whole nodes and at most one in part."""
    from neuralgraph.growing.choosing import affordable
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        values = torch.randn(7, generator=generator, dtype=torch.float64)
        prices = torch.rand(7, generator=generator, dtype=torch.float64) + 0.1
        budget, best, choice = 0.4 * prices.sum(), 0.0, torch.zeros(7, dtype=torch.float64)
        for bits in range(2**7):
            whole = torch.tensor([bits >> n & 1 for n in range(7)], dtype=torch.float64)
            left = budget - (whole * prices).sum()
            if left < 0:
                continue
            for n in range(7):
                beta = whole.clone()
                beta[n] = max(beta[n], min(1.0, float(left / prices[n])))
                if (beta * values).sum() < best - 1e-12:
                    best, choice = (beta * values).sum(), beta
        expected = (choice >= 0.9) & (values < 0)
        if expected.any():
            assert torch.equal(affordable(values, prices, 0.4), expected)


def test_caps_of_layers_against_greedy_choice():
    """Budgets that lie within each other are best spent on the greatest gain per cost first."""
    from neuralgraph.growing.choosing import affordable
    generator = torch.Generator().manual_seed(0)
    seen = 0
    for _ in range(30):
        values = torch.randn(12, generator=generator, dtype=torch.float64)
        prices = torch.rand(12, generator=generator, dtype=torch.float64) + 0.1
        layers = torch.randint(0, 3, (12,), generator=generator)
        left = float(0.5 * prices.sum())
        room = {n: float(0.6 * prices[layers == n].sum()) for n in range(3)}
        beta = torch.zeros(12, dtype=torch.float64)
        for n in (values / prices).argsort().tolist():
            spent = min(float(prices[n]), left, room[int(layers[n])]) if values[n] < 0 else 0.0
            left, room[int(layers[n])] = left - spent, room[int(layers[n])] - spent
            beta[n] = spent / prices[n]
        expected = (beta >= 0.9) & (values < 0)
        if expected.any():
            assert torch.equal(affordable(values, prices, 0.5, layers, 0.6), expected)
            seen += not torch.equal(affordable(values, prices, 0.5), expected)
    assert seen > 5


def test_layers_that_are_capped_are_blocks_and_layers():
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.Conv2d(3, 3, 1), ng.StaticNeuralGraph(
        ng.wirings.blocks([3, 2, 4, 2]), ng.Complete()), torch.nn.Flatten(), torch.nn.Linear(50, 2))
    layers = find(model).layers.tolist()
    assert [layers.count(n) for n in dict.fromkeys(layers)] == [3, 3, 2, 4, 2]


def test_costs_are_those_of_the_written_formula():
    """s^2 (d_in + 9) + s_out^2 d_out, of a strided node too."""
    functions = {1: ng.NodeFunction("norm activation conv", stride=2), 2: SMOOTH, 0: SMOOTH, 3: SMOOTH}
    wiring = ng.wirings.from_edges([(0, 1), (0, 2), (2, 1), (1, 3), (1, 4), (3, 4)], inputs=[0], outputs=[4],
                                   functions=functions)
    network = ng.StaticNeuralGraph(wiring, ng.Complete(), dtype=torch.float64)
    _, report = split(network, batches(inputs=1, side=8), loss, 0.99, route="exact")
    assert {node.label: node.cost for node in report.nodes} == {
        "node 1": 64 * 2 + 16 * 9 + 16 * 2, "node 2": 64 * (1 + 9) + 64, "node 3": 16 * (1 + 9) + 16}


@pytest.mark.parametrize("cost", ["multiply-adds", "log-multiply-adds", lambda label: 1.0, "mapping"])
def test_energy_aware_splitting(cost):
    network = disturbed(KINDS["batch"]())
    if cost == "mapping":
        cost = {f"node {n}": 1.0 + n for n in range(2, 9)}
    grown, report = split(network, batches(), loss, 0.7, epsilon=1e-3, route="exact", cost=cost)
    assert report.split and grown.wiring.num_nodes == network.wiring.num_nodes + len(report.split)
    assert report.measured_change < 0


# Bad input
BAD = {
    "nothing": ({"fraction": 0}, "split nothing"), "everything": ({"fraction": 1}, "split everything"),
    "too little": ({"fraction": 0.1}, "less than one"), "no number": ({"fraction": "0.3"}, "fraction must be"),
    "epsilon": ({"epsilon": -0.1}, "at least 0"), "nan": ({"epsilon": math.nan}, "finite"),
    "route": ({"route": "quick"}, "unknown route"), "halve": ({"halve": "norm"}, "unknown halve"),
    "cost": ({"cost": "energy"}, "unknown cost"), "label": ({"cost": {}}, "no entry"),
    "price": ({"cost": lambda label: -1}, "finite number above 0"),
    "cap alone": ({"layer_cap": 0.5}, "give a cost too"),
    "cap": ({"layer_cap": 0, "cost": "multiply-adds"}, "layer_cap must be"),
    "narrow cap": ({"layer_cap": 1e-6, "cost": "multiply-adds"}, "give larger ones"),
    "no price": ({"cost": lambda label: "x"}, "finite number above 0"), "bool": ({"fraction": True}, "got True.$"),
    "too much": ({"fraction": 1.5}, "split everything"), "less than nothing": ({"fraction": -1}, "split nothing"),
    "triple": ({"batches": [(1, 2, 3)]}, "got 3 things"),
    "empty": ({"batches": []}, "no batch"), "no pairs": ({"batches": [torch.zeros(2, 2, 4, 4)]}, "a pair"),
    "tensor": ({"batches": torch.zeros(3)}, "DataLoader"), "vector": ({"loss": lambda y, t: y.mean((1, 2, 3))}, "one number"),
    "float": ({"loss": lambda y, t: 0.5}, "one number"), "constant": ({"loss": lambda y, t: y.detach().mean()}, "gradient"),
    "infinite": ({"loss": lambda y, t: y.mean() / 0}, "diverged"), "no function": ({"loss": None}, "a function"),
    "model": ({"model": 3}, "expected a model"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    changed, message = BAD[case]
    arguments = {"model": KINDS["batch"](), "batches": batches(), "loss": loss, "route": "exact"}
    with pytest.raises(ng.errors.NeuralGraphError, match=message):
        split(**{**arguments, **changed})


def test_what_cannot_be_split_is_named():
    only = ng.StaticNeuralGraph(ng.wirings.chain([2, 3]), ng.Complete(), dtype=torch.float64)
    with pytest.raises(ng.errors.InputError, match="node 0.*input nodes.*node 2, node 3, node 4: output nodes"):
        split(only, batches(), loss)
    moving = ng.ContinuousTimeNeuralGraph(ng.wirings.complete(6, inputs=2, outputs=1), ng.Complete())
    with pytest.raises(ng.errors.InputError, match="ContinuousTimeNeuralGraph"):
        split(moving, batches(), loss)
    product = ng.StaticNeuralGraph(ng.wirings.from_edges(
        [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)], inputs=[0], outputs=[4],
        functions={1: SMOOTH, 2: SMOOTH, 3: ng.NodeFunction("activation", aggregate="product")}), ng.Complete(),
        dtype=torch.float64)
    assert {label for labels in find(product).refused.values() for label in labels} >= {"node 1", "node 2"}
