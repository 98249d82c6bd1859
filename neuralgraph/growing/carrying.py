"""The selector of a network that has grown."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from ..errors import NeuralGraphError, SelectionError
from ..networks import NeuralGraph
from ..selectors import Held, Selector


def check_carries(network: NeuralGraph) -> None:
    """Refuses a network whose effective weights are not its weights where these are real.

    Raises:
        SelectionError: that names the selector.
    """
    selection, weight = network.selection(), network.weight.detach()
    name = type(network.selector).__name__
    if isinstance(network.selector, Held):
        raise SelectionError("the real edges of this network are frozen: thaw() it, split, and freeze() what has "
                             "grown.")
    if not torch.equal(selection.weight.detach(), weight.where(selection.real, weight.new_zeros(()))):
        raise SelectionError(f"the effective weights of a {name} are a function of all its weights, so that two "
                             "halves of an edge would not be what it was: train with another selector, or split "
                             "StaticNeuralGraph(net.learned_wiring(), Complete()).")


def unbound(selector: Selector, grown: int, origin: torch.Tensor) -> Selector:
    """A selector of the same settings for a network with ``grown`` more real edges, which serves none yet.

    Args:
        origin: the old number of each new candidate, (E',).
    """
    new, number = copy.deepcopy(selector), selector.num_edges
    new.candidates = None
    for module in (new, *new.children()):
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and buffer.shape == (number,):
                module._buffers[name] = None
    for name, value in vars(new).items():
        if isinstance(value, torch.Tensor) and value.shape == (number,):
            setattr(new, name, value[origin.to(value.device)])  # masks that were given
    if new.k is not None:
        new.k = new.k + grown
    return new


@torch.no_grad()
def carry(old: Selector, network: NeuralGraph, origin: torch.Tensor, real: torch.Tensor) -> None:
    """Gives the selector of a grown network the state of the old one, and checks that it has the right edges.

    Candidates that are not real and stand above one that is, by magnitude, are shrunk to stand below: they carry
    nothing, and all keep their order.

    Args:
        origin: the old number of each candidate, (E',).
        real: which are to be real, (E',).

    Raises:
        SelectionError: for a selector that does not come to these edges.
    """
    selector, weight = network.selector, network.weight
    before, after = ({**dict(s.named_parameters()), **dict(s.named_buffers())} for s in (old, selector))
    for name, value in before.items():
        if value.shape == (old.num_edges,):
            value = value[origin.to(value.device)]
        if name not in after or after[name].shape != value.shape:
            raise SelectionError(f"the state {name!r} of a {type(old).__name__} cannot be carried over to a "
                                 "network with more edges: train with another selector, or split "
                                 "StaticNeuralGraph(net.learned_wiring(), Complete()).")
        after[name].copy_(value)
    if not torch.equal(selector.select(weight), real):
        least = weight[real].abs().min() if real.any() else weight.new_zeros(())
        most = weight[~real].abs().max() if not real.all() else weight.new_zeros(())
        if most >= least:
            weight[~real] *= (1 - 1e-3) * least / most
    if not torch.equal(selector.select(weight), real):
        raise SelectionError(f"{selector!r} would not keep the edges of a network that has grown from "
                             f"{old.num_real} to {int(real.sum())} of them: use a selector whose edges all "
                             "compete (per='graph').")


def grown_selector(selector: Selector, grown: int, origin: torch.Tensor,
                   build: Callable[[Selector], NeuralGraph]) -> NeuralGraph:
    """The network that ``build`` makes with such a selector.

    Raises:
        SelectionError: if the selector cannot serve it.
    """
    try:
        return build(unbound(selector, grown, origin))
    except NeuralGraphError as error:
        raise SelectionError(f"{selector!r} cannot serve a network with {grown} more real edges: {error}") from error
