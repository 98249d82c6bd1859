"""How much the candidate edges of a network carry."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch

from ..errors import InputError, lookup
from ..networks import NeuralGraph
from ..selectors import Edges
from ..selectors.synaptic import SCORES


@torch.no_grad()
def strengths(network: NeuralGraph, score: str = "full",
              batches: Iterable[torch.Tensor] | None = None) -> torch.Tensor:
    """The synaptic strength of every candidate edge, (E,).

        s_uv = |w_uv| ||theta_u|| |gamma_u|,    or, measured,    |w_uv| std(Z_u)

    with Z_u what node u sends, over all samples, pixels and updates of ``batches`` in evaluation. The measured form is
    for activations that are not homogeneous, where scales do not multiply. To keep its k largest, give the network
    ``ng.TopK(k, "masked", always=mask)`` with ``mask = ng.selectors.top_k(strength, k)``.

    Args:
        network: left as it is.
        score: "measured", or one that :class:`neuralgraph.selectors.SynapticStrength` ranks by.
        batches: inputs of the network, (B, inputs, *space) each, for "measured".

    Raises:
        InputError: for "measured" without batches, or batches without "measured".

    >>> import neuralgraph as ng
    >>> net = ng.StaticNeuralGraph(ng.wirings.blocks([2, 3, 2]), ng.Complete())
    >>> ng.analysis.strengths(net, "measured", batches=[torch.randn(8, 2, 6, 6)]).shape
    torch.Size([16])
    """
    if not isinstance(network, NeuralGraph):
        raise InputError(f"expected a neural graph, got {type(network).__name__}.")
    steps = lookup("score", score, {**SCORES, "measured": None})
    if (score == "measured") != (batches is not None):
        raise InputError(f"score={score!r} " + ("needs batches of inputs to measure with." if batches is None else
                                                "measures nothing: leave batches out, or use score='measured'."))
    gain = _gain(network, steps) if batches is None else _spread(network, batches)
    gain = gain[network.wiring.src.to(gain.device)]
    return gain.clone() if score == "scale" else network.weight.abs() * gain


def _gain(network: NeuralGraph, steps: tuple[str, ...] | None) -> torch.Tensor:
    candidates = network.selector.candidates
    assert isinstance(candidates, Edges)
    gain = candidates.gain(steps)
    assert gain is not None  # of a network
    return gain


def _spread(network: NeuralGraph, batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """The standard deviation of what each node sends, (V,); 0 of nodes that send nothing."""
    network = copy.deepcopy(network).eval()
    network.backend = "dense"  # whose node functions can be listened to
    moments = torch.zeros(3, network.wiring.num_nodes, dtype=torch.float64)  # number, sum, sum of squares
    for functions in network._functions_of_steps():
        vars(functions)["send"] = _Listener(functions, moments)
    number = 0
    for number, x in enumerate(batches, start=1):
        network(x)
    if not number:
        raise InputError("batches is empty: measuring needs at least one input of the network.")
    count, total, squares = moments
    mean = total / count.clamp(min=1)
    return (squares / count.clamp(min=1) - mean**2).clamp(min=0).sqrt().to(network.weight)


class _Listener:
    """``send``, whose messages are added up."""

    def __init__(self, functions, moments: torch.Tensor):
        self.functions, self.send, self.moments = functions, functions.send, moments

    def __call__(self, function, rows, state, *rest):
        message = self.send(function, rows, state, *rest)
        values = message.double().cpu().transpose(0, 1).flatten(1)
        nodes = self.functions.groups[function].nodes[rows]
        self.moments[:, nodes] += torch.stack([torch.full((len(nodes),), float(values.shape[1])).double(),
                                               values.sum(1), values.square().sum(1)])
        return message
