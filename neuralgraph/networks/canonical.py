"""Networks whose edges say all there is to say about scales."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from typing import NamedTuple

import torch

from ..errors import InputError
from ..nodes import Operation, Rows
from .discrete import DiscreteTimeNeuralGraph
from .network import NeuralGraph
from .static import StaticNeuralGraph


class Canonical(NamedTuple):
    """A canonical network, and why nodes of it are as they were: by the node's name."""

    network: NeuralGraph
    left: dict[Hashable, str]


@torch.no_grad()
def canonicalise(network: NeuralGraph) -> Canonical:
    """Moves the scales of nodes into the edges that leave them; the network computes what it did.

    With gamma, beta of the norm and theta the kernel of node u,

        theta_u <- theta_u / ||theta_u||,   gamma_u <- sgn gamma_u,   beta_u <- beta_u / |gamma_u|,
        w_uv <- w_uv ||theta_u|| |gamma_u|

    for activations f with f(a x) = a f(x) for a > 0, as ReLU, leaky ReLU and identity. Then |w_uv| is the synaptic
    strength of the edge, so that whatever ranks magnitudes ranks strengths. In general, scales are those of the
    operations of u from its last norm on. Of networks in discrete and continuous time only what nodes send is
    rewritten, so that their states stay what they are.

    Args:
        network: of any kind, left as it is.

    Returns:
        A canonical copy, and the nodes left as they were with the reason: another activation, an operation whose
        ``is_homogeneous`` is false, or a scale of 0, whose edges have no strength. Nodes that nobody reads, or without
        a scale, are not mentioned.

    Raises:
        InputError: for a network with untied steps, each of which has scales of its own; and where the selector would
            choose other edges, or use others weights of them, than before: freeze the network first, or let
            ``synaptic-strength`` choose.

    >>> import neuralgraph as ng
    >>> net = ng.StaticNeuralGraph(ng.wirings.blocks([2, 4, 3]), ng.Complete())
    >>> strength = net.weight.abs() * net.functions.gain()[net.wiring.src]
    >>> canonical, left = ng.canonicalise(net)
    >>> torch.allclose(canonical.weight.abs(), strength), left
    (True, {})
    """
    if not isinstance(network, NeuralGraph):
        raise InputError(f"expected a neural graph, got {type(network).__name__}; for layers there is "
                         "neuralgraph.layers.absorb_scales.")
    if isinstance(network, DiscreteTimeNeuralGraph) and not network.tied:
        raise InputError("the steps of this network are untied: each has scales of its own, which cannot go into the "
                         "edge weights that all share.")
    changed = copy.deepcopy(network)
    factor, left = _rewrite(changed)
    _check_selection(network, changed, factor[network.wiring.src.to(factor.device)])
    return Canonical(changed, left)


def _rewrite(network: NeuralGraph) -> tuple[torch.Tensor, dict[Hashable, str]]:
    """By what the edges out of each node are multiplied, (V,), and what could not be done."""
    wiring, functions = network.wiring, network.functions
    left: dict[Hashable, str] = {}
    factor = torch.ones_like(functions.gain())
    reads = torch.zeros(wiring.num_nodes, dtype=torch.bool).index_fill_(0, wiring.src, True)
    for group in functions.groups:
        for holds in (False, True):
            nodes = group.nodes[(wiring.holds[group.nodes] == holds) & reads[group.nodes]]
            chain = _scaled(functions.acting(group, holds))
            if not len(nodes) or not chain:
                continue
            reason = _obstacle(chain)
            if not isinstance(network, StaticNeuralGraph) and not set(chain) <= set(group.send):
                reason = "its state is scaled too, which is the network's"
            if reason:
                left.update((wiring.label(int(node)), reason) for node in nodes)
                continue
            scale = functions.gain()[nodes.to(factor.device)]
            left.update((wiring.label(int(node)), "its scale is 0") for node in nodes[(scale == 0).cpu()])
            rows = functions.rows(nodes)
            factor[nodes.to(factor.device)] = _divide(chain, rows, scale == 0)
    network.weight.mul_(factor[wiring.src.to(factor.device)])
    return factor, left


def _scaled(operations: tuple[Operation, ...]) -> list[Operation]:
    """Those from the first on whose scale reaches the message: that of the last norm, or the first after it."""
    last = max((place for place, operation in enumerate(operations) if operation.normalises), default=0)
    tail = list(operations[last:])
    while tail and tail[0].scale() is None:
        tail.pop(0)
    return tail


def _obstacle(chain: list[Operation]) -> str | None:
    """Why scales cannot be moved to the end of these operations."""
    for operation in chain:
        if not operation.is_homogeneous():
            return f"{getattr(operation, 'activation', operation.name)} is not homogeneous: f(a x) is not a f(x)"
    return None


def _divide(chain: list[Operation], rows: Rows, is_left: torch.Tensor) -> torch.Tensor:
    """Takes the scales of these channels out of the operations, but for some, and returns them, (n,)."""
    first = chain[0].scale()
    assert first is not None  # see _scaled
    after = torch.ones_like(first)
    for operation in chain:
        before, own = after, operation.scale()
        if own is not None:
            kept = torch.ones_like(own)
            kept[rows] = own[rows].masked_fill(is_left, 1)
            after = before * kept
        operation.divide(before, after)
    return after[rows]


def _check_selection(old: NeuralGraph, new: NeuralGraph, factor: torch.Tensor) -> None:
    before, after = old.selection(), new.selection()
    if not torch.equal(before.real, after.real) or not torch.allclose(
            after.weight, before.weight * factor, rtol=1e-4, atol=1e-6 * float(after.weight.abs().max())):
        raise InputError(f"the selector {type(old.selector).__name__} would make another network of the new weights: "
                         "freeze() the network first, to keep its real edges, or give it the selector "
                         "synaptic-strength, which ranks what canonical weights are.")
