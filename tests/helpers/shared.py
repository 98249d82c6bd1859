"""Layers and networks whose weights are mixed of templates."""

import torch
from torch import nn

import neuralgraph as ng
from neuralgraph.sharing import share, tie

KERNELS = ng.NodeFunction("norm activation conv")


def small():
    """A stem, four layers of one shape, a head; each linear layer with a shape of its own."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), *(
        layer for _ in range(4) for layer in (nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))


PLACES = [2, 5, 8, 11]


def mixing(module, name="weight"):
    """Templates and coefficients of a module's parameter."""
    made_by = module.parametrizations[name]
    return made_by[0].bank.templates, made_by.original


def assign(module, coefficients):
    with torch.no_grad():
        mixing(module)[1].copy_(torch.as_tensor(coefficients))


def untied(seed=0, templates=None, steps=3, **options):
    wiring = ng.wirings.complete(9, inputs=2, outputs=3)
    network = ng.DiscreteTimeNeuralGraph(wiring, ng.TopK(30), seed=seed, steps=steps, tied=False, **options)
    return network if templates is None else share(network, templates, "steps", seed=5)


def convolutions(network):
    return [next(part for part in functions.modules() if hasattr(part, "kernel_size"))
            for functions in (network.functions, *network.later_functions)]


def tied_macro():
    graph = ng.wirings.from_edges([(0, 1), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)], inputs=[0], outputs=[4])
    macro = ng.wirings.macro(graph, 3, inputs=2, stride=2, seed=0)
    return tie(ng.StaticNeuralGraph(macro.wiring, ng.Complete()), macro.tie, fixed=macro.fixed, through="sigmoid")
