"""Lists of edges, sorted by one end."""

from __future__ import annotations

import torch

from . import AVAILABLE

if AVAILABLE:
    from .sorting import by_entry, by_other_end, by_row
else:
    from .plain import by_entry, by_other_end, by_row


class EdgeList:
    """Edges sorted by one end, the row: those of row v are ``first[v]`` to ``first[v + 1]``.

    Args:
        first: (rows + 1,) int32.
        index: the other end of each edge, (n,) int32.
        place: the edge's index in the list it was made from, (n,) int32.
    """

    def __init__(self, first: torch.Tensor, index: torch.Tensor, place: torch.Tensor):
        self.first, self.index, self.place = first, index, place

    @classmethod
    def of(cls, kept: torch.Tensor, row: torch.Tensor, other: torch.Tensor, num_rows: int) -> EdgeList:
        """The edges whose ``kept`` is True, by ``row`` (int32); edges of a row keep their order."""
        return cls(*by_row(kept, row, other, num_rows))

    @classmethod
    def of_entries(cls, kept: torch.Tensor, entries: torch.Tensor | None, shape: tuple[int, int]) -> EdgeList:
        """The edges whose ``kept`` is True, which are entries of a matrix [row, other end] in ascending order.

        Args:
            entries: the number of the entry that each edge is, row by row, integers; None where edges are all entries.
            shape: of the matrix.
        """
        return cls(*by_entry(kept, entries, *shape))

    def transposed(self, num_rows: int) -> EdgeList:
        """The same edges by their other end."""
        return EdgeList(*by_other_end(self.first, self.index, self.place, num_rows))

    @property
    def rows(self) -> torch.Tensor:
        """The row of each edge, (n,) int32."""
        count = self.first.diff()
        return torch.arange(len(count), dtype=torch.int32, device="cpu").repeat_interleave(count)
