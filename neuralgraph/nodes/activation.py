"""Activations: functions of one number without learned values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from .lowered import Lowered, Pointwise
from .operation import Operation, Rows

if TYPE_CHECKING:
    from .function import NodeFunction


@dataclass(frozen=True)
class Scalar:
    """A function of one number, in the forms in which it is needed.

    Args:
        function: of a tensor, elementwise and differentiable. For an operation with learned values p it is
            function(x, p), where p has the shape (P, n, 1, ...): p[0] broadcasts against x.
        slope: the s of a function that is x from 0 on and s x below, which kernels fuse; None for others.
        formula: of one Python number, for compiled networks: plain arithmetic, comparisons and functions of
            :mod:`math`, which numba compiles; formula(x, p) with p[0], p[1], ... where there is a p. None
            where there is no such form.
        onnx: for ONNX files, the name of an operator of one input, or a function that builds it:
            onnx(graph, x) with graph.add("Mul", x, y) and graph.constant(tensor) returning names, and
            onnx(graph, x, p) with p a tensor (P, n, 1, ...). None where there is no such form.
    """

    function: Callable[..., torch.Tensor]
    slope: float | None = None
    formula: Callable[..., float] | None = None
    onnx: str | Callable[..., Any] | None = None

    def __call__(self, *arguments: torch.Tensor) -> torch.Tensor:
        return self.function(*arguments)


def _onnx_gelu(graph, x):
    """x (1 + erf(x / sqrt 2)) / 2."""
    scaled, half, one = (graph.constant(torch.tensor(v)) for v in (0.5**0.5, 0.5, 1.0))
    erf = graph.add("Erf", graph.add("Mul", x, scaled))
    return graph.add("Mul", graph.add("Mul", x, half), graph.add("Add", erf, one))


def _onnx_relu6(graph, x):
    return graph.add("Clip", x, graph.constant(torch.tensor(0.0)), graph.constant(torch.tensor(6.0)))


# A name's place here is its code in a DGL graph: append, never reorder.
ACTIVATIONS: dict[str, Scalar] = {
    "identity": Scalar(lambda x: x, slope=1.0, onnx="Identity"),
    "relu": Scalar(F.relu, slope=0.0, onnx="Relu"),
    "leaky_relu": Scalar(F.leaky_relu, slope=0.01, onnx="LeakyRelu"),
    "elu": Scalar(F.elu, formula=lambda x: math.expm1(x) if x < 0 else x, onnx="Elu"),
    "gelu": Scalar(F.gelu, formula=lambda x: 0.5 * x * (1.0 + math.erf(x * 0.7071067811865476)),
                   onnx=_onnx_gelu),
    "silu": Scalar(F.silu, formula=lambda x: x / (1.0 + math.exp(-x)),
                   onnx=lambda graph, x: graph.add("Mul", x, graph.add("Sigmoid", x))),
    "softplus": Scalar(F.softplus, formula=lambda x: x if x > 20.0 else math.log1p(math.exp(x)),
                       onnx="Softplus"),
    "sigmoid": Scalar(torch.sigmoid, formula=lambda x: 1.0 / (1.0 + math.exp(-x)), onnx="Sigmoid"),
    "tanh": Scalar(torch.tanh, formula=math.tanh, onnx="Tanh"),
    "relu6": Scalar(F.relu6, formula=lambda x: min(max(x, 0.0), 6.0), onnx=_onnx_relu6),
}
BUILT_IN_ACTIVATIONS = len(ACTIVATIONS)


class Activation(Operation):
    """y = f(x) with f a member of :data:`ACTIVATIONS`."""

    name = "activation"

    def __init__(self, function: NodeFunction, channels: int, dims: int):
        super().__init__(function, channels, dims)
        self.activation, self.channels = function.activation, channels

    def forward(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        return ACTIVATIONS[self.activation](x)

    def is_homogeneous(self) -> bool:
        return ACTIVATIONS[self.activation].slope is not None

    def lower(self, rows: Rows) -> list[Lowered]:
        number = len(torch.arange(self.channels)[rows])
        return [Pointwise(self.activation, np.zeros((number, 0), np.float32))]

    def extra_repr(self) -> str:
        return self.activation
