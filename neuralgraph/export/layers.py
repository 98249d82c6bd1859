"""Ordinary layers as ONNX nodes. A converter reads every setting of its layer, or refuses the layer by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..errors import InputError
from ..layers import Sparse, SparseConv1d, SparseConv2d, SparseConv3d, SparseLinear
from ..models.tiny import CentrePool, GlobalPool
from .graph import OnnxGraph


class Refused(Exception):
    """A setting that has no ONNX form; the message says which."""


def add_layer(graph: OnnxGraph, layer: nn.Module, x: str, before: torch.Tensor, after: torch.Tensor) -> str:
    """A layer as it is in evaluation.

    Args:
        before, after: a sample of what goes in and comes out, of which the shapes are used.

    Raises:
        InputError: for a layer or a setting that has no form here; it names both.
    """
    convert = LAYERS.get(type(layer))
    if convert is None:
        raise InputError(f"there is no ONNX form of {type(layer).__name__}; known are "
                         f"{', '.join(sorted(kind.__name__ for kind in LAYERS))}.")
    try:
        return convert(graph, layer, x, before, after)
    except Refused as reason:
        raise InputError(f"there is no ONNX form of {type(layer).__name__} with {reason}: {layer}.") from None


def _conv(graph: OnnxGraph, layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: str, before, after) -> str:
    dims = len(layer.kernel_size)
    weight = layer.effective_weight() if isinstance(layer, Sparse) else layer.weight
    if layer.padding == "valid":
        start = end = [0] * dims
    elif isinstance(layer.padding, str):  # "same": the odd one out at the end, as torch has it
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size)]
        start = [t // 2 for t in total]
        end = [t - s for t, s in zip(total, start)]
    else:
        start = end = list(layer.padding)
    if layer.padding_mode != "zeros":
        mode = {"reflect": "reflect", "replicate": "edge"}.get(layer.padding_mode)
        if mode is None:
            raise Refused(f"padding_mode={layer.padding_mode!r}")
        x = graph.pad(x, start, end, mode)
        start = end = [0] * dims
    return graph.conv(x, weight, layer.bias, stride=layer.stride, padding=[*start, *end], dilation=layer.dilation,
                      groups=layer.groups)


def _batch_norm(graph: OnnxGraph, layer: _NormBase, x: str, before, after) -> str:
    if layer.running_mean is None or layer.running_var is None:
        raise Refused("track_running_stats=False")
    one, zero = torch.ones_like(layer.running_var), torch.zeros_like(layer.running_var)
    values = (one, zero) if layer.weight is None else (layer.weight, layer.bias)
    return graph.add("BatchNormalization", x, *map(graph.constant, (*values, layer.running_mean,
                                                                    layer.running_var)), epsilon=layer.eps)


def _instance_norm(graph: OnnxGraph, layer: _NormBase, x: str, before, after) -> str:
    if layer.track_running_stats:
        raise Refused("track_running_stats=True")
    channels = before.shape[1]
    weight = torch.ones(channels) if layer.weight is None else layer.weight
    bias = torch.zeros(channels) if layer.bias is None else layer.bias
    return graph.add("InstanceNormalization", x, graph.constant(weight), graph.constant(bias), epsilon=layer.eps)


def _linear(graph: OnnxGraph, layer: nn.Linear, x: str, before, after) -> str:
    weight = layer.effective_weight() if isinstance(layer, Sparse) else layer.weight
    x = graph.add("MatMul", x, graph.constant(weight.T))
    return x if layer.bias is None else graph.add("Add", x, graph.constant(layer.bias))


def _flatten(graph: OnnxGraph, layer: nn.Flatten, x: str, before, after) -> str:
    if layer.start_dim % before.dim() == 0:
        raise Refused("start_dim=0, which mixes samples")
    return graph.add("Reshape", x, graph.integers(-1, *after.shape[1:]))


def _adaptive_average(graph: OnnxGraph, layer: nn.Module, x: str, before, after) -> str:
    sides, wanted = before.shape[2:], after.shape[2:]
    if all(side == 1 for side in wanted):
        return graph.add("GlobalAveragePool", x)
    if any(a % b for a, b in zip(sides, wanted)):
        raise Refused(f"maps of {tuple(sides)} pixels to {tuple(wanted)}, which do not divide")
    windows = [a // b for a, b in zip(sides, wanted)]
    return graph.add("AveragePool", x, kernel_shape=windows, strides=windows)


def _each(value: int | Sequence[int], dims: int) -> list[int]:
    return [value] * dims if isinstance(value, int) else list(value)


def _pool(kind: str) -> Callable:
    def convert(graph: OnnxGraph, layer: Any, x: str, before, after) -> str:  # one of six classes with these settings
        dims = before.dim() - 2
        settings: dict[str, Any] = {"kernel_shape": _each(layer.kernel_size, dims), "strides": _each(layer.stride, dims),
                    "pads": _each(layer.padding, dims) * 2}
        if layer.ceil_mode:
            raise Refused("ceil_mode=True")
        if kind == "MaxPool":
            if layer.return_indices:
                raise Refused("return_indices=True")
            settings["dilations"] = _each(layer.dilation, dims)
        else:
            if getattr(layer, "divisor_override", None) is not None:
                raise Refused("divisor_override")
            settings["count_include_pad"] = int(layer.count_include_pad)
        return graph.add(kind, x, **settings)
    return convert


def _mean(graph: OnnxGraph, layer: nn.Module, x: str, before, after) -> str:
    return graph.add("ReduceMean", x, axes=[2, 3], keepdims=0)


def _centre_pool(graph: OnnxGraph, layer: CentrePool, x: str, before, after) -> str:
    for axis, side in ((2, before.shape[2]), (3, before.shape[3])):
        x = graph.add("Slice", x, graph.integers(side // 2 - 2), graph.integers(side // 2), graph.integers(axis))
    return _mean(graph, layer, x, before, after)


def _gelu(graph: OnnxGraph, layer: nn.GELU, x: str, before, after) -> str:
    if layer.approximate != "none":
        raise Refused(f"approximate={layer.approximate!r}")
    half, root, one = (graph.constant(torch.tensor(v)) for v in (0.5, 0.5**0.5, 1.0))
    erf = graph.add("Erf", graph.add("Mul", x, root))
    return graph.add("Mul", graph.add("Mul", x, half), graph.add("Add", erf, one))


def _softplus(graph: OnnxGraph, layer: nn.Softplus, x: str, before, after) -> str:
    if layer.beta != 1:
        raise Refused(f"beta={layer.beta}")
    return graph.add("Softplus", x)


def _prelu(graph: OnnxGraph, layer: nn.PReLU, x: str, before, after) -> str:
    return graph.add("PRelu", x, graph.constant(layer.weight.view(-1, *[1] * (before.dim() - 2))))


def _softmax(graph: OnnxGraph, layer: nn.Module, x: str, before, after) -> str:
    if layer.dim is None:
        raise Refused("dim=None")
    return graph.add({nn.Softmax: "Softmax", nn.LogSoftmax: "LogSoftmax"}[type(layer)], x, axis=layer.dim)


def _same(graph: OnnxGraph, layer: nn.Module, x: str, before, after) -> str:
    return x


def _one(kind: str, **settings: str) -> Callable:
    """An operator of one input; settings are its attributes, by the layer's names for them."""
    return lambda graph, layer, x, before, after: graph.add(
        kind, x, **{name: float(getattr(layer, own)) for name, own in settings.items()})


LAYERS: dict[type[nn.Module], Callable] = {
    nn.Identity: _same, nn.Dropout: _same, nn.Dropout1d: _same, nn.Dropout2d: _same, nn.Dropout3d: _same,
    nn.Conv1d: _conv, nn.Conv2d: _conv, nn.Conv3d: _conv,
    SparseConv1d: _conv, SparseConv2d: _conv, SparseConv3d: _conv,
    nn.BatchNorm1d: _batch_norm, nn.BatchNorm2d: _batch_norm, nn.BatchNorm3d: _batch_norm,
    nn.InstanceNorm1d: _instance_norm, nn.InstanceNorm2d: _instance_norm, nn.InstanceNorm3d: _instance_norm,
    nn.Linear: _linear, SparseLinear: _linear, nn.Flatten: _flatten,
    nn.AdaptiveAvgPool1d: _adaptive_average, nn.AdaptiveAvgPool2d: _adaptive_average,
    nn.AdaptiveAvgPool3d: _adaptive_average,
    nn.AvgPool1d: _pool("AveragePool"), nn.AvgPool2d: _pool("AveragePool"), nn.AvgPool3d: _pool("AveragePool"),
    nn.MaxPool1d: _pool("MaxPool"), nn.MaxPool2d: _pool("MaxPool"), nn.MaxPool3d: _pool("MaxPool"),
    GlobalPool: _mean, CentrePool: _centre_pool,
    nn.ReLU: _one("Relu"), nn.Sigmoid: _one("Sigmoid"), nn.Tanh: _one("Tanh"), nn.GELU: _gelu,
    nn.SiLU: lambda graph, layer, x, before, after: graph.add("Mul", x, graph.add("Sigmoid", x)),
    nn.LeakyReLU: _one("LeakyRelu", alpha="negative_slope"), nn.ELU: _one("Elu", alpha="alpha"),
    nn.Softplus: _softplus, nn.PReLU: _prelu, nn.Softmax: _softmax, nn.LogSoftmax: _softmax,
    nn.Hardswish: _one("HardSwish"),
}
