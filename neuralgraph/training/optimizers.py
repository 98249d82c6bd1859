"""The state of an optimizer in a checkpoint."""

from __future__ import annotations

import inspect
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from ..errors import CheckpointError, InputError
from .checkpoint import check_fits, part


def check_optimizer(optimizer: object, model: nn.Module) -> Optimizer:
    """Refuses what the loop cannot step or save.

    Raises:
        InputError: for no optimizer, one of other parameters, or one that wants to compute the loss itself.
    """
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"optimizer must return a torch.optim.Optimizer, got {type(optimizer).__name__}.")
    own = {id(parameter) for parameter in model.parameters()}
    given = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    foreign = sum(id(parameter) not in own for parameter in given)
    if foreign:
        raise InputError(f"the optimizer has {foreign} parameters that are not the model's; make it from the "
                         "parameters it is given.")
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise InputError(f"{type(optimizer).__name__} evaluates the loss several times per step (its step "
                         "needs a closure), which this loop does not do; use another optimizer.")
    return optimizer


def state_of(optimizer: Optimizer, model: nn.Module) -> tuple[dict[str, torch.Tensor], dict]:
    """The optimizer's state as tensors and JSON numbers, both by ``KEY.PARAMETER``.

    Raises:
        InputError: if it keeps something else.
    """
    tensors, numbers = {}, {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{key}.{name}"] = value
            elif value is None or type(value) in (bool, int, float):
                numbers[f"{key}.{name}"] = value
            else:
                raise InputError(f"{type(optimizer).__name__} keeps {type(value).__name__} {key!r} in its "
                                 "state, which cannot be saved; use one that keeps tensors and numbers.")
    return tensors, numbers


def load_state(optimizer: Optimizer, model: nn.Module, tensors: dict[str, torch.Tensor], numbers: object,
               path: Path) -> None:
    """The inverse of :func:`state_of`; settings such as the learning rate stay as they are.

    Raises:
        CheckpointError: for a state of other parameters.
    """
    parameters = dict(model.named_parameters())
    check_fits(part(tensors, "momentum_buffer"), parameters, path, complete=False)
    if not isinstance(numbers, dict):
        raise CheckpointError(f"{path} is damaged: the optimizer's numbers are {numbers!r}.")
    state: dict[str, dict] = {}
    for place, value in {**tensors, **numbers}.items():
        key, _, name = place.partition(".")
        if name not in parameters:
            raise CheckpointError(f"{path} does not fit the run's model: {name!r} is in the optimizer's "
                                  "state, expected no such tensor.")
        state.setdefault(name, {})[key] = value
    names = {id(parameter): name for name, parameter in parameters.items()}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.load_state_dict({
        "state": {number: state[name] for number, name in enumerate(order) if name in state},
        "param_groups": optimizer.state_dict()["param_groups"]})
