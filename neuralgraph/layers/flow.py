"""How channels pass through an ordinary model."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..errors import InputError
from .order import _evaluating

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)

# What makes of each channel one channel, by itself; those in the first list f(a x) = a f(x) for a > 0.
HOMOGENEOUS = {
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.Upsample, F.relu, torch.relu, torch.relu_, F.relu_, F.leaky_relu, F.dropout, F.dropout2d, F.max_pool1d,
    F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.interpolate,
    torch.mean, "relu", "relu_", "mean", "contiguous", "squeeze"}
CHANNELWISE = HOMOGENEOUS | {
    nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.LogSigmoid, F.relu6, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish,
    F.softplus, F.softsign, F.hardswish, F.hardsigmoid, F.hardtanh, torch.sigmoid, torch.tanh, F.sigmoid, F.tanh,
    "sigmoid", "sigmoid_", "tanh", "tanh_"}
WITH_NUMBERS = {operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, operator.truediv, torch.add,
                torch.mul, "add", "add_", "mul", "mul_"}
SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
JOINS = {torch.cat, torch.concat, torch.concatenate}
VIEWS = {"view", "reshape", torch.reshape}
FLATTENINGS = {nn.Flatten, torch.flatten, "flatten"} | VIEWS
SHAPES = {"size", "dim", getattr}


@dataclass(eq=False)
class TracedTensor:
    """One tensor of a traced model, and how it is made.

    Args:
        name: of the layer, or of the operation in the trace.
        kind: "linear" (also a convolution), "grouped", "norm", "channelwise", "flatten", "sum", "join", "input", or
            "other" of what is not understood.
        sources: of what.
        layer: what has parameters.
        again: computes it from another tensor in place of its first source.
        channels: the number of each channel among all of the model, int64 (C,); equal ones are one channel, which is
            kept or removed everywhere.
        space: the sides of its maps.
        is_homogeneous: f(a x) = a f(x) for a > 0.
    """

    name: str
    kind: str
    sources: list[TracedTensor] = field(repr=False)
    layer: Any  # a module of torch or None; which, its kind says
    again: Callable[[torch.Tensor], torch.Tensor]
    channels: torch.Tensor
    space: tuple[int, ...]
    is_homogeneous: bool = False
    users: list[TracedTensor] = field(default_factory=list, repr=False)


class Flow:
    """The steps of a model, traced by :mod:`torch.fx` and run on an example.

    Args:
        model: without sparse layers; left as it is.
        example: an input of the model, or a tuple of its arguments.

    Attributes:
        steps: in the order of their computation.
        num: how many channels there are.
        fixed: channels that must stay, bool (num,): the model's inputs and outputs, and what is not understood.
        reasons: the names of what is not understood, and why.
        outputs: the steps that the model returns.

    Raises:
        InputError: for a model that cannot be traced.
    """

    def __init__(self, model: nn.Module, example: torch.Tensor | tuple):
        self.steps: list[TracedTensor] = []
        self.reasons: dict[str, str] = {}
        self._fixed: list[torch.Tensor] = []
        self._equal: list[torch.Tensor] = []  # pairs of numbers that are one channel, (2, n)
        self._made, self._model = 0, model
        example = example if isinstance(example, tuple) else (example,)
        try:
            graph = fx.Tracer().trace(model)
        except Exception as error:  # whatever the model's own code raises when it meets what is no tensor
            raise InputError("cannot follow the data through this model: torch.fx cannot trace it "
                             f"({type(error).__name__}: {error}).") from error
        self._calls: dict[nn.Module, int] = {}
        for node in graph.nodes:
            if node.op == "call_module":
                layer = model.get_submodule(node.target)
                self._calls[layer] = self._calls.get(layer, 0) + 1
        self._shared = _shared(model)
        with _evaluating(model), torch.no_grad():
            recorder = _Recorder(fx.GraphModule(model, graph))
            try:
                recorder.run(*example)
            except Exception as error:
                raise InputError("the model cannot be run on this example, a tensor or a tuple of its arguments: "
                                 f"{type(error).__name__}: {error}") from error
        self._of: dict[fx.Node, TracedTensor] = {}
        for node in graph.nodes:
            if node.op == "output":
                self.outputs = [self._of[source] for source in node.all_input_nodes if source in self._of]
            else:
                self._add(node, recorder.results)
        for step in self.outputs:
            self._fixed.append(step.channels)
        self._join_equal()

    def _add(self, node: fx.Node, results: dict[fx.Node, object]) -> None:
        result = results[node]
        sources = [self._of[source] for source in node.all_input_nodes if source in self._of]
        layer = self._model.get_submodule(str(node.target)) if node.op == "call_module" else None
        name = str(node.target) if layer is not None else node.name
        kind, reason = self._kind(node, layer, result, sources, results)
        maps = result if isinstance(result, torch.Tensor) and result.dim() >= 2 else None
        if kind == "other" and sources and reason:
            self.reasons[name] = reason
            self._fixed += [source.channels for source in sources]
        elif maps is None:
            return  # a size, say
        what = type(layer) if layer is not None else node.target
        step = TracedTensor(name, kind, sources, layer, _again(node, layer, results), torch.empty(0, dtype=torch.long),
                    () if maps is None else tuple(maps.shape[2:]), what in HOMOGENEOUS)
        for source in sources:
            source.users.append(step)
        if maps is None:
            return
        step.channels = self._channels(step, maps.shape[1])
        if kind in ("other", "input"):
            self._fixed.append(step.channels)
        self.steps.append(step)
        self._of[node] = step

    def _kind(self, node, layer, result, sources, results) -> tuple[str, str | None]:
        """What kind of step it is; of one that is not understood, what it is called."""
        if node.op in ("placeholder", "get_attr"):
            return "input", None
        what = type(layer) if layer is not None else node.target
        called = what.__name__ if hasattr(what, "__name__") else str(what)
        if what in SHAPES:
            return "other", None if _asks_no_channels(node, what) else f"{called}: asks for a number of channels"
        unknown = "other", f"{called}: not understood"
        if not isinstance(result, torch.Tensor) or not sources or result.dim() < 2:
            return unknown
        if layer is not None and (self._calls[layer] > 1 or layer in self._shared or _is_changed(layer)):
            return "other", f"{called}: " + ("is called several times" if self._calls[layer] > 1 else
                                             "shares its parameters" if layer in self._shared else "has hooks")
        same_batch = result.shape[0] == results[_first(node)].shape[0]
        understood = _kind_of_layer if layer is not None and layer._parameters else _kind_of_function
        kind = understood(node, what, layer, sources, tuple(result.shape)) if same_batch else None
        return (kind, None) if kind else unknown

    def _channels(self, step: TracedTensor, count: int) -> torch.Tensor:
        """The numbers of a step's channels: its sources', or new ones."""
        if step.kind in ("channelwise", "norm"):
            return step.sources[0].channels
        if step.kind == "flatten":
            source = step.sources[0]
            return source.channels.repeat_interleave(count // max(1, len(source.channels)))
        if step.kind == "join":
            return torch.cat([source.channels for source in step.sources])
        if step.kind == "sum":
            first, second = (source.channels for source in step.sources)
            self._equal.append(torch.stack([first, second]))
            return first
        new = torch.arange(self._made, self._made + count)
        self._made += count
        if step.kind == "grouped":  # a group of inputs, and what it makes, stay or go together
            groups = step.layer.groups
            inside = torch.cat([step.sources[0].channels.view(groups, -1), new.view(groups, -1)], dim=1)
            self._equal.append(torch.stack([inside, inside[:, :1].expand_as(inside)]).flatten(1))
        return new

    def _join_equal(self) -> None:
        """Gives one number to channels that are one."""
        label = torch.arange(self._made)
        pairs = torch.cat(self._equal, dim=1) if self._equal else torch.zeros(2, 0, dtype=torch.long)
        while True:
            least = label[pairs].amin(0)
            new = label.scatter_reduce(0, pairs[0], least, "amin").scatter_reduce(0, pairs[1], least, "amin")
            new = new[new]
            if torch.equal(new, label):
                break
            label = new
        _, label = label.unique(return_inverse=True)
        self.num = int(label.max()) + 1 if len(label) else 0
        for step in self.steps:
            step.channels = label[step.channels]
        self.fixed = torch.zeros(self.num, dtype=torch.bool)
        for channels in self._fixed:
            self.fixed[label[channels]] = True


def _kind_of_layer(node, what, layer, sources, shape) -> str | None:
    """What kind of step a layer with parameters is, None if it is not understood."""
    given, dims = len(sources[0].channels), len(sources[0].space)
    if what is nn.Linear:
        return "linear" if dims == 0 and given == layer.in_features else None
    if what in CONVOLUTIONS or what in TRANSPOSED:
        if dims != len(layer.kernel_size) or given != layer.in_channels:
            return None
        return "linear" if layer.groups == 1 else "grouped" if what in CONVOLUTIONS else None
    if what in NORMS:
        by_moments = layer.running_mean is not None  # those of training; instance norms use their own
        return "norm" if by_moments == isinstance(layer, nn.modules.batchnorm._BatchNorm) else None
    return _kind_of_function(node, what, layer, sources, shape)


def _kind_of_function(node, what, layer, sources, shape) -> str | None:
    """What kind of step anything else is, None if it is not understood."""
    first = sources[0]
    if what in SUMS and len(sources) == 2:
        alike = [(len(source.channels), *source.space) for source in sources]
        return "sum" if alike[0] == alike[1] == shape[1:] and "alpha" not in node.kwargs else None
    if what in JOINS:
        dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        together = sum(len(source.channels) for source in sources)
        return "join" if dim % len(shape) == 1 and together == shape[1] else None
    if len(sources) > 1:
        return None
    if what in FLATTENINGS and len(shape) == 2 and first.space:
        sizes = node.args[1:] if len(node.args) != 2 else _tuple(node.args[1])
        return "flatten" if what not in VIEWS or sizes[1:] == (-1,) else None  # a number would not fit fewer channels
    if shape[1] == len(first.channels) and (
            what in CHANNELWISE and _keeps_apart(node, what, len(first.space)) or
            what in WITH_NUMBERS and len(node.all_input_nodes) == 1):
        return "channelwise"
    return None


class _Recorder(fx.Interpreter):
    """Runs a trace and keeps every result; of tensors the shapes."""

    def __init__(self, module: nn.Module):
        super().__init__(module)
        self.results: dict[fx.Node, object] = {}

    def run_node(self, node):
        result = super().run_node(node)
        is_tensor = isinstance(result, torch.Tensor)
        self.results[node] = torch.empty(result.shape, device="meta") if is_tensor else result
        return result


def _again(node: fx.Node, layer: nn.Module | None, results: dict) -> Callable[[torch.Tensor], torch.Tensor]:
    """The step as a function of its first source, everything else as it was."""
    def compute(x):
        first = _first(node)
        arguments, options = fx.node.map_arg((node.args, node.kwargs),
                                             lambda other: x if other is first else results[other])
        if layer is not None:
            return layer(*arguments, **options)
        call: Any = getattr(x, str(node.target)) if node.op == "call_method" else node.target
        return call(*arguments[1:] if node.op == "call_method" else arguments, **options)
    return compute


def _first(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _tuple(value: object) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _asks_no_channels(node: fx.Node, what: object) -> bool:
    """Whether of a shape only what is no number of channels is used."""
    if what == "dim":
        return True
    if what is getattr and node.args[1] != "shape":
        return node.args[1] in ("device", "dtype", "ndim")
    if what == "size" and len(node.args) > 1:
        return _is_no_channels(node.args[1])
    return all(user.target is operator.getitem and _is_no_channels(user.args[1]) for user in node.users)


def _is_no_channels(dim: object) -> bool:
    return isinstance(dim, int) and (dim == 0 or dim > 1)


def _keeps_apart(node: fx.Node, what: object, sides: int) -> bool:
    """Whether a mean, or what leaves dimensions out, does so with sides of maps only."""
    if what not in (torch.mean, "mean", "squeeze"):
        return True
    dims = node.kwargs.get("dim", node.args[1:] if what == "squeeze" else node.args[1] if len(node.args) > 1 else None)
    return dims not in (None, ()) and all(2 <= dim % (2 + sides) for dim in _tuple(dims))


def _shared(model: nn.Module) -> set[nn.Module]:
    """Layers whose parameters others have too."""
    owners: dict[int, set[nn.Module]] = {}
    for layer in model.modules():
        for parameter in layer._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), set()).add(layer)
    return {layer for several in owners.values() if len(several) > 1 for layer in several}


def _is_changed(layer: nn.Module) -> bool:
    """Whether hooks may change what a layer is, or what it computes."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)
