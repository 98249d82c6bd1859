"""Looking at a network, evaluating it and failing to build one leave everything as it was."""

import copy

import pytest
import torch
from graphs import STATIC_GENERATORS, bare, k_of, random_dag

import neuralgraph as ng
from neuralgraph.backends import BACKENDS, available
from neuralgraph.backends.layout import Layout
from neuralgraph.errors import NeuralGraphError, SelectionError
from neuralgraph.selectors import SELECTORS, L1Anneal, TargetedDropout

MAKERS = {
    **{name: lambda k, name=name: ng.selectors.create(name, k_of(name, k))
       for name in SELECTORS},
    "per-block": lambda k: ng.TopK(k, per="block"),
    "soft_g": lambda k: ng.TopK(k, gradient="soft_g"),
}


def static(selector, **options):
    return ng.StaticNeuralGraph(STATIC_GENERATORS["blocks-instance"](), selector, **options)


NETWORKS = {
    "static": static,
    "random": lambda selector, **options: ng.StaticNeuralGraph(random_dag(3), selector, **options),
    "products": lambda selector, **options: ng.StaticNeuralGraph(random_dag(7), selector, **options),
    "discrete": lambda selector, **options: ng.DiscreteTimeNeuralGraph(
        ng.wirings.from_edges([(0, 2), (2, 1), (1, 2), (2, 3), (1, 3), (3, 0)], inputs=[0], outputs=[3],
                              functions=ng.wiring.DYNAMIC), selector, steps=2, **options),
    "continuous": lambda selector, **options: ng.ContinuousTimeNeuralGraph(
        ng.wirings.complete(5, inputs=2, outputs=1), selector, solver="euler", **options),
}


def training_step(network, x):
    network.train()
    torch.manual_seed(0)  # of targeted dropout
    before = network.weight.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    (network(x) + 0.3).square().sum().backward()
    optimizer.step()
    return not torch.equal(before, network.weight)


def drawn(network, x):
    """The output, with the draws of a seed."""
    torch.manual_seed(0)
    return network(x)


def test_the_networks_cover_the_cases():
    aggregates = {f.aggregate for f in random_dag(7).functions}
    assert aggregates == {"sum", "product"}
    assert not all(Layout.of(stage).is_full_matrix for stage in NETWORKS["random"](ng.TopK(2)).stages)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("selector", MAKERS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_training_after_inference_mode(kind, selector, backend):
    """What a forward in inference mode keeps serves training as if it had never been."""
    network = NETWORKS[kind](MAKERS[selector](4), backend=backend)
    x = torch.randn(3, len(network.wiring.inputs), 6, 6)
    twin = copy.deepcopy(network)
    with torch.inference_mode():
        network.eval()(x)
        network.learned_wiring()
        if "dgl" in available():
            _ = network.graph
    network.eval()(x).sum().backward()
    network.zero_grad()
    assert training_step(network, x) == training_step(twin, x)
    assert torch.equal(network.weight, twin.weight)
    with torch.inference_mode():
        network(x)
        small = network.learned_wiring()
    twin(x)
    training_step(network, x), training_step(twin, x)
    assert torch.equal(network.weight, twin.weight)
    if kind != "continuous":
        tuned = type(network)(small, ng.Complete())
        training_step(tuned, x)


@pytest.mark.parametrize("selector", MAKERS)
def test_looking_changes_nothing(selector):
    """Whatever is looked at while training, the next forward is the one it would have been."""
    network, other = (static(MAKERS[selector](20)) for _ in range(2))
    x = torch.randn(2, 3, 6, 6)
    state = copy.deepcopy(network.state_dict())
    real = network.selection().real
    assert real.sum() == network.selector.num_real == network.learned_wiring().num_edges
    if "dgl" in available():
        assert torch.equal(network.graph.edata["real"], real)
    assert ng.to_networkx(network).number_of_edges() == real.sum()
    ng.to_networkx(network, real_only=False), network.complete_wiring()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(drawn(network, x), drawn(other, x))
    assert torch.equal(network.eval().selection().real, real)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("selector", MAKERS)
def test_what_is_handed_out_is_the_callers(selector, training):
    network = static(MAKERS[selector](20)).train(training)
    x = torch.randn(2, 3, 6, 6)
    twin = copy.deepcopy(network)
    masks = [lambda: network.selection().real, lambda: network.selector.select(network.weight)]
    if "dgl" in available():
        masks.append(lambda: network.graph.edata["real"])
    for mask in masks:
        real = mask()
        kept = real.clone()
        real.logical_not_()
        assert torch.equal(mask(), kept)
    assert torch.equal(drawn(network, x), drawn(twin, x))


@pytest.mark.parametrize("make", [lambda: ng.TopK(20), lambda: ng.TopK(20, per="block"),
                                  lambda: ng.TopK(20, per="node"), lambda: TargetedDropout(20),
                                  lambda: TargetedDropout(20, regular=True)])
def test_k_can_be_set_where_edges_are_ranked_anew(make):
    network, other = static(make()).eval(), make()
    network.selection()
    network.selector.k = other.k = 30
    expected = static(other).eval()
    assert torch.equal(network.selection().real, expected.selection().real)
    assert network.selector.num_real == network.selection().real.sum() >= 30
    network.selector.k = 1000
    with pytest.raises(SelectionError, match="at most the 62 candidate edges, got 1000"):
        network.selection()


def test_the_competition_can_be_set():
    network = static(ng.TopK(20))
    network.selection()
    network.selector.per = "node"
    into = torch.bincount(network.wiring.dst[network.selection().real])
    assert set(into[3:].tolist()) == {2}


@pytest.mark.parametrize("make", [lambda: ng.RandomGraph(20), lambda: L1Anneal(20),
                                  lambda: ng.selectors.create("lottery-ticket", 20)])
def test_k_of_kept_edges_cannot_change(make):
    selector = make()
    selector.k = 10
    with pytest.raises(SelectionError, match="must be an integer"):
        selector.k = 1.5
    network = static(selector)
    with pytest.raises(SelectionError, match="for k=10, so k cannot become 30"):
        selector.k = 30
    assert selector.k == 10 and network.selection().real.sum() == selector.num_real
    again = ng.StaticNeuralGraph(network.complete_wiring(), ng.TopK(30))  # the mend
    assert torch.equal(again.weight, network.weight)


@pytest.mark.parametrize("fail", [
    lambda s: static(s, backend="spares"),
    lambda s: static(s, seed="one"),
    lambda s: ng.StaticNeuralGraph(ng.wirings.blocks([1, 1]), s),
    lambda s: ng.StaticNeuralGraph(ng.wirings.complete(9, inputs=3, outputs=2), s),
    lambda s: ng.DiscreteTimeNeuralGraph(ng.wirings.blocks([3, 9, 2], input_stride=2), s),
    lambda s: ng.DiscreteTimeNeuralGraph(ng.wirings.complete(9, inputs=3, outputs=2), s, steps=0),
    lambda s: ng.ContinuousTimeNeuralGraph(ng.wirings.complete(9, inputs=3, outputs=2), s, solver="rk5"),
    lambda s: ng.ContinuousTimeNeuralGraph(ng.wirings.complete(9, inputs=3, outputs=2), s, rtol=-1),
])
@pytest.mark.parametrize("selector", [name for name in MAKERS if name not in SELECTORS or k_of(name, 1)])
def test_a_failed_network_leaves_its_selector_free(fail, selector):
    used = MAKERS[selector](20)
    with pytest.raises(NeuralGraphError):
        fail(used)
    assert used.num_edges is None
    fresh = static(MAKERS[selector](20))
    assert torch.equal(static(used).selection().real, fresh.selection().real)


@pytest.mark.parametrize("selector", [*(name for name in MAKERS if name != "per-block"), "block", "node"])
def test_a_wiring_without_edges(selector):
    graph = bare(([], []), 2)
    graph.ndata.update({"role": torch.tensor([1, 2]), "block": torch.tensor([0, 1]),
                        "scale": torch.tensor([1, 1])})
    made = ng.TopK(0, per=selector) if selector in ("block", "node") else MAKERS[selector](0)
    network = ng.StaticNeuralGraph(ng.Wiring(graph), made)
    for training in (True, False):
        assert torch.equal(network.train(training)(torch.randn(2, 1, 3, 3)), torch.zeros(2, 1, 3, 3))
    assert network.selector.num_real == 0 == network.learned_wiring().num_edges
