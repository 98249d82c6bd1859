"""Models as ONNX files, for onnxruntime and everything else that reads them."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from .._version import __version__
from ..errors import InputError, MissingPackageError
from ..models import Classifier
from ..models.tiny import CentrePool, GlobalPool
from ..networks import DiscreteTimeNeuralGraph, NeuralGraph, StaticNeuralGraph
from ..nodes import NodeFunctions
from ..nodes.operations import EPSILON, Activation, BatchNorm, Bias, DepthwiseConv, InstanceNorm

OPSET, IR_VERSION = 17, 8  # read by every onnxruntime since 1.12
# their parameters, where they have one, are PyTorch's by default
ACTIVATIONS = {"identity": "Identity", "relu": "Relu", "leaky_relu": "LeakyRelu", "elu": "Elu",
               "softplus": "Softplus", "sigmoid": "Sigmoid", "tanh": "Tanh"}


def export_onnx(model: Classifier, path: str | os.PathLike) -> None:
    """Writes a classifier as it is in evaluation, with its effective weights.

    Input ``images``: normalised float32 (batch, C, S, S) with S the model's image size; the batch may
    be any. Output ``logits`` (batch, classes). Sums over edges are 1x1 convolutions whose weights are
    zero where there is no real edge.

    Raises:
        InputError: for a model with parts that ONNX cannot express, a continuous-time network first of
            all, or a path that cannot be written.
        MissingPackageError: without the package onnx.
    """
    content = to_onnx(model).SerializeToString()
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def to_onnx(model: Classifier):
    """The same as an :class:`onnx.ModelProto`, checked."""
    try:
        import onnx
    except ImportError:
        raise MissingPackageError("exporting to ONNX", "onnx", "onnx") from None
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            sizes = _map_sizes(model)
            graph = _Graph(onnx, sizes)
            x = "images"
            for part in (model.stem, *model.stages, model.head):
                x = graph.module(part, x)
    finally:
        model.train(was_training)
    side, float32 = model.image_size, onnx.TensorProto.FLOAT
    graph.add("Identity", x, output="logits")
    value = onnx.helper.make_tensor_value_info
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes, "neuralgraph",
            [value("images", float32, ["batch", model.in_channels, side, side])],
            [value("logits", float32, ["batch", *sizes[model][1]])], list(graph.constants.values())),
        producer_name="neuralgraph", producer_version=__version__, ir_version=IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    onnx.checker.check_model(proto)
    return proto


def _map_sizes(model: Classifier) -> dict[nn.Module, tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shapes, without the batch, that go into each module and come out of it."""
    sizes = {}
    hooks = [module.register_forward_hook(
        lambda m, args, out: sizes.update({m: (tuple(args[0].shape[1:]), tuple(out.shape[1:]))}))
        for module in model.modules()]
    parameter = next(model.parameters())
    try:
        model(parameter.new_zeros(1, model.in_channels, model.image_size, model.image_size))
    finally:
        for hook in hooks:
            hook.remove()
    return sizes


class _Graph:
    """Nodes and constants of an ONNX graph as they are made; every method takes and gives names."""

    def __init__(self, onnx, sizes):
        self.onnx, self.sizes = onnx, sizes
        self.nodes: list = []
        self.constants: dict = {}
        self._tensors: dict[str, torch.Tensor] = {}

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes) -> str:
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, value: torch.Tensor) -> str:
        """A tensor; equal ones are stored once, so that the steps of a network share theirs."""
        value = value.detach().cpu().contiguous()
        value = value.float() if value.is_floating_point() else value
        for name, known in self._tensors.items():
            if known.dtype == value.dtype and known.shape == value.shape and torch.equal(known, value):
                return name
        name = f"constant_{len(self.constants)}"
        self._tensors[name] = value
        self.constants[name] = self.onnx.numpy_helper.from_array(value.numpy(), name)
        return name

    def module(self, module: nn.Module, x: str) -> str:
        """A part of a classifier."""
        for kind, convert in MODULES.items():
            if isinstance(module, kind):
                return convert(self, module, x)
        if isinstance(module, NeuralGraph):
            raise InputError(
                f"a {type(module).__name__} cannot be exported to ONNX: its solver chooses its steps as "
                "it goes. Export the wiring instead (json, graphml, gexf or dot), or train the "
                "discrete-time model.")
        raise InputError(f"there is no ONNX form of {type(module).__name__}.")

    # Layers

    def conv(self, x: str, weight: torch.Tensor, bias: torch.Tensor | None = None, *, stride: int = 1,
             padding: int = 0, groups: int = 1) -> str:
        extra = [] if bias is None else [self.constant(bias)]
        return self.add("Conv", x, self.constant(weight), *extra, strides=[stride] * 2,
                        pads=[padding] * 4, group=groups, kernel_shape=list(weight.shape[2:]))

    def matrix(self, x: str, weight: torch.Tensor, stride: int = 1) -> str:
        """Every output channel a weighted sum of input channels; ``weight`` is [dst, src]."""
        return self.conv(x, weight[:, :, None, None], stride=stride)

    def batch_norm(self, x: str, *values: torch.Tensor, epsilon: float) -> str:
        return self.add("BatchNormalization", x, *map(self.constant, values), epsilon=epsilon)

    def channels(self, x: str, start: int, stop: int, axis: int = 1) -> str:
        return self.add("Slice", x, *(self.constant(torch.tensor([n])) for n in (start, stop, axis)))

    def gather(self, x: str, channels: torch.Tensor) -> str:
        return self.add("Gather", x, self.constant(channels), axis=1)

    def concat(self, parts: list[str]) -> str:
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=1)

    def split(self, x: str, sizes: list[int]) -> list[str]:
        if len(sizes) == 1:
            return [x]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        return [self.channels(x, end - size, end) for end, size in zip(ends, sizes)]

    # Networks

    def operation(self, operation: nn.Module, rows, x: str) -> str:
        if isinstance(operation, BatchNorm):
            return self.batch_norm(x, operation.weight[rows], operation.bias[rows],
                                   operation.running_mean[rows], operation.running_var[rows],
                                   epsilon=EPSILON)
        if isinstance(operation, InstanceNorm):
            return self.add("InstanceNormalization", x, self.constant(operation.weight[rows]),
                            self.constant(operation.bias[rows]), epsilon=EPSILON)
        if isinstance(operation, Activation):
            return self.activation(operation.name, x)
        if isinstance(operation, DepthwiseConv) and not operation.zero_pad:
            weight = operation.weight[rows]
            return self.conv(x, weight, stride=operation.stride, padding=operation.kernel_size // 2,
                             groups=len(weight))
        if isinstance(operation, Bias):
            return self.add("Add", x, self.constant(operation.bias[rows].view(-1, 1, 1)))
        raise InputError(f"there is no ONNX form of the node operation {operation!r}.")

    def activation(self, name: str, x: str) -> str:
        if name == "silu":
            return self.add("Mul", x, self.add("Sigmoid", x))
        if name == "gelu":  # x (1 + erf(x / sqrt 2)) / 2
            scaled, half, one = (self.constant(torch.tensor(v)) for v in (0.5**0.5, 0.5, 1.0))
            erf = self.add("Erf", self.add("Mul", x, scaled))
            return self.add("Mul", self.add("Mul", x, half), self.add("Add", erf, one))
        return self.add(ACTIVATIONS[name], x)

    def apply(self, functions: NodeFunctions, side: str, function: int, rows, x: str) -> str:
        """``side``, receive or send, of nodes of one function."""
        for operation in getattr(functions.groups[function], side):
            x = self.operation(operation, rows, x)
        return x

    def sums(self, stage, messages: str, weight: torch.Tensor) -> str:
        if stage.aggregate != "sum":
            raise InputError("nodes that multiply cannot be exported to ONNX.")
        return self.matrix(messages, stage.matrix(weight))

    def static(self, network: StaticNeuralGraph, x: str) -> str:
        weight = network.selection().weight
        messages, outputs = {}, []
        for number, stage in enumerate(network.stages):
            if number == 0:
                place = torch.searchsorted(network.wiring.inputs, stage.nodes)
                total = x if len(stage.chunks) == 1 else self.gather(x, place)
            elif stage.inputs:
                total = self.sums(stage, self.concat([messages[key] for key in stage.inputs]), weight)
            else:  # nodes without any candidate in-edge
                zeros = weight.new_zeros(len(stage.nodes), len(network.wiring.inputs))
                total = self.matrix(x, zeros, stride=stage.scale)
            parts = self.split(total, [len(chunk.nodes) for chunk in stage.chunks])
            for c, (chunk, part) in enumerate(zip(stage.chunks, parts)):
                rows = network.functions.rows(chunk.nodes)
                state = self.apply(network.functions, "receive", chunk.function, rows, part) \
                    if number else part
                if chunk.is_output:
                    outputs.append((chunk.nodes, state))
                else:
                    messages[number, c] = self.apply(network.functions, "send", chunk.function, rows,
                                                     state)
        y = self.concat([state for _, state in outputs])
        order = torch.cat([nodes for nodes, _ in outputs])
        if torch.equal(order, network.wiring.outputs):
            return y
        return self.gather(y, order.argsort())

    def discrete(self, network: DiscreteTimeNeuralGraph, x: str) -> str:
        if network.steps is None:
            raise InputError("a network without a number of steps cannot be exported to ONNX.")
        wiring, weight = network.wiring, network.selection().weight
        chunks = [chunk for stage in network.stages for chunk in stage.chunks]
        order = torch.cat([chunk.nodes for chunk in chunks])
        place = order.argsort()
        at_inputs = weight.new_zeros(wiring.num_nodes, len(wiring.inputs))
        at_inputs[place[wiring.inputs], torch.arange(len(wiring.inputs))] = 1.0
        arriving = states = self.matrix(x, at_inputs)
        holds = wiring.holds & torch.isin(torch.arange(wiring.num_nodes), wiring.inputs)
        held = holds[order].float().view(-1, 1, 1)
        for step in range(network.steps):
            functions = network.later_functions[step - 1] if step and not network.tied \
                else network.functions
            states = self._update(network, functions, chunks, states, weight)
            if holds.any():
                states = self.add("Add", self.add("Mul", states, self.constant(1 - held)),
                                  self.add("Mul", arriving, self.constant(held)))
        return self.gather(states, place[wiring.outputs])

    def _update(self, network, functions, chunks, states, weight):
        sizes = [len(chunk.nodes) for chunk in chunks]

        def every(side, x):
            return self.concat([
                self.apply(functions, side, chunk.function, functions.rows(chunk.nodes), part)
                for chunk, part in zip(chunks, self.split(x, sizes))])

        messages = every("send", states)
        totals = [self.sums(stage, messages, weight) for stage in network.stages]
        return every("receive", self.concat(totals))

    def sequential(self, module: nn.Sequential, x: str) -> str:
        for part in module:
            x = self.module(part, x)
        return x

    def centre_pool(self, module: CentrePool, x: str) -> str:
        (_, height, width), _ = self.sizes[module]
        for axis, side in ((2, height), (3, width)):
            x = self.channels(x, side // 2 - 2, side // 2, axis)
        return self.add("ReduceMean", x, axes=[2, 3], keepdims=0)


def _conv_layer(graph: _Graph, layer: nn.Conv2d, x: str) -> str:
    return graph.conv(x, layer.weight, layer.bias, stride=layer.stride[0], padding=layer.padding[0],
                      groups=layer.groups)


def _norm_layer(graph: _Graph, layer: nn.BatchNorm2d, x: str) -> str:
    return graph.batch_norm(x, layer.weight, layer.bias, layer.running_mean, layer.running_var,
                            epsilon=layer.eps)


MODULES = {
    nn.Sequential: _Graph.sequential,
    nn.Conv2d: _conv_layer,
    nn.BatchNorm2d: _norm_layer,
    nn.ReLU: lambda graph, layer, x: graph.add("Relu", x),
    nn.Linear: lambda graph, layer, x: graph.add("Gemm", x, graph.constant(layer.weight),
                                                 graph.constant(layer.bias), transB=1),
    nn.Flatten: lambda graph, layer, x: graph.add("Flatten", x, axis=1),
    nn.AdaptiveAvgPool2d: lambda graph, layer, x: graph.add("GlobalAveragePool", x),
    GlobalPool: lambda graph, layer, x: graph.add("ReduceMean", x, axes=[2, 3], keepdims=0),
    CentrePool: _Graph.centre_pool,
    StaticNeuralGraph: _Graph.static,
    DiscreteTimeNeuralGraph: _Graph.discrete,
}
