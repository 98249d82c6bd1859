"""Wirings of blocks one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch

from ..errors import WiringError
from ..nodes import IDENTITY, NodeFunction
from .assembling import assemble, default_function, integer
from .devices import on_cpu
from .ends import Rectangle, Rectangles
from .reading import HIDDEN, INPUT, OUTPUT
from .wiring import Wiring


@on_cpu
def blocks(sizes: Sequence[int], function: NodeFunction | Sequence[NodeFunction] | None = None, *,
           input_stride: int = 1, dims: int = 2) -> Wiring:
    """Every edge from an earlier to a later block: A = {(u,v): u in B_i, v in B_j, i < j}.

    The node set of the paper's static graphs (section 2.1 and appendix A). The first block holds
    the inputs, the last one the outputs, which apply no operation. Edges are sorted by destination,
    then source, so that the weights into one block are a contiguous matrix [dst, src].

    Args:
        sizes: nodes per block, at least two blocks of at least one node.
        function: of every node but the outputs; or one for each block, the outputs' included. By default
            "norm activation conv" with a batch norm, or "norm activation" where ``dims`` is 0.
        input_stride: stride of the convolution of the input nodes, in pixels.
        dims: of the states that it is made for, 0 (vectors) to 3; only the default of ``function``
            depends on it.

    >>> blocks([2, 3, 1])
    Wiring(6 nodes: 2 input, 3 hidden, 1 output; 11 candidate edges)
    """
    return _blocks(sizes, function, input_stride, dims, reach=None)


@on_cpu
def chain(sizes: Sequence[int], function: NodeFunction | Sequence[NodeFunction] | None = None, *,
          input_stride: int = 1, dims: int = 2) -> Wiring:
    """Every edge from a block to the next one: an ordinary layered network.

    With one 3x3 kernel per node this is a stack of depthwise-separable convolutions, the wiring of
    MobileNetV1. Arguments as in :func:`blocks`. For a multi-layer perceptron, whose inputs are not activated
    and whose units have biases, see :func:`mlp`.

    >>> chain([2, 3, 1])
    Wiring(6 nodes: 2 input, 3 hidden, 1 output; 9 candidate edges)
    """
    return _blocks(sizes, function, input_stride, dims, reach=1)


def _blocks(sizes, function, input_stride, dims, reach):
    if not isinstance(sizes, Iterable):
        raise WiringError(f"sizes must be the numbers of nodes of two or more blocks, got {sizes!r}.")
    sizes = [integer("the size of a block", size) for size in sizes]
    if len(sizes) < 2 or min(sizes) < 1:
        raise WiringError(
            f"sizes must be at least two blocks of at least one node each, got {sizes}."
        )
    block = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    start = [0]
    for size in sizes:
        start.append(start[-1] + size)
    ends = Rectangles(*(Rectangle(range(start[0 if reach is None else max(0, j - reach)], start[j]),
                                  range(start[j], start[j + 1])) for j in range(1, len(sizes))))
    role = torch.full((len(block),), HIDDEN)
    role[block == 0], role[block == len(sizes) - 1] = INPUT, OUTPUT
    function = default_function(dims, function)
    if isinstance(function, NodeFunction):
        function = [function] * (len(sizes) - 1) + [IDENTITY]
    if not isinstance(function, Sequence) or len(function) != len(sizes):
        raise WiringError(f"expected one node function, or one for each of the {len(sizes)} blocks, got "
                          f"{function!r}.")
    if input_stride != 1:
        function = [dataclasses.replace(function[0], stride=input_stride), *function[1:]]
    functions = [f for f, size in zip(function, sizes) for _ in range(size)]
    return assemble(ends, role, block, functions)
