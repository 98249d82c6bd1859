"""A graph whose strengths are known by hand."""

import torch

import neuralgraph as ng
from neuralgraph import NodeFunction
from neuralgraph.selectors import SynapticStrength


def three(score="full", k=2, **options):
    """0 -> 2, 1 -> 2, 0 -> 3, 1 -> 3 with |w| 1, 2, 3, 1; |gamma| 4, 1; ||theta|| 0.5, 3."""
    wiring = ng.wirings.from_edges([(0, 2), (1, 2), (0, 3), (1, 3)], inputs=[0, 1], outputs=[2, 3],
                                   functions=[NodeFunction("norm activation conv", kernel_size=1)] * 2 + [NodeFunction()] * 2)
    net = ng.StaticNeuralGraph(wiring, SynapticStrength(k=k, score=score, **options), dtype=torch.float64)
    group = next(group for group in net.functions.groups if len(group.send))
    with torch.no_grad():
        net.weight.copy_(torch.tensor([1.0, -2, 3, 1]))
        group.send[0].weight.copy_(torch.tensor([-4.0, 1]))
        group.send[2].weight.copy_(torch.tensor([0.5, -3]).view(2, 1, 1, 1))
    return net, group
