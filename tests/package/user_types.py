"""What type checkers infer in a user's program: read by mypy, as setup.cfg says, and not run."""

from typing import Any

import torch
from torch import nn
from typing_extensions import assert_type

import neuralgraph as ng
from neuralgraph.inference import CompiledLayers, CompiledModel, CompiledNetwork
from neuralgraph.networks import NeuralGraph
from neuralgraph.networks.state import State


def networks(x: torch.Tensor) -> None:
    wiring = ng.wirings.blocks([3, 8, 8, 2])
    assert_type(wiring, ng.Wiring)
    net = ng.StaticNeuralGraph(wiring, selector=ng.TopK(k=20))
    assert_type(net(x), torch.Tensor)
    assert_type(net.weight, nn.Parameter)
    assert_type(net.selector, ng.selectors.Selector)
    assert_type(net.selection().real, torch.Tensor)
    assert_type(net.learned_wiring(), ng.Wiring)
    assert_type(wiring.functions[0].kernel_size, int)
    rnn = ng.DiscreteTimeNeuralGraph(ng.wirings.complete(30, inputs=3, outputs=2), ng.TopK(k=90), steps=None)
    assert_type(rnn(x), torch.Tensor)
    assert_type(rnn(x, return_state=True), tuple[torch.Tensor, State])
    assert_type(rnn.trajectory(x), torch.Tensor)
    assert_type(ng.canonicalise(net).network, NeuralGraph)


def selectors(k: int) -> None:
    assert_type(ng.TopK(k=k, per="node"), ng.TopK)
    assert_type(ng.selectors.RigL(k, every=10), ng.selectors.RigL)
    assert_type(ng.selectors.create("rigl", k=k, every=10), ng.selectors.Selector)
    assert_type(ng.TopK(k=k).k, int | Any)


def models(x: torch.Tensor, ordinary: nn.Sequential) -> None:
    model = ng.models.create("tiny-static", k=300)
    assert_type(model(x), torch.Tensor)
    assert_type(model.networks[0].wiring, ng.Wiring)
    assert_type(ng.sparsify(ordinary, density=0.1), nn.Sequential)
    assert_type(ng.densify(ordinary), nn.Sequential)
    assert_type(ng.sharing.share(ordinary, templates=2), nn.Sequential)
    assert_type(ng.layers.shrink(ordinary, x)[0], nn.Sequential)
    net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 8, 2]), ng.TopK(k=20))
    grown, report = ng.growing.split(net, [(x, x)], nn.functional.mse_loss)
    assert_type(grown, ng.StaticNeuralGraph)
    assert_type(report, ng.growing.SplitReport)
    assert_type(ng.compile(net), CompiledNetwork)
    assert_type(ng.compile(model), CompiledModel)
    assert_type(ng.compile(ordinary, x), CompiledLayers)


def training(net: ng.StaticNeuralGraph) -> None:
    data = ng.data.load("digits")
    assert_type(data.train_images, torch.Tensor)
    rewiring = ng.rewire(net, torch.optim.AdamW(net.parameters()), total_steps=10)
    assert_type(rewiring.total_steps, int)
    recipe, model, _ = ng.training.open_model("runs/tiny-static")
    assert_type(recipe, ng.training.Recipe)
    assert_type(model.num_real_edges, int)
    assert_type(ng.analysis.cost(model).multiply_adds, int)
