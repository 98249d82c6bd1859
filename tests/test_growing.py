"""Splitting of graphs: outputs stay, the loss changes as the splitting matrices say, selectors go along."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from graphs import random_dag, random_dynamic
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import neuralgraph as ng
from neuralgraph.growing import Exact, Fast, split
from neuralgraph.growing.building import build
from neuralgraph.growing.carrying import check_carries
from neuralgraph.growing.probing import Probe
from neuralgraph.growing.units import find

SMOOTH = ng.NodeFunction("norm activation conv", activation="softplus")
SMOOTH_INSTANCE = ng.NodeFunction("norm activation conv", activation="softplus", norm="instance")
UNIT = ng.NodeFunction("bias activation", activation="tanh")


def disturbed(network, seed=0):
    """The network with moments, scales and shifts as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            if value.is_floating_point() and value.dim() == 1 and "selector" not in name:
                value += 0.3 * torch.rand(value.shape, generator=generator, dtype=value.dtype)
    return network.eval()


def grow(model, halve, epsilon=0.0, share=0.6, seed=0):
    """The model with a random share of all that can be split, moved by epsilon in random directions."""
    units, generator = find(model), torch.Generator().manual_seed(seed)
    chosen = torch.rand(units.number, generator=generator) < share
    step = torch.randn(len(units.owner), generator=generator, dtype=torch.float64) * epsilon * chosen[units.owner]
    leaves = {part.name: part.module.weight.detach() for part in units.parts}
    return build(model, units, chosen, units.spread(step, leaves), halve), int(chosen.sum())


def batches(number=3, inputs=2, side=5, seed=1, size=4):
    generator = torch.Generator().manual_seed(seed)
    space = (side, side) if side else ()
    return [(torch.randn(size, inputs, *space, generator=generator, dtype=torch.float64),
             torch.randn(size, generator=generator, dtype=torch.float64)) for _ in range(number)]


def loss(y, target):
    return (y.flatten(1).mean(1) - target).square().mean()


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


def written_out(network, data):
    """Splitting matrices by the formula of ReLU behind a batch norm, node by node (methods: S_v of a channel).

    S_v = mean of sum G sigma''(p) c^2 Z Z', with sigma'' that of the softplus of sharpness 3 and G = dL/dr.
    """
    wiring, values = network.wiring, {name: v.detach() for name, v in network.functions.export().items()}
    weight, found = network.weight.detach(), {}
    for x, target in data:
        z, r, p, scale = {}, {}, {}, {}
        for node in range(wiring.num_nodes):
            into = (wiring.dst == node).nonzero().flatten()
            total = x[:, int(wiring.channel[node])] if wiring.role[node] == 1 else sum(
                weight[e] * z[int(wiring.src[e])] for e in into)
            if wiring.role[node] == 2:
                z[node] = total
                continue
            scale[node] = values["norm_weight"][node] / (values["norm_var"][node] + 1e-5).sqrt()
            p[node] = scale[node] * (total - values["norm_mean"][node]) + values["norm_bias"][node]
            r[node] = p[node].relu().detach().requires_grad_() if not p[node].requires_grad else p[node].relu()
            z[node] = F.conv2d(r[node][:, None], values["kernel"][node][None, None], padding=1)[:, 0]
        y = torch.stack([z[int(node)] for node in wiring.outputs], 1)
        gradients = torch.autograd.grad(loss(y, target), list(r.values()), allow_unused=True)
        for node, g in zip(r, gradients):
            into = (wiring.dst == node).nonzero().flatten()
            if wiring.role[node] == 1:
                continue
            s = torch.sigmoid(3 * p[node].detach())
            sources = torch.stack([z[int(wiring.src[e])].detach() for e in into])
            bent = (g * 3 * s * (1 - s) * scale[node]**2)
            found[node] = found.get(node, 0) + torch.einsum("bhw,ibhw,jbhw->ij", bent, sources, sources) / len(data)
    return found


def test_exact_eigenpairs_are_those_of_the_written_formula():
    network = disturbed(ng.StaticNeuralGraph(ng.wirings.blocks([2, 3, 3, 2]), ng.Complete(), dtype=torch.float64))
    data = batches()
    units = find(network)
    values, vectors = Exact().solve(Probe(network, loss, []), units, lambda: data)
    matrices = written_out(network, data)
    assert list(matrices) == units.parts[0].nodes.tolist()
    for number, s in enumerate(matrices.values()):
        expected, basis = torch.linalg.eigh(s)
        torch.testing.assert_close(values[number], expected[0], rtol=1e-8, atol=1e-12)
        mine = vectors[units.owner == number]
        torch.testing.assert_close(mine * mine[0].sign(), basis[:, 0] * basis[0, 0].sign(), rtol=1e-5, atol=1e-7)


KINDS = {
    "batch": lambda: ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 3, 2], SMOOTH), ng.TopK(20), dtype=torch.float64),
    "instance": lambda: ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 3, 2], SMOOTH_INSTANCE), ng.Complete(),
                                             dtype=torch.float64),
    "two-activations": lambda: ng.StaticNeuralGraph(ng.wirings.chain([2, 3, 3, 2], ng.NodeFunction(
        "bias activation conv", "norm activation", activation="tanh")), ng.Complete(),
        dtype=torch.float64),
    "product": lambda: ng.StaticNeuralGraph(ng.wirings.from_edges(
        [(0, 2), (1, 2), (0, 3), (1, 3), (2, 4), (3, 4)], inputs=[0, 1], outputs=[4],
        functions={2: ng.NodeFunction("activation", activation="tanh", aggregate="product"), 3: SMOOTH, 0: SMOOTH}),
        ng.Complete(), dtype=torch.float64),
    "discrete": lambda: ng.DiscreteTimeNeuralGraph(ng.wirings.complete(7, inputs=2, outputs=1, function=ng.NodeFunction(
        "activation conv", "norm", activation="softplus")), ng.TopK(30), dtype=torch.float64, steps=3),
    "discrete-untied": lambda: ng.DiscreteTimeNeuralGraph(ng.wirings.complete(
        6, inputs=2, outputs=1, function=ng.NodeFunction("activation", "bias", activation="silu")), ng.Complete(),
        dtype=torch.float64, steps=3, tied=False),
}


@pytest.mark.parametrize("halve", ["kernel", "edges"])
@pytest.mark.parametrize("kind", KINDS)
def test_second_order_change_of_the_loss(kind, halve):
    """(L(eps) - L(0)) / (eps^2 / 2) tends to the sum of the lowest eigenvalues of what was split."""
    network = disturbed(KINDS[kind]())
    _, report = split(network, batches(), loss, 0.99, epsilon=1e-3, halve=halve, route="exact")
    assert report.split and all(node.eigenvalue < 0 for node in report.split)
    assert report.measured_change == pytest.approx(report.predicted_change, rel=2e-4)
    assert report.predicted_change == pytest.approx(-sum(node.gain for node in report.split))


def test_fast_route_agrees_with_the_exact_one():
    network = disturbed(ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 4, 2]), ng.Complete(), dtype=torch.float64))
    data, units = batches(2, side=4), find(network)
    exact, direction = Exact().solve(Probe(network, loss, []), units, lambda: data)
    found, v = Fast(epochs=2, lr=5e-3).solve(Probe(network, loss, []), units, lambda: data * 50)
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0.01 * float(exact.abs().max()))
    cosine = torch.zeros(units.number, dtype=torch.float64).index_add_(0, units.owner, v * direction).abs()
    assert (cosine[exact < -0.1 * exact.abs().max()] > 0.98).all()


def test_the_fast_route_says_when_it_has_not_converged():
    network = disturbed(ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 4, 2]), ng.Complete(), dtype=torch.float64))
    data, units = batches(2, side=4), find(network)
    with pytest.warns(UserWarning, match="fast route has not converged.*route='exact'"):
        Fast(epochs=1).solve(Probe(network, loss, []), units, lambda: data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Fast(epochs=2, lr=5e-3).solve(Probe(network, loss, []), units, lambda: data * 50)


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
