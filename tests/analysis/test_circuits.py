"""What belongs to a class: against written formulas, and networks made so that the answer is known."""

import pytest
import torch
from torch import nn

import neuralgraph as ng
from neuralgraph.analysis import attribution, circuit
from neuralgraph.errors import InputError, UnknownNameError


class Direct(nn.Module):
    """A graph whose outputs are the logits."""

    def __init__(self, wiring, selector, seed=0):
        super().__init__()
        self.net = ng.StaticNeuralGraph(wiring, selector, dims=0, seed=seed, dtype=torch.float64)

    def forward(self, x):
        return self.net(x)


@pytest.fixture
def model():
    function = ng.NodeFunction("activation", activation="tanh")
    return Direct(ng.wirings.blocks([4, 6, 3], function, dims=0), ng.TopK(k=25), seed=3)


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(30, 4, generator=generator, dtype=torch.float64), torch.arange(30) % 3


def objective(model, weight, images, labels, label):
    """f by its definition, of a dense reference of the network [dst, src]."""
    wiring = model.net.wiring
    z = torch.zeros(len(images), wiring.num_nodes, dtype=torch.float64)
    z[:, wiring.inputs] = images
    matrix = torch.zeros(wiring.num_nodes, wiring.num_nodes, dtype=torch.float64).index_put(
        (wiring.dst, wiring.src), weight)
    z = images.tanh()
    hidden = (z @ matrix[4:10, :4].T).tanh()
    p = torch.cat([z, hidden], 1) @ matrix[10:, :10].T
    p = p.softmax(1)
    if label is None:
        return p[torch.arange(len(labels)), labels].log().mean()
    return p[labels == label, label].log().mean() + (1 - p[labels != label, label]).log().mean()


@pytest.mark.parametrize("label", [None, 0, 2])
@pytest.mark.parametrize("by", ["gradient", "ablation"])
def test_attributions_are_what_they_say(model, samples, label, by):
    found, = attribution(model, *samples, label=label, by=by)
    selection, wiring = model.net.selection(), model.net.wiring
    weight = selection.weight.detach().clone().requires_grad_()
    full = objective(model, weight, *samples, label)
    gradient, = torch.autograd.grad(full, weight)

    def lost(edges):
        return (full.detach() - objective(model, weight.detach().index_fill(0, edges, 0.0), *samples, label)).item()
    for edge in range(wiring.num_edges):
        expected = (weight[edge] * gradient[edge]).item() if by == "gradient" else lost(torch.tensor([edge]))
        assert found.edges[edge].item() == pytest.approx(expected if selection.real[edge] else 0.0, abs=1e-6)
    for node in range(wiring.num_nodes):
        ends = wiring.src if node < 10 else wiring.dst
        if not (selection.real & (wiring.src == node)).any():
            ends = wiring.dst
        own = (selection.real & (ends == node)).nonzero().flatten()
        expected = float(found.edges[own].sum()) if by == "gradient" else lost(own) if len(own) else 0.0
        assert found.nodes[node].item() == pytest.approx(expected, abs=1e-6)


def test_what_a_node_adds_is_gradient_times_activation(model, samples):
    found, = attribution(model, *samples, label=1)
    images = samples[0].clone().requires_grad_()  # an input node sends tanh(x), so dz = dx / (1 - tanh(x)^2)
    weight = model.net.selection().weight.detach()
    gradient, = torch.autograd.grad(objective(model, weight, images, samples[1], 1), images)
    z = images.detach().tanh()
    torch.testing.assert_close(found.nodes[:4].double(), (gradient / (1 - z**2) * z).sum(0), atol=1e-6, rtol=0)


def test_a_circuit_is_the_part_that_decides():
    """Class c is where input c is largest; inputs 3 and 4 add noise to all classes alike."""
    wiring = ng.wirings.chain([5, 3], ng.NodeFunction("activation", activation="identity"), dims=0)
    model = Direct(wiring, ng.selectors.create("complete"))
    with torch.no_grad():
        model.net.weight.copy_(((wiring.src == wiring.dst - 5) * 5.0 + (wiring.src > 2) * 0.3).double())
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[:, 3:] *= 0.1
    labels = x[:, :3].argmax(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = [circuit(model, x, labels, label=label, keep=1.0) for label in range(3)]
    for label, part in enumerate(found):
        edges = set(zip(part.wiring.src.tolist(), part.wiring.dst.tolist()))
        assert {(0, 5), (1, 6), (2, 7)} <= edges and part.accuracy >= part.whole - 1e-9
        assert all(source < 3 for source, _ in edges)
        assert int(part.edges[0].sum()) == part.num_edges == part.wiring.num_edges
    assert found[0].overlap(found[0]) == 1 and 0 < found[0].overlap(found[1]) <= 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    few = circuit(model, x, labels, label=0, keep=0.5)
    assert few.num_edges < 3 and few.accuracy >= 0.5 + 0.5 * (few.whole - 0.5)


def test_no_edge_of_a_circuit_can_be_spared(model, samples):
    images, labels = samples
    labels = model(images).argmax(1)
    label = int(labels[0])
    part = circuit(model, images, labels, label=label, keep=0.9)
    least = 0.5 + 0.9 * (part.whole - 0.5)

    def balanced(mask):
        weight = model.net.selection().weight.detach() * mask
        called = model_of(model, weight, images).argmax(1) == label
        own = labels == label
        return (called[own].double().mean() + (~called[~own]).double().mean()) / 2

    def model_of(model, weight, images):
        matrix = torch.zeros(13, 13, dtype=torch.float64)
        matrix[model.net.wiring.dst, model.net.wiring.src] = weight
        z = images.tanh()
        return torch.cat([z, (z @ matrix[4:10, :4].T).tanh()], 1) @ matrix[10:, :10].T
    mask = part.edges[0]
    assert balanced(mask).item() == pytest.approx(part.accuracy) and part.accuracy >= least - 1e-9
    for edge in mask.nonzero().flatten():
        assert balanced(mask.index_fill(0, edge, False)) < least


def test_several_graphs_have_a_wiring_each(samples):
    function = ng.NodeFunction("activation", activation="tanh")
    model = nn.Sequential(*(Direct(ng.wirings.blocks(sizes, function, dims=0), ng.TopK(k=k), seed=number)
                            for number, (sizes, k) in enumerate([((4, 5, 4), 30), ((4, 3), 9)])))
    images, _ = samples
    labels = model(images).argmax(1)
    part = circuit(model, images, labels, label=int(labels[0]))
    assert [len(mask) for mask in part.edges] == [56, 12] and 0 < part.num_edges < part.num_real == 39
    assert [wiring.num_edges for wiring in part.wirings] == [int(mask.sum()) for mask in part.edges]
    assert [len(found.nodes) for found in attribution(model, images, labels)] == [13, 7]
    with pytest.raises(InputError, match="2 neural graphs: use circuit.wirings"):
        _ = part.wiring


def test_what_makes_no_sense_is_refused(model, samples):
    images, labels = samples
    with pytest.raises(InputError, match="label must be a class"):
        circuit(model, images, labels, label=7)
    with pytest.raises(InputError, match="label must be a class"):
        attribution(model, images, torch.ones_like(labels), label=1)
    with pytest.raises(InputError, match="keep must be above 0"):
        circuit(model, images, labels, label=0, keep=0)
    with pytest.raises(UnknownNameError, match="attribution"):
        attribution(model, images, labels, by="gradients")
    with pytest.raises(InputError, match="integer labels"):
        attribution(model, images, labels[:3])
    with pytest.raises(InputError, match="without"):
        attribution(nn.Linear(4, 3).double(), images, labels)
    with pytest.raises(InputError, match="does not tell class"):
        wrong = (model(images).argmax(1) + 1) % 3
        circuit(model, images, wrong, label=int(wrong[0]))
