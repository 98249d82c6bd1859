"""Edges of a network that have one weight together, and edges whose weight stays."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from ..errors import InputError, listed, lookup
from ..networks import NeuralGraph
from .templates import Assembled, check_can_share, check_only_chooses

Network = TypeVar("Network", bound=NeuralGraph)
# a function and its inverse
THROUGH = {"identity": (lambda x: x, lambda y: y), "sigmoid": (torch.sigmoid, torch.logit)}


def tie(network: Network, groups: torch.Tensor, *, fixed: torch.Tensor | None = None, through: str = "identity",
        inplace: bool = False) -> Network:
    """Ties edges: those of a group share one weight, which is learned as one number.

        w_e = f(alpha_g)  for the edges e of group g,   f the identity or a sigmoid

    A group begins with the mean of its weights. ``network.weight`` is read as before, and is computed; the numbers
    alpha and the weights of all other edges are the parameters. So it can be selected, exported and compiled, and
    :func:`bake` ends it. Make the optimizer afterwards.

    Args:
        network: whose selector only chooses.
        groups: of each candidate edge, integers (E,), from 0 on; -1 for a weight of its own.
        fixed: edges that keep the weight they have, untrained, a bool mask (E,).
        through: f, a key of :data:`THROUGH`; through a sigmoid the means must be between 0 and 1.
        inplace: change ``network`` itself instead of a copy.

    >>> import neuralgraph as ng
    >>> graph = ng.wirings.watts_strogatz(8, 4, 0.75, inputs=1, outputs=1, seed=0)
    >>> macro = ng.wirings.macro(graph, channels=6, inputs=3, seed=0)
    >>> net = ng.StaticNeuralGraph(macro.wiring, ng.Complete())
    >>> net = tie(net, macro.tie, fixed=macro.fixed, through="sigmoid")
    >>> net(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 6, 8, 8])
    """
    if not isinstance(network, NeuralGraph):
        raise InputError(f"expected a neural graph, got {type(network).__name__}.")
    value, inverse = lookup("function", through, THROUGH)
    groups, fixed = _checked(network, groups, fixed)
    check_can_share(network, "weight", "the weight of the network", network)
    check_only_chooses(network.selector, "the network")
    if not inplace:
        network = copy.deepcopy(network)
    weight, tied = network.weight.detach(), groups >= 0
    parts: list[nn.Module] = []
    places: list[torch.Tensor] = []
    if tied.any():
        which = groups[tied].to(weight.device)
        counts = torch.bincount(which).to(weight)
        means = torch.zeros_like(counts).index_add_(0, which, weight[tied]) / counts
        alpha = inverse(means)
        if not alpha.isfinite().all():
            group = int((~alpha.isfinite()).nonzero()[0])
            raise InputError(f"group {group} has a mean weight of {float(means[group]):.4g}, which is not between 0 "
                             f"and 1, as through={through!r} needs it: set network.weight first.")
        parts.append(_Tied(alpha, which, value))
        places.append(tied.nonzero().flatten())
    if fixed.any():
        parts.append(_Constant(weight[fixed]))
        places.append(fixed.nonzero().flatten())
    Assembled(parts, places, len(weight)).assemble(network)
    return network


def _checked(network: NeuralGraph, groups: torch.Tensor,
             fixed: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Both on the CPU, or an error."""
    edges = network.wiring.num_edges
    fixed = torch.zeros(edges, dtype=torch.bool) if fixed is None else fixed
    for what, given, kinds in (("groups", groups, (torch.int64, torch.int32)), ("fixed", fixed, (torch.bool,))):
        if not isinstance(given, torch.Tensor) or given.shape != (edges,) or given.dtype not in kinds:
            got = f"{given.dtype} of shape {tuple(given.shape)}" if isinstance(given, torch.Tensor) else repr(given)
            raise InputError(f"{what} must be {'integers' if what == 'groups' else 'bool'} of shape ({edges},), got "
                             f"{got}.")
    groups, fixed = groups.cpu().long(), fixed.cpu()
    present = groups.unique()
    present = present[present >= 0]
    if (groups < -1).any() or not torch.equal(present, torch.arange(len(present))):
        raise InputError("groups must be numbered from 0 on without gaps, -1 for no group, got "
                         f"{listed(groups.unique().tolist())}.")
    if (fixed & (groups >= 0)).any():
        edge = int((fixed & (groups >= 0)).nonzero()[0])
        raise InputError(f"the edge {network.wiring.edge_name(edge)} is fixed and in group {int(groups[edge])}: it "
                         "can be one of the two only.")
    if not (fixed | (groups >= 0)).any():
        raise InputError("no edge is in a group and none is fixed: there is nothing to tie.")
    return groups, fixed


class _Tied(nn.Module):
    groups: torch.Tensor

    def __init__(self, alpha: torch.Tensor, groups: torch.Tensor, value):
        super().__init__()
        self.alpha, self._value = nn.Parameter(alpha), value
        self.register_buffer("groups", groups, persistent=False)

    def forward(self) -> torch.Tensor:
        return self._value(self.alpha)[self.groups]


class _Constant(nn.Module):
    values: torch.Tensor

    def __init__(self, values: torch.Tensor):
        super().__init__()
        self.register_buffer("values", values)

    def forward(self) -> torch.Tensor:
        return self.values
