"""What a network costs: multiply-adds and parameters of its real edges and nodes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..networks import NeuralGraph
from .structure import dead_nodes


@dataclass(frozen=True)
class Cost:
    """Counts for one image.

    Args:
        multiply_adds: of edges (H W each) and of the kernels of nodes that have a real out-edge
            (kernel_size^2 per output pixel); norms, activations and biases are left out, as in the
            paper (its footnote 1).
        parameters: real edges and the kernels of those nodes.
    """

    multiply_adds: int
    parameters: int


def cost(network: NeuralGraph, height: int, width: int) -> Cost:
    """The cost of a static network on maps of ``height`` x ``width`` pixels at its input nodes.

    >>> import neuralgraph as ng
    >>> net = ng.StaticNeuralGraph(ng.wirings.chain([2, 3]), ng.Complete())
    >>> cost(net, 4, 4)                       # 6 edges and 2 kernels of 9, each on 16 pixels
    Cost(multiply_adds=384, parameters=24)
    """
    wiring, real = network.wiring, network.selection().real.cpu()
    live = ~dead_nodes(wiring, real).no_out

    def pixels(scale: torch.Tensor) -> torch.Tensor:
        return -(-height // scale) * -(-width // scale)

    message = wiring.message_scale()
    kernel = torch.tensor([f.kernel_size**2 for f in wiring.functions])[wiring.function]
    edges = pixels(wiring.scale)[wiring.dst][real].sum()
    nodes = (kernel * pixels(message))[live].sum()
    return Cost(int(edges + nodes), int(real.sum() + kernel[live].sum()))
