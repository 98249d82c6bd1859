"""Splitting of whole classifiers and of ordinary layers."""

import pytest
import torch
import torch.nn.functional as F
from growth import batches, disturbed, grow, loss
from torch import nn

import neuralgraph as ng
from neuralgraph.growing import split
from neuralgraph.growing.units import find
from neuralgraph.models.mobilenet import MobileNetStage


class Functional(nn.Module):
    """A chain that torch.fx finds."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3)
        self.last = nn.Linear(27, 2)

    def forward(self, x):
        x = F.leaky_relu(self.norm(self.first(x)), 0.1)
        x = torch.relu(self.second(x))
        return self.last(torch.flatten(x, 1))


class Residual(Functional):
    def forward(self, x):
        x = self.first(x)
        return x + self.norm(x).relu()


def graph():
    return ng.StaticNeuralGraph(ng.wirings.blocks([4, 5, 3]), ng.TopK(25))


MODELS = {  # a model on two channels of 7x7, and how many nodes of it can be split
    "perceptron": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(98, 6), nn.Softplus(), nn.Linear(6, 5), nn.Tanh(),
                                         nn.Linear(5, 2)), 11),
    "convolutions": (lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4),
        nn.Softplus(), nn.Conv2d(4, 3, 1, bias=False), nn.InstanceNorm2d(3, affine=True), nn.GELU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 2)), 7),
    "nested": (lambda: nn.Sequential(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Softplus()), nn.Sequential(
        nn.Conv2d(4, 3, 3), nn.Sigmoid(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(3, 2)), 7),
    "traced": (Functional, 7),
    "with-a-graph": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), graph(), nn.BatchNorm2d(3),
                                           nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), 12),
}


@pytest.mark.parametrize("halve", ["kernel", "edges"])
@pytest.mark.parametrize("name", MODELS)
def test_without_a_step_outputs_of_layers_stay(name, halve):
    build, number = MODELS[name]
    model = disturbed(build().double())
    grown, split_ = grow(model, halve, share=0.7)
    assert find(model).number == number and split_ > 1
    x = batches(1, side=7)[0][0]
    torch.testing.assert_close(grown(x), model(x), rtol=1e-9, atol=1e-9)
    grown.train()(x).sum().backward()  # what is left of the sizes agrees too
    assert all(parameter.grad is not None for parameter in grown.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", ["perceptron", "convolutions", "nested"])
def test_second_order_change_of_the_loss_of_layers(name):
    torch.manual_seed(0)
    model = disturbed(MODELS[name][0]().double())
    _, report = split(model, batches(side=7), loss, 0.99, epsilon=1e-3, route="exact")
    assert len(report.split) > 1
    assert report.measured_change == pytest.approx(report.predicted_change, rel=1e-3)


def small(**options):
    """The shape of a MobileNetV1-DNW with few nodes."""
    return ng.models.create("mobilenet-dnw", width=0.5, image_size=16, num_classes=3, selector="dnw",
                            stages=(MobileNetStage(6, 6, 1, 1), MobileNetStage(6, 8, 2, 2)), **options)


def smooth(model):
    """The model with softplus in the place of every ReLU."""
    for network in model.networks:
        wiring = network.wiring
        graph = wiring.data
        graph.ndata["activation"] = torch.full_like(graph.ndata["activation"], list(ng.nodes.ACTIVATIONS).index("softplus"))
        graph.ndata["activation"][wiring.role == 2] = 0
        new = ng.StaticNeuralGraph(ng.Wiring(graph), ng.TopK(network.selector.k), dtype=torch.float64)
        new.load_state_dict(network.state_dict())
        model.stages[list(model.stages).index(network)] = new
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.ReLU):
            setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], nn.Softplus())
    return model


def test_nodes_at_the_borders_of_graphs():
    """Outputs of a graph are split with the inputs of the next, filters of the stem with those of the first, and
    outputs of the last with the norm and the columns of the head; the loss changes as predicted."""
    torch.manual_seed(1)
    model = disturbed(smooth(small(seed=1).double()))
    data = [(x, torch.randint(0, 3, (4,))) for x, _ in batches(inputs=3, side=16)]
    grown, report = split(model, data, F.cross_entropy, 0.99, epsilon=1e-3, route="exact")
    kinds = {node.label.split(" ")[0] for node in report.split}
    assert kinds == {"stem", "stages.0", "stages.1"}
    assert report.measured_change == pytest.approx(report.predicted_change, rel=1e-3)
    first, second = grown.networks
    assert grown.stem.out_channels == len(first.wiring.inputs) > 6
    assert len(first.wiring.outputs) == len(second.wiring.inputs) > 6
    assert grown.head.norm.num_features == grown.head.linear.in_features == len(second.wiring.outputs) > 8
    added = [new.selector.k - old.selector.k for new, old in zip(grown.networks, model.networks)]
    assert grown.num_real_edges == model.num_real_edges + sum(added) and min(added) > 0
    assert report.multiply_adds_after == ng.analysis.cost(grown).multiply_adds


@pytest.mark.parametrize("halve", ["kernel", "edges"])
@pytest.mark.parametrize("name, options", [
    ("tiny-static", {"k": 400, "image_size": 8}), ("tiny-discrete", {"k": 2000, "image_size": 8}),
    ("mobilenet-dnw-small", {"width": 0.5, "stages": (MobileNetStage(6, 6, 1, 1), MobileNetStage(6, 8, 2, 2)), "image_size": 16})])
def test_without_a_step_outputs_of_classifiers_stay(name, options, halve):
    model = disturbed(ng.models.create(name, num_classes=3, **options).double())
    grown, number = grow(model, halve, share=0.3)
    x = batches(1, inputs=3, side=options["image_size"])[0][0]
    torch.testing.assert_close(grown(x), model(x), rtol=1e-6, atol=1e-6)
    assert number > 1 and type(grown) is type(model)


def test_channels_between_depthwise_and_pointwise_of_the_stem():
    model = ng.models.create("tiny-static", k=300, image_size=8)
    parts = {part.name: len(part.nodes) for part in find(model).parts}
    assert parts["stem.0"] == 16 and parts["stem.4"] == 32


REFUSED = {
    "residual": (Residual, "a residual sum or the like: 'first' is read by 'norm' and 'add'"),
    "one layer": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3)), "0: channels of a layer: they are the model's output"),
    "layer norm": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(98, 6), nn.LayerNorm(6), nn.Linear(6, 2)),
                   "a LayerNorm, reads them"),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2)), "Conv2d, reads them"),
    "sparse": (lambda: ng.sparsify(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), density=0.5),
               "no node of this model"),
    "control flow": (type("Branching", (Functional,), {"forward": lambda self, x: x if x.sum() > 0 else -x}),
                     "cannot be read by torch.fx"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_are_no_chains_are_refused(case):
    build, message = REFUSED[case]
    with pytest.raises(ng.errors.InputError, match=message):
        split(build().double(), batches(side=7), loss)


def test_a_layer_used_twice_is_refused():
    shared = nn.Linear(98, 98)
    with pytest.raises(ng.errors.InputError, match="more than once"):
        split(nn.Sequential(nn.Flatten(), shared, nn.Tanh(), shared).double(), batches(side=7), loss)


def test_graphs_inside_a_model_that_is_no_chain():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = ng.StaticNeuralGraph(ng.wirings.blocks([2, 5, 2]), ng.TopK(20))

        def forward(self, x):
            return x + self.net(x)

    model = Around().double()
    _, report = split(model, batches(), loss, 0.5, route="exact")
    assert {node.label for node in report.nodes} <= {f"net node {n}" for n in range(2, 7)}
    assert any("residual sum" in why for why in report.refused)
