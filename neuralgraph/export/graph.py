"""An ONNX graph as it is made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import ModuleType

import torch


class OnnxGraph:
    """Nodes and constants; every method takes and gives names.

    Args:
        onnx: the package.
    """

    def __init__(self, onnx: ModuleType):
        self.onnx = onnx
        self.nodes: list = []
        self.constants: dict = {}
        self._names: dict[tuple, str] = {}

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        """A node with one output."""
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, value: torch.Tensor) -> str:
        """A tensor, floating-point ones as float32; equal ones are stored once."""
        value = value.detach().cpu().contiguous()
        value = value.float() if value.is_floating_point() else value
        array = value.numpy()
        key = str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).digest()
        if key not in self._names:
            self._names[key] = name = f"constant_{len(self.constants)}"
            self.constants[name] = self.onnx.numpy_helper.from_array(array, name)
        return self._names[key]

    def integers(self, *values: int) -> str:
        return self.constant(torch.tensor(values))

    def conv(self, x: str, weight: torch.Tensor, bias: torch.Tensor | None = None, *,
             stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int] | None = None,
             groups: int = 1) -> str:
        """A convolution; ``padding`` is what comes before each dimension, then what comes after each."""
        extra = [] if bias is None else [self.constant(bias)]
        return self.add("Conv", x, self.constant(weight), *extra, strides=list(stride), pads=list(padding),
                        dilations=list(dilation or [1] * len(stride)), group=groups,
                        kernel_shape=list(weight.shape[2:]))

    def matrix(self, x: str, weight: torch.Tensor, dims: int, stride: int = 1) -> str:
        """Every channel a weighted sum of those of x; ``weight`` is [dst, src]."""
        if dims == 0:
            return self.add("MatMul", x, self.constant(weight.T))
        return self.conv(x, weight.reshape(*weight.shape, *[1] * dims), stride=[stride] * dims,
                         padding=[0] * (2 * dims))

    def gather(self, x: str, channels: torch.Tensor) -> str:
        return self.add("Gather", x, self.constant(channels), axis=1)

    def concat(self, parts: list[str]) -> str:
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=1)

    def pad(self, x: str, before: Sequence[int], after: Sequence[int], mode: str = "constant") -> str:
        """Borders around the dimensions after batch and channel."""
        return self.add("Pad", x, self.integers(0, 0, *before, 0, 0, *after), mode=mode)
