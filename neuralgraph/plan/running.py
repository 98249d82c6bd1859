"""Runs a plan with plain torch operations: what a plan means, and what constants it has."""

from __future__ import annotations

import numpy as np
import torch

from ..errors import InputError
from ..nodes import Normalize
from ..nodes.norm import one_pixel
from .plan import Group, Plan, reduced
from .steps import apply


def run(plan: Plan, x: torch.Tensor) -> torch.Tensor:
    """The result for x (B, num_inputs, *space); outputs that are not written are 0.

    Slow and plain: for tests, and for what has to be known before a plan is compiled or exported.
    """
    messages = constants(plan, x.shape[2:])
    space = plan.output_space(tuple(x.shape[2:]))
    result = x.new_zeros(len(x), plan.num_outputs, *space)
    for group in plan.groups:
        y = _group(plan, group, messages, x.to(plan.dtype))
        if group.outputs is None:
            messages |= dict(zip(group.nodes.tolist(), y.unbind(1)))
        else:
            result[:, torch.from_numpy(group.outputs)] = y.expand(len(x), *y.shape[1:])
    return result


def constants(plan: Plan, space: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """The messages that do not depend on the data, node to (1, *space'), for data of these sides."""
    messages: dict[int, torch.Tensor] = {}
    nothing = torch.zeros(1, plan.num_inputs, *space, dtype=plan.dtype)
    for group in plan.before:
        messages |= dict(zip(group.nodes.tolist(), _group(plan, group, messages, nothing).unbind(1)))
    return messages


def check_space(plan: Plan, space: tuple[int, ...]) -> None:
    """Refuses maps so small that a norm over one pixel would be left.

    Raises:
        InputError: as the network itself does.
    """
    for group in (*plan.before, *plan.groups):
        scale = group.scale
        for step in group.steps:
            if isinstance(step, Normalize) and all(side == 1 for side in reduced(space, scale)):
                raise InputError(one_pixel(reduced(space, scale)))
            scale *= step.shrinks


def _group(plan: Plan, group: Group, messages: dict[int, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """(B or 1, n, *space) of a group's nodes."""
    if group.kind == "input":
        y = x[:, torch.from_numpy(group.channels)]
    else:
        space = reduced(tuple(x.shape[2:]), group.scale)
        y = torch.stack(torch.broadcast_tensors(*[_node(plan, group.kind, int(node), messages, space)
                                                  for node in group.nodes]), dim=1)
    for step in group.steps:
        y = apply(step, y, plan.dims)
    return y


def _node(plan: Plan, kind: str, node: int, messages: dict[int, torch.Tensor], space) -> torch.Tensor:
    first, last = np.searchsorted(plan.dst, [node, node + 1])
    total = torch.full((1, *space), float(kind == "product"), dtype=plan.dtype)
    for edge in range(first, last):
        term = float(plan.weight[edge]) * messages[int(plan.src[edge])]
        total = total * term if kind == "product" else total + term
    return total
