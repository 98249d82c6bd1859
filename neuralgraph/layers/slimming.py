"""Network slimming: pruning channels by the scales of their norms."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from .. import nodes
from .._modules import Model
from ..errors import InputError
from ..selectors.selector import check_number
from .flow import NORMS


def scale_penalty(module: nn.Module, strength: float = 1e-4) -> torch.Tensor:
    """A term to add to the loss: strength * sum of |gamma| over all channels that are normalised.

    ("Learning Efficient Convolutional Networks through Network Slimming", Liu et al., 2017; 1e-4 is its strength for
    VGG, 1e-5 for ResNet and DenseNet.)

    Args:
        module: a model with batch or instance norms, or a neural graph whose nodes have norms.
        strength: lambda.

    Raises:
        InputError: for a model without such norms.

    >>> scale_penalty(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), strength=0.5).item()
    4.0
    """
    check_number("strength", strength, 0)
    return strength * torch.cat([norm.weight for norm in _norms(module).values()]).abs().sum()


@torch.no_grad()
def slim(module: Model, fraction: float) -> tuple[Model, dict[str, torch.Tensor]]:
    """Silences the share of channels whose scales are smallest, over all norms together.

    Their gamma and beta become 0. Afterwards :func:`shrink` removes them from a model, or
    ``SynapticStrength(tau=...)`` with a tiny tau the edges that leave them from a graph, and what is left is fine-tuned.

    Args:
        module: as for :func:`scale_penalty`; left as it is.
        fraction: of all normalised channels, at least 0 and below 1; exactly ``floor(fraction n)`` are silenced, of
            equal scales the first.

    Returns:
        The changed copy; and by the name of each norm, which of its channels are left, a mask.

    Raises:
        InputError: for a model without such norms, or a fraction that leaves a norm no channel at all.

    >>> model = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    >>> model[0].weight.data[:] = torch.tensor([0.1, -3.0, 0.0, 2.0])
    >>> slim(model, fraction=0.5)[1]["0"].tolist()
    [False, True, False, True]
    """
    check_number("fraction", fraction, 0, 1)
    module = copy.deepcopy(module)
    norms = _norms(module)
    scale = torch.cat([norm.weight.abs() for norm in norms.values()])
    left = torch.ones_like(scale, dtype=torch.bool)
    left[scale.argsort(stable=True)[:math.floor(fraction * len(scale) + 1e-9)]] = False
    masks = dict(zip(norms, left.split([len(norm.weight) for norm in norms.values()])))
    empty = [name for name, mask in masks.items() if not mask.any()]
    if empty:
        raise InputError(f"fraction={fraction} would leave {empty[0]!r} no channel, and the model nothing to pass on: "
                         "choose a smaller one, or train longer with the penalty.")
    for norm, mask in zip(norms.values(), masks.values()):
        norm.weight.mul_(mask)
        norm.bias.mul_(mask)
    return module, masks


def _norms(module: nn.Module) -> dict[str, nodes.Norm | _NormBase]:
    norms: dict[str, nodes.Norm | _NormBase] = {
        name: norm for name, norm in module.named_modules()
        if isinstance(norm, (*NORMS, nodes.Norm)) and norm.weight is not None}
    if not norms:
        raise InputError("the model has no batch or instance norms with scales, by which channels could be ranked.")
    return norms
