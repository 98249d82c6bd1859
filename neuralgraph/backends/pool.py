"""Messages that several stages read, with one gradient that all of them add to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

Rows = slice | torch.Tensor  # numbers of rows, int64, or all between two


class Pool:
    """Messages of one pass as rows of one tensor (B, rows, *space), of which gradients are added up in place.

    To autograd each reading makes another ``state`` of the one before, though the numbers stay where they are. So
    backward comes to them one after the other, the last first, and one gradient goes through all: a reading adds to its
    rows, and where a message was written that of the message is complete.

    Args:
        like: a tensor (B, ...) of the type and on the device of the messages.
        rows: how many messages there are.
        space: the sides of their maps.
    """

    def __init__(self, like: torch.Tensor, rows: int, space: Sequence[int]):
        self.state = self._numbers = like.detach().new_empty(len(like), rows, *space)
        self.cache: dict[Any, Any] = {}
        self._new: list[torch.Tensor] = []
        self._places: list[slice] = []

    def fits(self, message: torch.Tensor) -> bool:
        """Whether messages are of the pool's type and size."""
        own = self._numbers
        return message.dtype == own.dtype and message.device == own.device and message.shape[2:] == own.shape[2:]

    def part(self, rows: slice) -> torch.Tensor:
        """Messages in a row, (B, n, *space), to autograd a tensor of its own."""
        return self._numbers[:, rows].data

    def put(self, message: torch.Tensor, rows: slice, is_there: bool) -> None:
        """Takes messages (B, n, *space), which need not be copied where they ``is_there`` already."""
        if not is_there:
            self._numbers[:, rows] = message.data
        self._new.append(message)
        self._places.append(rows)

    def read(self, rows: Rows) -> torch.Tensor:
        """Messages (B, n, *space) that were put there; those in a row are not copied."""
        numbers = self._numbers
        messages = numbers[:, rows].data if isinstance(rows, slice) else numbers.index_select(1, rows)
        messages, self.state = _Read.apply(self.state, (messages,), rows, self._places, *self._new)
        self._new, self._places = [], []
        return messages


class _Read(torch.autograd.Function):
    """Messages that some rows of the state are, and the state with the ``new`` ones."""

    @staticmethod
    def forward(ctx, state, messages, rows, places, *new):
        ctx.set_materialize_grads(False)
        ctx.rows, ctx.places, ctx.shape = rows, places, state.shape
        return messages[0], state.data

    @staticmethod
    def backward(ctx, gradient, total):
        if gradient is not None:
            total = _added(total, gradient, ctx.rows, ctx.shape)
        return total, None, None, None, *[None if total is None else total[:, place] for place in ctx.places]


def _added(total, gradient, rows, shape):
    """The gradient of the state, to which is added that of some rows; in place."""
    in_a_row = isinstance(rows, slice)
    if torch.is_grad_enabled():  # for gradients of gradients, which need what was before
        index = torch.arange(rows.start, rows.stop, device=gradient.device) if in_a_row else rows
        return (gradient.new_zeros(shape) if total is None else total).index_add(1, index, gradient)
    if not in_a_row:
        return (gradient.new_zeros(shape) if total is None else total).index_add_(1, rows, gradient)
    if total is None:
        total = first_gradient(gradient, shape, rows)
        total[:, rows] = gradient
    else:
        total[:, rows].add_(gradient)
    return total


def first_gradient(like: torch.Tensor, shape: tuple[int, ...], rows: slice) -> torch.Tensor:
    """A gradient of a pool's state that is 0 but for some rows, which are to be written."""
    total = like.new_empty(shape)
    total[:, :rows.start] = 0
    total[:, rows.stop:] = 0
    return total
