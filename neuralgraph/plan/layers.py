"""An ordinary torch model as what is left to compute: convolutions and linear layers, and calls of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import sympy
import torch

Size: TypeAlias = int | sympy.Expr  # a number, or one that follows from BATCH
BATCH = sympy.Symbol("batch", integer=True, positive=True)

FILLED_UP = 1.6  # four outputs are computed at once if that makes at most so many times their edges


@dataclass(eq=False)
class Step:
    """One tensor of a model.

    Args:
        name: of the operation that makes it, for messages.
        shape: of the tensor; sizes that depend on the number of samples are expressions of :data:`BATCH`.
    """

    name: str
    shape: tuple[Size, ...]

    @property
    def sources(self) -> list[Step]:
        """The steps it is computed from."""
        return []


@dataclass(eq=False)
class Input(Step):
    """An argument of the model."""

    number: int


@dataclass(eq=False)
class Call(Step):
    """A function of torch.

    Args:
        function: it.
        arguments, options: steps, tensors, and anything else; sizes as in ``shape``.
        is_view: whether the result may share memory with an argument.
    """

    function: Callable
    arguments: tuple
    options: dict[str, Any]
    is_view: bool

    @property
    def sources(self) -> list[Step]:
        return [leaf for leaf in leaves((self.arguments, self.options)) if isinstance(leaf, Step)]


@dataclass(eq=False)
class Convolution(Step):
    """activation(convolution of the source + bias + what is added); the norm after it is folded in.

    Args:
        source: (B, C, *sides) with one or two sides; of a linear layer (..., C).
        weight: (outputs, C / groups, height, width) of the kernel, numpy.
        bias: (outputs,).
        stride, padding, dilation: height, width; padding is what lies before the first line and column.
        is_linear: channels are the last dimension, and every other position is a map of one pixel.
        added: a tensor of the shape of the result.
        slope, limit: the activation: what negative numbers are multiplied with, and the largest result.
    """

    source: Step
    weight: np.ndarray
    bias: np.ndarray
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    is_linear: bool = False
    added: Step | None = None
    slope: float = 1.0
    limit: float = math.inf

    @property
    def sources(self) -> list[Step]:
        return [self.source] + ([] if self.added is None else [self.added])

    @property
    def is_linear_map(self) -> bool:
        """Whether it has no activation."""
        return self.slope == 1.0 and self.limit == math.inf

    @cached_property
    def density(self) -> float:
        """The fraction of weights that are not 0."""
        return np.count_nonzero(self.weight) / max(1, self.weight.size)

    @cached_property
    def fours(self) -> np.ndarray | None:
        """The outputs in an order in which four after four read the same sources, (outputs,); None where they do not.

        The last four may be fewer. A four reads what one of its outputs reads, which is at most :data:`FILLED_UP` times
        as many edges as there are.
        """
        outputs, edges = len(self.weight), np.count_nonzero(self.weight)
        if self.groups > 1 or outputs < 4 or not edges:
            return None
        reads = self.weight.reshape(outputs, -1) != 0
        patterns = np.packbits(reads, axis=1)
        order = np.lexsort(patterns.T[::-1]) if self.density < 1 else np.arange(outputs)
        filled = sum(4 * int(reads[order[begin:begin + 4]].any(0).sum()) for begin in range(0, outputs, 4))
        return order if filled <= FILLED_UP * edges else None


@dataclass(eq=False)
class Pool(Step):
    """The largest or the mean of the numbers in windows of each map.

    Args:
        source: (B, C, height, width).
        is_mean: the mean, not the largest.
        kernel, stride, padding: height, width.
        divisor: what the sum of a window is divided by for the mean; 0: how many of its positions are inside the map.
    """

    source: Step
    is_mean: bool
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    divisor: int = 0

    @property
    def sources(self) -> list[Step]:
        return [self.source]


@dataclass
class LayerPlan:
    """A model as steps in the order of their computation.

    Args:
        inputs: its arguments.
        steps: all others.
        outputs: steps, or constant tensors, in the order of the leaves of ``tree``.
        tree: how the model arranges its results, a tree of torch's.
        batch: the numbers of samples it holds for, first and last.
    """

    inputs: list[Input]
    steps: list[Step]
    outputs: list[Any]
    tree: Any
    batch: tuple[int, int | None]
    dtype: torch.dtype = field(default=torch.float32)


def leaves(value: Any) -> Iterator[Any]:
    """What is in tuples, lists and dicts within each other."""
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, dict):
        yield from leaves(list(value.values()))
    else:
        yield value


def with_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same tuples, lists and dicts with each leaf changed."""
    if isinstance(value, tuple):
        return tuple(with_leaves(part, change) for part in value)
    if isinstance(value, list):
        return [with_leaves(part, change) for part in value]
    if isinstance(value, dict):
        return {key: with_leaves(part, change) for key, part in value.items()}
    return change(value)


def aligned(x: torch.Tensor) -> torch.Tensor:
    """The same numbers, one after the other from an address on as torch's own memory begins at: products of matrices of
    equal numbers are equal to the bit only then."""
    x = x.detach()
    return x if x.is_contiguous() and x.data_ptr() % 64 == 0 else x.clone(memory_format=torch.contiguous_format)


def size_at(size: Size, batch: int) -> int:
    """A size for a number of samples."""
    return size if isinstance(size, int) else int(size.subs(BATCH, batch))
