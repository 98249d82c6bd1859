"""What selectors share: what candidates compete within, layers, resuming, going elsewhere, recipes, bad input."""

import dataclasses

import pytest
import torch
from selecting import UNIT, bind
from torch import nn

import neuralgraph as ng
from neuralgraph.errors import InputError, SelectionError, UnknownNameError
from neuralgraph.selectors import Weights, train_scores_only
from neuralgraph.training import RECIPES, Run
from neuralgraph.training.report import read_records

# Tickets


@pytest.mark.parametrize("criterion, score", [
    ("large-final", lambda f, i: abs(f)), ("small-final", lambda f, i: -abs(f)),
    ("large-init", lambda f, i: abs(i)), ("small-init", lambda f, i: -abs(i)),
    ("large-final-same-sign", lambda f, i: abs(f) if f * i > 0 else 0.0),
    ("magnitude-increase", lambda f, i: abs(f) - abs(i)), ("movement", lambda f, i: abs(f - i)),
])
def test_tickets_by_every_criterion(criterion, score):
    final, initial = (torch.randn(20, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    selector = ng.selectors.Ticket(6, criterion, per="node")
    bind(selector, Weights((2, 10)), initial)
    selector.draw(final, initial)
    wanted = []
    for row in (range(10), range(10, 20)):
        wanted += sorted(row, key=lambda e: (score(final[e].item(), initial[e].item()), e))[-3:]
    assert selector.mask.nonzero().flatten().tolist() == sorted(wanted)


def test_a_random_ticket_is_no_matter_of_weights():
    selector = ng.selectors.Ticket(6, "random")
    bind(selector, Weights((2, 10)), torch.arange(20.0))
    real = selector.mask
    selector.draw(-torch.arange(20.0))
    assert torch.equal(real, selector.mask) and real.sum() == 6 and not real[14:].all()


# What candidates compete within

RANKING = [name for name in ng.selectors.SELECTORS if "per" in ng.selectors.options_of(name)]


def test_who_ranks():
    assert {"dnw", "no-update", "edge-popup", "feather", "fine-tune", "l1-anneal", "lottery-ticket", "random", "spartan",
            "str", "supermask", "targeted-dropout", "top-kast", "variational-dropout"} <= set(RANKING)


@pytest.mark.parametrize("per", ["node", "group", "block"])
@pytest.mark.parametrize("name", RANKING)
def test_every_selector_that_ranks_keeps_to_its_groups(name, per):
    """Equal fan-in, shared parents, or shares in proportion, at any time of any schedule, and k in the end."""
    if name == "targeted-dropout-regular":
        with pytest.raises(SelectionError, match="regular=True"):
            ng.selectors.create(name, 4, per=per)
        return
    wiring, k = ng.wirings.chain([6, 4, 6], UNIT), {"node": 20, "group": 20, "block": 13}[per]
    options = {"group": 2} if per == "group" else {}
    options |= {"every": 2} if "every" in ng.selectors.options_of(name) else {}
    net = ng.StaticNeuralGraph(wiring, ng.selectors.create(name, k, per=per, **options), "dense", dims=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    ng.rewire(net, optimizer, total_steps=8)
    for step in range(9):
        real = net.selection().real
        assert real.sum() == net.num_real
        parents = [frozenset(wiring.src[real & (wiring.dst == node)].tolist()) for node in range(6, 16)]
        if per == "block":
            counts = sum(map(len, parents[:4])), sum(map(len, parents[4:]))
            assert abs(counts[0] - counts[1]) <= 1  # of 24 candidates each
        else:
            for block in (parents[:4], parents[4:]):
                assert len(set(map(len, block))) == 1
        if per == "group":
            assert parents[::2] == parents[1::2]
        if step < 8:
            x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    assert real.sum() == k


# Layers

def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6, 4))


OWN = [name for name in ng.selectors.SELECTORS if name in (
    "l0", "variational-dropout", "str", "spartan", "top-kast", "supermask", "edge-popup", "l1-anneal", "random",
    "lottery-ticket", "feather", "targeted-dropout")]


@pytest.mark.parametrize("granularity", ["weight", "kernel"])
@pytest.mark.parametrize("name", OWN)
def test_every_selector_serves_layers(name, granularity):
    """In a training, alone and against other layers: exact k, outputs of densify, gradients where they belong."""
    found = ng.selectors.k_is(name) == "found"
    several = ("layer", "node", "model") if granularity == "kernel" else ("layer", "group", "model")
    for per in ("layer", "model") if found else several:
        model = ng.sparsify(small(), None if found else 0.5, selector=name, granularity=granularity, per=per,
                            first_layer_dense=False, selector_options={"group": 2} if per == "group" else {})
        if per == "model":
            assert model[0].selector is not None and not hasattr(model[2], "selector")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        ng.rewire(model, optimizer, total_steps=2)
        for _ in range(2):
            x = torch.randn(4, 2, 5, 5)
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        model.eval()
        layers = [model[0], model[2], model[4]]
        assert all(layer.k == layer.real().sum() == int(layer.real().sum()) for layer in layers)
        if per == "layer" and not found:
            assert [layer.k for layer in layers] == [layer.num_weights // 2 for layer in layers]
        dense = ng.densify(model)
        torch.testing.assert_close(dense(x), model(x))
        assert all(not (part.weight != 0)[~layer.real()].any() for layer, part in zip(
            layers, [dense[0], dense[2], dense[4]]))


@pytest.mark.parametrize("name", ["str", "supermask", "variational-dropout", "l0"])
def test_layers_without_a_density(name):
    model = ng.sparsify(small(), {"2": None, "4": None}, selector=name)
    assert [ng.layers.summary(model).layers[i].real is None for i in range(3)] == [True, False, False]
    model(torch.randn(2, 2, 5, 5)).sum().backward()
    assert model[2].k == model[2].real().sum() and "k=" in repr(model[2])
    assert 0 < ng.layers.summary(model).density <= 1


# What is learned goes elsewhere, and on

VARIANTS = {
    "supermask": lambda: ng.selectors.Supermask(),
    "sampled": lambda: ng.selectors.Supermask(evaluation="sample", rescale=True),
    "rescaled": lambda: ng.selectors.Supermask(30, weights="signed-constant", rescale=True),
    "popup": lambda: ng.selectors.EdgePopup(30, weights="kaiming-normal", scaled=False),
    "l0": lambda: ng.selectors.L0(strength=0.05),
    "variational-dropout": lambda: ng.selectors.VariationalDropout(strength=0.01, threshold=0.0),
    "str": lambda: ng.selectors.SoftThreshold(start=-2.0),
    "str-exact": lambda: ng.selectors.SoftThreshold(20, per="node"),
    "spartan": lambda: ng.selectors.Spartan(40, per="group", group=2),
    "top-kast": lambda: ng.selectors.TopKAST(40, per="node"),
    "ticket": lambda: ng.selectors.Ticket(40, "random", per="node"),
    "anneal": lambda: ng.selectors.L1Anneal(40, every=2, per="node"),
}


def graph(selector, seed=0):
    return ng.StaticNeuralGraph(ng.wirings.blocks([4, 8, 8, 4], UNIT), selector, "dense", dims=0, seed=seed)


def spread(net):
    """Some gates begin closed."""
    if isinstance(net.selector, ng.selectors.L0):
        net.selector.log_alpha.data = torch.linspace(-4, 4, 208)
    return net


def go_on(net, optimizer, first, last):
    for step in range(first, last):
        torch.manual_seed(step)
        x = torch.randn(16, 4)
        optimizer.zero_grad()
        (net(x) - x.sin()).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", VARIANTS)
def test_a_training_resumes_and_what_it_learned_goes_elsewhere(kind):
    """Bit for bit from the state dicts; then as a wiring, compiled and frozen with equal outputs."""
    states, nets = None, []
    for first, last in ((0, 10), (0, 6), (6, 10)):
        net = spread(graph(VARIANTS[kind](), seed=first))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9, weight_decay=0.05)
        if first:
            net.load_state_dict(states[0]), optimizer.load_state_dict(states[1])
        ng.rewire(net, optimizer, total_steps=10)
        go_on(net, optimizer, first, last)
        states = net.state_dict(), optimizer.state_dict()
        nets.append(net)
    whole, _, resumed = nets
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    net, x = whole.eval(), torch.randn(5, 4)
    real = net.selection().real
    assert real.sum() == net.num_real and 0 < net.num_real < 208
    with torch.no_grad():
        y = net(x)
        assert torch.equal(net(x), y)
        twin = ng.StaticNeuralGraph(net.learned_wiring(), ng.Complete(), dims=0).eval()
        for other in (twin, ng.compile(net)):
            torch.testing.assert_close(other(x), y, rtol=1e-4, atol=1e-5)
    net.freeze()
    assert torch.equal(net(x), y) and net.num_real == real.sum()


def test_a_discrete_network_draws_once_per_forward():
    """The same gates at all its steps, and other ones at the next forward."""
    net = ng.DiscreteTimeNeuralGraph(ng.wirings.complete(8, inputs=2, outputs=2, function=UNIT), ng.selectors.L0(),
                                     steps=3, dims=0)
    drawn, sample = [], net.selector.sample
    net.selector.sample = lambda weight: drawn.append(sample(weight)) or drawn[-1]
    x = torch.randn(3, 2)
    y = net(x)
    assert len(drawn) == 1 and not torch.equal(net(x), y) and len(drawn) == 2
    assert torch.equal(net.eval()(x), net(x)) and len(drawn) == 2


@pytest.mark.parametrize("kind", ["l0", "str", "variational-dropout"])
def test_what_finds_k_itself_gets_sparser(kind):
    """By the penalty, or by the decay of the threshold; it is real that is reported."""
    made = {"l0": ng.selectors.L0(strength=0.3), "str": ng.selectors.SoftThreshold(start=-6.0),
            "variational-dropout": ng.selectors.VariationalDropout(strength=0.02)}[kind]
    net = spread(graph(made))
    before = net.num_real
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1) if kind == "variational-dropout" else \
        torch.optim.SGD(net.parameters(), lr=0.5, weight_decay=0.02 if kind == "str" else 0)
    ng.rewire(net, optimizer, total_steps=40)
    go_on(net, optimizer, 0, 40)
    assert 0 < net.num_real == net.selection().real.sum() < 0.9 * before


def test_a_penalty_that_nobody_adds_is_told():
    for selector in (ng.selectors.L0(), ng.selectors.TopKAST(30), ng.selectors.VariationalDropout()):
        net = graph(selector)
        with pytest.warns(UserWarning, match="adds a penalty to the loss, but nobody asks"):
            go_on(net, torch.optim.SGD(net.parameters(), lr=0.1), 0, 3)


def test_edges_and_layers_refuse_what_they_cannot_do():
    wiring = ng.wirings.blocks([3, 4, 4, 2])
    for make, error, message in [
        (lambda: ng.selectors.L0(k=3), SelectionError, "finds the number.*takes no k, got k=3.*--set k=none"),
        (lambda: ng.selectors.create("l0", 3), SelectionError, "takes no k"),
        (lambda: ng.selectors.L0(drop=1.0), SelectionError, "above 0 and below 1"),
        (lambda: ng.selectors.L0(strength=-1), SelectionError, "strength must be a number"),
        (lambda: ng.selectors.Supermask(3, evaluation="round"), SelectionError, "leave it out, or k=3"),
        (lambda: ng.selectors.Supermask(evaluation="rund"), UnknownNameError, "did you mean 'round'"),
        (lambda: ng.selectors.Supermask(per="node"), SelectionError, "without k nothing competes"),
        (lambda: ng.StaticNeuralGraph(ng.wirings.chain([1, 1]), ng.selectors.Supermask(
            weights="signed-constant")), SelectionError, "all of them are equal"),
        (lambda: ng.selectors.EdgePopup(3, scaled=False), SelectionError, "scaled is a setting of"),
        (lambda: ng.selectors.VariationalDropout(3, threshold=2.0), SelectionError, "give one of them"),
        (lambda: ng.selectors.SoftThreshold(3, start=1.0), SelectionError, "leave one of them out"),
        (lambda: ng.selectors.Spartan(3, sharpest=0.5), SelectionError, "sharpest must be a number, expected at least 1"),
        (lambda: ng.selectors.Spartan(3, ramp=0.9), SelectionError, "0 <= ramp <= end"),
        (lambda: ng.selectors.TopKAST(3, backward=2), SelectionError, "expected 0 to 1, got 2"),
        (lambda: ng.selectors.Ticket(3, "largest"), UnknownNameError, "unknown criterion"),
        (lambda: ng.selectors.TopK(3, group=2), SelectionError, "group=2 is a setting of per='group'"),
        (lambda: ng.StaticNeuralGraph(wiring, ng.selectors.Spartan(20, per="group", group=3)), SelectionError,
         "does not divide the 10"),
        (lambda: ng.StaticNeuralGraph(wiring, ng.selectors.L1Anneal(15, per="node")), SelectionError, "multiple of 10"),
        (lambda: ng.StaticNeuralGraph(wiring, ng.selectors.TopKAST(100)), SelectionError, "at most the 62"),
        (lambda: bind(ng.selectors.Ticket(2, "movement"), Weights((1, 4)), torch.randn(4)) is None or
         (lambda s: (bind(s, Weights((1, 4)), torch.randn(4)), s.draw(torch.randn(4))))(ng.selectors.Ticket(2, "movement")),
         SelectionError, "needs the initial weights"),
        (lambda: ng.sparsify(small(), 0.5, selector="l0"), InputError, "takes no density: give density=None"),
        (lambda: ng.sparsify(small(), None), InputError, "'dnw' needs a density"),
        (lambda: ng.sparsify(small(), {"2": None}, selector="spartan"), InputError, "needs a density"),
        (lambda: ng.sparsify(small(), None, selector="str", per="node"), SelectionError, "without k nothing competes"),
        (lambda: ng.sparsify(small(), None, selector="l0", per="node"), InputError, "does not let weights compete within nodes"),
        (lambda: ng.sparsify(small(), None, selector="str", budget="erdos-renyi-kernel"), InputError, "divides one density"),
        (lambda: train_scores_only(graph(ng.TopK(3))), SelectionError, "no scores to train"),
        (lambda: ng.models.create("mobilenet-dnw", selector="l0", width=0.5, image_size=32), InputError, "takes no width"),
    ]:
        with pytest.raises(error, match=message):
            make()


def test_models_know_who_takes_k():
    assert ng.models.create("tiny-static", selector="supermask").num_real_edges == 325_760
    assert ng.models.create("tiny-static", selector="top-kast").num_real_edges == 32_000


# Recipes

@pytest.fixture(scope="module")
def digits():
    full = ng.data.load("digits")
    return dataclasses.replace(full, train_images=full.train_images[:10], train_labels=full.train_labels[:10],
                               test_images=full.test_images[:5], test_labels=full.test_labels[:5])


def test_recipes_train_selectors_without_k(digits, tmp_path):
    base = dataclasses.replace(RECIPES["tiny-static"], epochs=1, batch_size=5, k=3000, crop_padding=1)
    run = Run.create(base.with_settings({"selector": "str", "k": "none", "selector.start": "-4"}), tmp_path / "r", digits)
    rows = run.train()
    network, = run.model.networks
    again = Run.open(run.folder, digits).model
    assert again.num_real_edges == network.num_real == network.selection().real.sum() == read_records([run.folder])[0].k
    assert torch.equal(again.networks[0].selection().real, network.selection().real) and len(rows) == 1
    assert 0 < network.num_real < 325_760


def test_a_ticket_is_drawn_by_its_criterion(digits, tmp_path):
    """From the initial and the trained weights of a complete run; not trained, it is a found supermask."""
    base = dataclasses.replace(RECIPES["tiny-static"], epochs=1, batch_size=5, k=None, crop_padding=1)
    source = Run.create(dataclasses.replace(base, selector="complete"), tmp_path / "source", digits)
    initial = source.model.networks[0].weight.detach().clone()
    source.train()
    trained = source.model.networks[0].weight.detach()
    recipe = dataclasses.replace(base, selector="lottery-ticket", k=2000, source=str(source.folder), epochs=0)
    ticket = Run.create(recipe.with_settings({"selector.criterion": "movement"}), tmp_path / "t", digits)
    network, = ticket.model.networks
    real, moved = network.selection().real, (trained - initial).abs()
    assert torch.equal(network.weight, initial) and real.sum() == 2000 and moved.max() > 0
    assert moved[real].min() >= moved[~real].max()
    assert trained.abs()[real].min() < trained.abs()[~real].max()
