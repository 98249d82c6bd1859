"""The contract of channel operations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from ..errors import InputError
from .lowered import Lowered

if TYPE_CHECKING:
    from .function import NodeFunction

Rows = slice | torch.Tensor


class Operation(nn.Module, ABC):
    """One step of a node function, for N channels at once, each with its own learned values.

    A subclass is everything there is to say about an operation: :func:`neuralgraph.register_operation`
    makes its ``name`` a word of :class:`~neuralgraph.NodeFunction`. It takes the same three arguments,
    and creates its parameters in float32 (the network casts them).

    Args:
        function: the node function it is a step of, whose settings it may read.
        channels: N.
        dims: dimensions of a map, 0 to 3.

    >>> import torch
    >>> import neuralgraph as ng
    >>> class Gain(ng.nodes.Operation):
    ...     name, learned = "gain", {"gain": "gain"}
    ...     def __init__(self, function, channels, dims):
    ...         super().__init__(function, channels, dims)
    ...         self.gain = torch.nn.Parameter(torch.ones(channels))
    ...     def forward(self, x, rows):
    ...         return x * self.per_channel(self.gain[rows])
    >>> Gain(ng.NodeFunction(), channels=4, dims=1)(torch.ones(2, 4, 7), slice(None)).shape
    torch.Size([2, 4, 7])
    """

    name: ClassVar[str]  # the word for it in ``send`` and ``receive``
    # its learned values: the name that a wiring and its files have for one, to the parameter or buffer here,
    # whose first dimension is the channel
    learned: ClassVar[dict[str, str]] = {}
    weights: ClassVar[tuple[str, ...]] = ()  # those of them that the authors' count of parameters includes
    normalises: ClassVar[bool] = False  # whatever the scale of the maps that it is given, it makes the same of them

    def __init__(self, function: NodeFunction, channels: int, dims: int):
        super().__init__()
        self.dims = dims

    @classmethod
    def of(cls, function: NodeFunction) -> type[Operation]:
        """The class that computes this step of ``function``: usually this one."""
        return cls

    @classmethod
    def check(cls, function: NodeFunction, dims: int) -> None:
        """Raises :class:`~neuralgraph.errors.WiringError` if it cannot act on maps of ``dims`` dimensions."""

    @abstractmethod
    def forward(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        """From maps to maps.

        Args:
            x: (B, n, *space).
            rows: which n of the N channels they are, a slice or an index tensor (n,).

        Returns:
            (B, n, *space'), of the sides that :meth:`shrinks` says.
        """

    @classmethod
    def shrinks(cls, function: NodeFunction) -> int:
        """How many times smaller it makes a side: s pixels become ceil(s / this)."""
        return 1

    def reset(self, generator: torch.Generator) -> None:
        """Draws initial values; operations without random ones do nothing."""

    def value(self, attribute: str) -> torch.Tensor:
        """A learned value by its name here, as wirings hold it: (N, ...), sharing memory with the parameter."""
        return getattr(self, attribute)

    def scale(self) -> torch.Tensor | None:
        """How much it scales the maps of each channel, (N,), differentiable and not negative; None: not at all."""
        return None

    def is_homogeneous(self) -> bool:
        """Whether :meth:`divide` keeps its promise, so that scales can be moved past it."""
        return False

    def divide(self, before: torch.Tensor, after: torch.Tensor) -> None:
        """Changes learned values in place, so that it makes of x / ``before`` what it made of x, over ``after``.

        Args:
            before: (N,), positive; 1 where it is a norm.
            after: ``before``, times its own :meth:`scale` where it has one.
        """

    def multiply_adds(self, space: tuple[int, ...]) -> int:
        """Multiply-adds per channel for maps of these sides, as the paper counts: of weights only."""
        return 0

    def lower(self, rows: Rows) -> list[Lowered]:
        """What it does in evaluation, in the words of a plan, for compiled models and ONNX.

        Raises:
            InputError: unless a subclass says it.
        """
        raise InputError(f"nodes with the operation {self.name!r} can be neither compiled nor exported: "
                         f"{type(self).__name__} does not say how it is lowered (method lower).")

    def per_channel(self, values: torch.Tensor) -> torch.Tensor:
        """Values (n,) in a shape that broadcasts against maps (B, n, *space)."""
        return values.view(-1, *[1] * self.dims)
