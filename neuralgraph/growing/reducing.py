"""A network without what its outputs do not depend on."""

from __future__ import annotations

from typing import Any

import torch

from ..networks import DiscreteTimeNeuralGraph, NeuralGraph
from ..nodes import is_learned
from ..selectors import Complete
from ..wiring import Wiring
from ..wiring.graph import Graph
from ..wiring.wiring import INPUT, OUTPUT


@torch.no_grad()
def reduced_network(network: NeuralGraph) -> tuple[NeuralGraph, torch.Tensor]:
    """A static or discrete-time network of the same outputs, of the nodes that these depend on and their real edges.

    Inputs and outputs stay, whether they are read or not.

    Returns:
        The network, on the device of the other; and the numbers that its edges have there, (E',).
    """
    wiring, selection = network.wiring, network.selection()
    live = reaching(wiring, selection.real.cpu())
    edges = (selection.real.cpu() & live[wiring.dst]).nonzero().flatten()
    nodes = (live | (wiring.role == INPUT) | (wiring.role == OUTPUT)).nonzero().flatten()
    place = torch.full((wiring.num_nodes,), -1)
    place[nodes] = torch.arange(len(nodes))
    graph = Graph(wiring.ends.renumbered(edges, place, place, (len(nodes), len(nodes))), len(nodes))
    for name, value in wiring.data.ndata.items():
        if not is_learned(name):
            graph.ndata[name] = value[nodes]
    # with weights of its own a wiring may have nodes that no input reaches
    graph.edata["weight"] = selection.weight.detach().cpu()[edges]
    options: dict[str, Any] = {"dtype": network.weight.dtype, "dims": network.dims}
    if isinstance(network, DiscreteTimeNeuralGraph):
        options |= {"steps": network.steps, "tied": network.tied}
    reduced = type(network)(Wiring(graph), Complete(), "dense", **options)
    every = [(network.functions, reduced.functions)]
    every += zip(getattr(network, "later_functions", ()), getattr(reduced, "later_functions", ()))
    for whole, part in every:
        part.load({name: value.cpu()[nodes] for name, value in whole.export().items()})
    return reduced.to(network.weight.device).train(network.training), edges


def reaching(wiring: Wiring, real: torch.Tensor) -> torch.Tensor:
    """The nodes from which real edges lead to an output, outputs among them, a mask (V,).

    >>> import neuralgraph as ng
    >>> wiring = ng.wirings.blocks([1, 2, 1])
    >>> reaching(wiring, torch.tensor([True, True, False, True, False])).tolist()
    [True, True, False, True]
    """
    src, dst = wiring.ends.of(real)
    found, before = wiring.role == OUTPUT, -1
    while int(found.sum()) > before:
        before = int(found.sum())
        found = found.index_fill(0, src[found[dst]], True)
    return found
