"""A model as a chain of layers and graphs: what reads the channels that each of them makes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..errors import InputError
from ..layers import Sparse
from ..models import Classifier
from ..models.tiny import POOLS
from ..networks import NeuralGraph, StaticNeuralGraph

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Weighted = nn.Linear | Convolution
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
# what acts on each channel alone, in evaluation
CHANNELWISE = (
    *NORMS, *POOLS.values(), nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Sigmoid, nn.Tanh,
    nn.LogSigmoid, nn.Softsign, nn.Tanhshrink, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid)
FUNCTIONS = {getattr(space, name) for space in (F, torch, torch.Tensor) for name in (
    "relu", "relu_", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "sigmoid", "tanh",
    "logsigmoid", "relu6", "hardswish", "hardsigmoid", "dropout", "adaptive_avg_pool2d", "adaptive_avg_pool1d",
    "avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d", "adaptive_max_pool2d") if hasattr(space, name)}
METHODS = {"relu", "relu_", "sigmoid", "tanh", "contiguous"}


@dataclass
class Item:
    """One step of a chain: a module by its name in the model, or a function that a traced model calls."""

    name: str
    module: nn.Module | None
    is_channelwise: bool
    flattens: bool = False


@dataclass
class Link:
    """A layer or graph, what stands after it, and the layer or graph that reads its channels.

    Args:
        maker, reader: their names in the model.
        between: the modules between that have values of their own for each channel.
    """

    maker: str
    reader: str
    between: list[str]


def is_layer(module: nn.Module | None) -> TypeGuard[Weighted]:
    """Whether every output channel is a row of weights over all input channels."""
    return type(module) in WEIGHTED and getattr(module, "groups", 1) == 1


def is_depthwise(module: nn.Module | None) -> TypeGuard[Convolution]:
    return isinstance(module, Convolution) and type(module) in WEIGHTED and \
        module.groups == module.in_channels == module.out_channels > 1


def channels_of(module: nn.Module) -> int:
    """How many channels it makes."""
    if isinstance(module, NeuralGraph):
        return len(module.wiring.outputs)
    channels: int = getattr(module, "out_features" if isinstance(module, nn.Linear) else "out_channels")
    return channels


def links(model: nn.Module) -> tuple[dict[str, Link], dict[str, str]]:
    """From the name of each layer or graph whose channels can be split to what reads them, and why others cannot.

    Raises:
        InputError: if the model is no chain and holds no neural graph.
    """
    try:
        items = list(_items(model))
    except InputError as error:
        if not any(isinstance(module, NeuralGraph) for module in model.modules()):
            raise
        return {}, {name: str(error) for name, module in model.named_modules() if isinstance(module, NeuralGraph)}
    uses = Counter(id(item.module) for item in items if item.module is not None)
    found, reasons = {}, {}
    for number, item in enumerate(items):
        if not (is_layer(item.module) or isinstance(item.module, NeuralGraph)):
            continue
        try:
            found[item.name] = _link(items, number, uses)
        except InputError as error:
            reasons[item.name] = str(error)
    return found, reasons


def _link(items: list[Item], number: int, uses: Counter) -> Link:
    """What reads the channels of an item; InputError that says why they cannot be split."""
    maker, is_one_each = items[number], True  # whether a channel is still one where it is read
    between: list[str] = []
    assert maker.module is not None  # a layer or a graph
    if isinstance(maker.module, NeuralGraph) and not isinstance(maker.module, StaticNeuralGraph):
        raise InputError(f"the outputs of a {type(maker.module).__name__} are updated again and again")
    for item in items[number + 1:]:
        module = item.module
        if uses[id(module)] > 1 or uses[id(maker.module)] > 1:
            raise InputError(f"{(item if uses[id(module)] > 1 else maker).name!r} is used more than once")
        if is_layer(module) or isinstance(module, StaticNeuralGraph):
            inputs = len(module.wiring.inputs) if isinstance(module, NeuralGraph) else \
                module.in_features if isinstance(module, nn.Linear) else module.in_channels
            if inputs % channels_of(maker.module) or (is_one_each and inputs != channels_of(maker.module)):
                raise InputError(f"{item.name!r} takes {inputs} channels")
            return Link(maker.name, item.name, between)
        if not item.is_channelwise:
            raise InputError(f"{item.name!r}, a {type(module).__name__}, reads them" if module is not None else
                             f"{item.name!r} reads them")
        is_one_each = is_one_each and not item.flattens
        if isinstance(module, NORMS) or is_depthwise(module):
            between.append(item.name)
    raise InputError("they are the model's output")


def _items(model: nn.Module) -> Iterator[Item]:
    if isinstance(model, Classifier):
        for name, part in (("stem", model.stem), *((f"stages.{n}", net) for n, net in enumerate(model.stages)),
                           ("head", model.head)):
            yield from _flat(name, part)
    elif isinstance(model, (NeuralGraph, nn.Sequential)) or is_layer(model):
        yield from _flat("", model)
    else:
        yield from _traced(model)


def _flat(name: str, module: nn.Module) -> Iterator[Item]:
    if type(module) is nn.Sequential:
        for child, part in module._modules.items():  # named_children leaves out what stands there again
            yield from _flat(f"{name}.{child}" if name else child, part)
    else:
        yield _item(name, module)


def _item(name: str, module: nn.Module) -> Item:
    flattens = isinstance(module, nn.Flatten)
    mixes_samples = isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) != (1, -1)
    is_channelwise = type(module) in CHANNELWISE or is_depthwise(module)
    return Item(name, module, is_channelwise and not mixes_samples, flattens)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, (NeuralGraph, Sparse)) or super().is_leaf_module(module, name)


def _traced(model: nn.Module) -> Iterator[Item]:
    """The steps of any other module, which must follow each other."""
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        raise InputError(f"{type(model).__name__} cannot be read by torch.fx as a chain of layers "
                         f"({type(error).__name__}: {error}); make it an nn.Sequential.") from error
    before: fx.Node | None = None
    for node in graph.nodes:
        if node.op == "output":
            if node.all_input_nodes != [before]:
                raise InputError(f"{type(model).__name__} does not return the end of a chain of layers.")
            return
        if node.op == "placeholder" and before is None:
            before = node
            continue
        read = node.all_input_nodes
        if before is None or read != [before] or len(before.users) > 1:
            ends = [repr(user.name) for user in before.users] if before is not None else []
            read_by = f"{node.name!r} reads {' and '.join(repr(n.name) for n in read) or 'nothing'}"
            if before is not None and len(ends) > 1:
                read_by = f"{before.name!r} is read by {' and '.join(ends)}"
            raise InputError(f"{type(model).__name__} is no chain of layers but has a branch, a residual sum or the "
                             f"like: {read_by}; only where each layer reads the one before can layers be split.")
        before = node
        if node.op == "call_module":
            name = str(node.target)
            yield _item(name, model.get_submodule(name))
        else:
            flattens = node.target in (torch.flatten, "flatten") and \
                (node.args[1:] in ((1,), (1, -1)) or node.kwargs == {"start_dim": 1})
            yield Item(node.name, None, node.target in FUNCTIONS | METHODS or flattens, flattens)


def out_pixels(module: nn.Module, y: torch.Tensor) -> int:
    """How often a layer's rows are used on one sample."""
    return math.prod(y.shape[1:]) // channels_of(module)
