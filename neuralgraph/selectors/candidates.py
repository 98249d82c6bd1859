"""What a selector chooses among: edges of a graph, weights or kernels of a layer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import nn

from ..errors import lookup
from ..wiring import Wiring
from ..wiring.wiring import OUTPUT

GRANULARITIES = {"weight": "weights", "kernel": "kernels"}


class Candidates(ABC):
    """n candidates, the nodes at their ends, and the weights that each of them stands for.

    An edge of a graph stands for one weight; a kernel of a convolution for all its entries. Weights are one
    flat vector (W,), those of one candidate side by side, candidates in order. The score of a candidate is

        |w|  of one weight,    sqrt(sum of w^2)  of several

    ``num`` is n, ``num_weights`` W, ``word`` what candidates are called in messages, ``wiring`` the wiring
    of whose edges they are, or None.
    """

    num: int
    num_weights: int
    word: str
    wiring: Wiring | None = None

    @abstractmethod
    def target(self) -> torch.Tensor:
        """The node that each candidate leads to, int64 (n,)."""

    @abstractmethod
    def source(self) -> torch.Tensor:
        """The node that each candidate comes from, int64 (n,)."""

    @property
    @abstractmethod
    def num_targets(self) -> int:
        """How many nodes there are to lead to, some perhaps without candidates."""

    @abstractmethod
    def block(self) -> torch.Tensor:
        """The number of the block, or the layer, that each candidate leads to, counted from 0, int64 (n,)."""

    def layers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """:meth:`block`, counted among those that have candidates, and how many each of these has, (L,)."""
        block = self.block()
        size = torch.bincount(block)
        return (block, size) if size.all() else (((size > 0).cumsum(0) - 1)[block], size[size > 0])

    @abstractmethod
    def nth(self) -> torch.Tensor:
        """The number of each candidate, from 0, among those between its two nodes, int64 (n,)."""

    @abstractmethod
    def is_output(self) -> torch.Tensor:
        """Whether each target is an output of the whole network, bool (num_targets,)."""

    @property
    def parts(self) -> Sequence[Candidates]:
        """The layers, of several, that have no node in common."""
        return (self,)

    @abstractmethod
    def magnitude(self, weight: torch.Tensor) -> torch.Tensor:
        """The score of each candidate (n,), from the weights (W,)."""

    @abstractmethod
    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """To each weight (W,) the value of its candidate, from (n,)."""

    @abstractmethod
    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the weights of each candidate (n,), from (W,)."""

    def label(self, node: int) -> object:
        """What a node is called in messages."""
        return node


class Functions(Protocol):
    """What the nodes of a network compute; see :class:`neuralgraph.networks.functions.NodeFunctions`."""

    def gain(self, steps: Collection[str] | None = None) -> torch.Tensor: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


class Edges(Candidates):
    """The candidate edges of a wiring, in their order.

    Args:
        wiring: which edges there are.
        functions: gives what the nodes of a network on it compute, once for each of its steps that differ.
    """

    wiring: Wiring
    word = "candidate edges"

    def __init__(self, wiring: Wiring, functions: Callable[[], Sequence[Functions]] = tuple):
        self.wiring, self.functions = wiring, functions
        self.num = self.num_weights = wiring.num_edges

    def gain(self, steps: Collection[str] | None = None) -> torch.Tensor | None:
        """How much each node scales what it sends, (V,), differentiable; None of a wiring alone.

        Of a network whose steps differ, the mean over them. ``steps``: the operations that count; None for all.
        """
        gains = [functions.gain(steps) for functions in self.functions()]
        return torch.stack(gains).mean(0) if len(gains) > 1 else gains[0] if gains else None

    def node_parameters(self) -> list[nn.Parameter]:
        """What the nodes of the network learn."""
        return [parameter for functions in self.functions() for parameter in functions.parameters()]

    def target(self) -> torch.Tensor:
        return self.wiring.dst

    def source(self) -> torch.Tensor:
        return self.wiring.src

    @property
    def num_targets(self) -> int:
        return self.wiring.num_nodes

    def block(self) -> torch.Tensor:
        return self.wiring.block.unique(return_inverse=True)[1][self.wiring.dst]

    def nth(self) -> torch.Tensor:
        return torch.zeros(self.num, dtype=torch.long)

    def is_output(self) -> torch.Tensor:
        return self.wiring.role == OUTPUT

    def magnitude(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.abs()

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def label(self, node: int) -> object:
        return self.wiring.label(node)


class Weights(Candidates):
    """The entries or the kernels of one layer's weight.

    A fully connected layer is a complete bipartite wiring. A convolution has, at granularity "weight", one
    candidate per entry of its weight, and at "kernel" one per pair of channels.

    Args:
        shape: of the weight, (rows, columns, *kernel).
        granularity: a key of :data:`GRANULARITIES`.
        rows_are: "targets", as in (out, in / groups, *kernel), or "sources", as in the (in, out / groups,
            *kernel) of transposed convolutions and in embeddings.
        groups: of a convolution.
        is_last: whether the layer's outputs are those of the model.

    >>> kernels = Weights((4, 2, 3, 3), granularity="kernel", groups=2)
    >>> kernels.num, kernels.target().tolist(), kernels.source().tolist()
    (8, [0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 0, 1, 2, 3, 2, 3])
    """

    def __init__(self, shape: Sequence[int], granularity: str = "weight", rows_are: str = "targets",
                 groups: int = 1, is_last: bool = False):
        self.word = lookup("granularity", granularity, GRANULARITIES)
        self._rows_are_targets = lookup("rows_are", rows_are, {"targets": True, "sources": False})
        self.rows, self.columns, *kernel = shape
        self.groups, self.is_last = groups, is_last
        entries = math.prod(kernel)
        self.num_weights = self.rows * self.columns * entries
        self._each = entries if granularity == "kernel" else 1  # weights of a candidate
        self.num = self.num_weights // max(1, self._each)
        self._per_pair = 1 if granularity == "kernel" else entries  # candidates between two nodes

    def target(self) -> torch.Tensor:
        return self._row() if self._rows_are_targets else self._column()

    def source(self) -> torch.Tensor:
        return self._column() if self._rows_are_targets else self._row()

    def _row(self):
        return torch.arange(self.rows).repeat_interleave(self.columns * self._per_pair)

    def _column(self):
        first = torch.arange(self.rows) // max(1, self.rows // self.groups) * self.columns
        return (first[:, None] + torch.arange(self.columns)).flatten().repeat_interleave(self._per_pair)

    @property
    def num_targets(self) -> int:
        return self.rows if self._rows_are_targets else self.columns * self.groups

    def block(self) -> torch.Tensor:
        return torch.zeros(self.num, dtype=torch.long)

    def nth(self) -> torch.Tensor:
        return torch.arange(self.num) % self._per_pair

    def is_output(self) -> torch.Tensor:
        return torch.full((self.num_targets,), self.is_last)

    def magnitude(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.abs() if self._each == 1 else weight.view(self.num, self._each).norm(dim=1)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        return values if self._each == 1 else values.repeat_interleave(self._each)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return values if self._each == 1 else values.view(self.num, self._each).sum(1)


class Joined(Candidates):
    """The candidates of several layers, which compete with each other."""

    parts: Sequence[Candidates] = ()

    def __init__(self, parts: Sequence[Candidates]):
        self.parts = tuple(parts)
        words = {part.word for part in parts}
        self.word = words.pop() if len(words) == 1 else "candidates"
        self.sizes = [part.num for part in parts]
        self.num, self.num_weights = sum(self.sizes), sum(part.num_weights for part in parts)

    @cached_property
    def _first(self) -> list[int]:
        """The number of the first target, and of the first source, of each layer."""
        nodes = [max(part.num_targets, int(part.source().max()) + 1 if part.num else 0) for part in self.parts]
        return [sum(nodes[:number]) for number in range(len(nodes) + 1)]

    def target(self) -> torch.Tensor:
        return torch.cat([part.target() + first for part, first in zip(self.parts, self._first)])

    def source(self) -> torch.Tensor:
        return torch.cat([part.source() + first for part, first in zip(self.parts, self._first)])

    @property
    def num_targets(self) -> int:
        return self._first[-1]

    def block(self) -> torch.Tensor:
        return torch.arange(len(self.parts)).repeat_interleave(torch.tensor(self.sizes))

    def nth(self) -> torch.Tensor:
        return torch.cat([part.nth() for part in self.parts])

    def is_output(self) -> torch.Tensor:
        marks = torch.zeros(self.num_targets, dtype=torch.bool)
        for part, first in zip(self.parts, self._first):
            marks[first:first + part.num_targets] = part.is_output()
        return marks

    def magnitude(self, weight: torch.Tensor) -> torch.Tensor:
        return self._each(weight, lambda part: part.num_weights, "magnitude")

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        return self._each(values, lambda part: part.num, "spread")

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return self._each(values, lambda part: part.num_weights, "gather")

    def _each(self, values, size, method):
        split = values.split([size(part) for part in self.parts])
        return torch.cat([getattr(part, method)(own) for part, own in zip(self.parts, split)])
