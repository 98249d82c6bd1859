"""Moving the scales of norms into the kernels that read them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from .._modules import Model
from ..errors import InputError
from .flow import Flow, TracedTensor
from .sparse import sparse_layers


@torch.no_grad()
def absorb_scales(module: Model, example: torch.Tensor | tuple[Any, ...]) -> tuple[Model, dict[str, str]]:
    """Moves |gamma| of batch and instance norms into the kernels that read them; the model computes what it did.

        gamma_c <- sgn gamma_c,   beta_c <- beta_c / |gamma_c|,   K_ck <- |gamma_c| K_ck

    Then ||K_ck|| is the synaptic strength of the connection from channel c to channel k, which the selector
    ``synaptic-strength`` makes a parameter, and the scale, which is no longer needed, is not trained any more. It can be
    moved where everything between norm and kernels is positively homogeneous (ReLU, leaky ReLU, PReLU, dropout,
    pooling) or puts channels side by side; not past sums, as those of residual connections are.

    Args:
        module: the model, dense (absorb first, then :func:`neuralgraph.sparsify`), which :mod:`torch.fx` must be able
            to trace; left as it is.
        example: an input, or a tuple of the arguments.

    Returns:
        The changed copy; and by their names the norms whose scales stay, with what is in their way.

    Raises:
        InputError: for a model that cannot be traced, or with sparse layers.

    >>> model = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3))
    >>> model[0].weight.data[:] = torch.tensor([-2.0, 0.5])
    >>> absorbed, left = absorb_scales(model, torch.zeros(1, 2, 8, 8))
    >>> absorbed[0].weight.tolist(), left
    ([-1.0, 1.0], {'3': 'the model returns it'})
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"expected a torch.nn.Module, got {type(module).__name__}.")
    if sparse_layers(module):
        raise InputError("the model has sparse layers, whose selectors may keep what they know of their weights: absorb "
                         "scales first, then sparsify; or densify it.")
    module = copy.deepcopy(module)
    flow, left = Flow(module, example), {}
    for step in flow.steps:
        if step.kind != "norm":
            continue
        layer = step.layer
        if layer.weight is None:
            left[step.name] = "it has no scale"
            continue
        found: list[tuple[TracedTensor, torch.Tensor]] = []
        obstacle = _readers(flow, step, torch.arange(len(layer.weight)), found)
        if obstacle:
            left[step.name] = obstacle
            continue
        size = layer.weight.abs()
        factor = size.where(size > 0, torch.ones_like(size))  # of 0 there is nothing to move
        layer.weight /= factor
        layer.weight.requires_grad_(False)
        layer.bias /= factor
        for reader, origin in found:
            _multiply(reader, torch.cat([factor, factor.new_ones(1)])[origin.to(factor.device)])
    return module, left


def _readers(flow: Flow, step: TracedTensor, origin: torch.Tensor,
             found: list[tuple[TracedTensor, torch.Tensor]]) -> str | None:
    """Adds what reads the channels of a step, with the channel of the norm that each is, -1 of others.

    Returns what is in the way, if something is.
    """
    if step in flow.outputs:
        return "the model returns it"
    for user in step.users:
        if user.kind in ("linear", "grouped"):
            found.append((user, origin))
            continue
        if user.kind == "join":
            passed = torch.cat([origin if source is step else torch.full((len(source.channels),), -1)
                                for source in user.sources])
        elif user.kind == "flatten":
            passed = origin.repeat_interleave(len(user.channels) // max(1, len(origin)))
        elif user.kind == "channelwise" and user.is_homogeneous:
            passed = origin
        else:
            return f"{user.name} is in the way: " + flow.reasons.get(user.name, {
                "sum": "a sum has several scales", "norm": "a norm undoes it"}.get(user.kind, "it is not homogeneous"))
        obstacle = _readers(flow, user, passed, found)
        if obstacle:
            return obstacle
    return None


def _multiply(reader: TracedTensor, factor: torch.Tensor) -> None:
    """Multiplies the kernels of each input channel."""
    weight = reader.layer.weight
    if reader.kind == "grouped":
        groups = reader.layer.groups
        factor = factor.view(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
    elif isinstance(reader.layer, nn.modules.conv._ConvTransposeNd):
        factor = factor[:, None]
    else:
        factor = factor[None]
    weight *= factor.view(*factor.shape, *[1] * (weight.dim() - 2))
