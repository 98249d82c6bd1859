"""Where edges begin and end: entries of the matrix [dst, src], or full rectangles of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch

CHUNK = 2**16  # edges looked at at once, whose ends stay in the processor's cache

# Some edges: their numbers, a mask (E,) or a slice.
Some = torch.Tensor | slice


@dataclass(frozen=True, eq=False)
class Outline:
    """A graph with the same paths as a larger one, in which nodes that are alike are one.

    Args:
        first: the first node of each group, int64 (G,).
        group: of each node, int64 (V,).
        ends: the edges between groups, E'. They are in the order that those between first nodes have in the larger
            graph: what is found first here is what is found first there.
    """

    first: torch.Tensor
    group: torch.Tensor
    ends: Entries


class Ends(ABC):
    """Where E edges begin and end; the lists of that are there once somebody has asked for them.

    Args:
        dtype: of the lists, int64 for a wiring and int32 for a stage.
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    @abstractmethod
    def __len__(self) -> int: ...

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name not in ("src", "dst")}

    @cached_property
    @torch.inference_mode(False)  # kept, so it must serve training too
    def src(self) -> torch.Tensor:
        """The nodes at which edges begin, (E,)."""
        return self._src().to(self.dtype)

    @cached_property
    @torch.inference_mode(False)
    def dst(self) -> torch.Tensor:
        """The nodes at which they end, (E,)."""
        return self._dst().to(self.dtype)

    @abstractmethod
    def _src(self) -> torch.Tensor: ...

    @abstractmethod
    def _dst(self) -> torch.Tensor: ...

    @abstractmethod
    def copy(self) -> Ends:
        """The same, sharing no list."""

    def equals(self, other: Ends) -> bool:
        """Whether the edges are the same, in the same order."""
        return len(self) == len(other) and torch.equal(self._src(), other._src()) and torch.equal(self._dst(), other._dst())

    @abstractmethod
    def of(self, edges: Some) -> tuple[torch.Tensor, torch.Tensor]:
        """The ends of some edges, int64."""

    @abstractmethod
    def pieces(self, edges: Some = slice(None)) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The same of a few edges at once, so that lists of all are never there: whole numbers."""

    def part(self, edges: Some, num_nodes: int) -> Entries:
        """Some edges, among as many nodes."""
        every = torch.arange(num_nodes, device="cpu")
        return self.renumbered(edges, every, every, (num_nodes, num_nodes))

    def renumbered(self, edges: Some, rows: torch.Tensor, columns: torch.Tensor, shape: tuple[int, int],
                   dtype: torch.dtype = torch.int64) -> Entries:
        """Some edges as entries of another matrix.

        Args:
            rows, columns: where in it each node stands, int64 (V,).
            shape: of the matrix.
            dtype: of the lists.
        """
        kind, first, second = np.int32 if entry_type(shape) == torch.int32 else np.int64, rows.numpy(), columns.numpy()
        numbers = [(first.take(dst) * shape[1] + second.take(src)).astype(kind) for src, dst in self.pieces(edges)]
        return Entries.numbered(torch.from_numpy(np.concatenate(numbers)), shape, dtype)

    @abstractmethod
    def run(self, sources: torch.Tensor, targets: torch.Tensor) -> slice | None:
        """The numbers of the edges into some nodes, if they are known to be the matrix [targets, sources], row by row.

        Args:
            sources: among which are all nodes at which these edges begin.
            targets: where they end.
        """

    @abstractmethod
    def outline(self, num_nodes: int, *columns: torch.Tensor) -> Outline:
        """The graph with nodes in a row as one that have the same parents, children and values in the columns (V,)."""

    @abstractmethod
    def behind(self, outline: Outline, edges: Some) -> Some:
        """The edges that some edges of their outline stand for, ascending as those do."""


class Entries(Ends):
    """Edges of any kind, as the numbers of entries of a matrix [dst, src], row by row.

    >>> ends = Entries(torch.tensor([0, 1, 0]), torch.tensor([1, 2, 2]), (3, 3))
    >>> ends.entries.tolist(), ends.src.tolist(), ends.dst.tolist()
    ([3, 7, 6], [0, 1, 0], [1, 2, 2])

    Args:
        src: where they begin, integers (E,).
        dst: where they end, likewise.
        shape: of the matrix.
        dtype: of the lists.
    """

    def __init__(self, src: torch.Tensor, dst: torch.Tensor, shape: tuple[int, int], dtype: torch.dtype = torch.int64):
        super().__init__(dtype)
        self.shape = shape
        self.entries = (dst.long() * shape[1]).add_(src).to(entry_type(shape))

    @classmethod
    def numbered(cls, entries: torch.Tensor, shape: tuple[int, int], dtype: torch.dtype = torch.int64) -> Entries:
        """From the numbers of the entries, integers (E,), which are not copied where they are of the right type."""
        made = cls.__new__(cls)
        made.dtype, made.shape, made.entries = dtype, shape, entries.to(entry_type(shape))
        return made

    def __len__(self) -> int:
        return len(self.entries)

    # by numpy, which divides by one number much faster, and because torch may be tracing what it does

    def _src(self) -> torch.Tensor:
        return torch.from_numpy(self.entries.numpy() % self._columns)

    def _dst(self) -> torch.Tensor:
        return torch.from_numpy(self.entries.numpy() // self._columns)

    @property
    def _columns(self) -> np.integer:
        return self.entries.numpy().dtype.type(max(1, self.shape[1]))

    def copy(self) -> Entries:
        return Entries.numbered(self.entries, self.shape, self.dtype)

    def equals(self, other: Ends) -> bool:
        if isinstance(other, Entries) and self.shape == other.shape:
            return torch.equal(self.entries, other.entries)
        return super().equals(other)

    def of(self, edges: Some) -> tuple[torch.Tensor, torch.Tensor]:
        entries = self.entries[edges].numpy().astype(np.int64)
        dst = entries // max(1, self.shape[1])
        return torch.from_numpy(entries - dst * self.shape[1]), torch.from_numpy(dst)

    def pieces(self, edges: Some = slice(None)) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        entries, columns = self.entries[edges].numpy(), self._columns
        for first in range(0, max(1, len(entries)), CHUNK):
            some = entries[first:first + CHUNK]
            dst = some // columns
            yield some - dst * columns, dst

    def part(self, edges: Some, num_nodes: int) -> Entries:
        return Entries.numbered(self.entries[edges], (num_nodes, num_nodes))

    def run(self, sources: torch.Tensor, targets: torch.Tensor) -> None:
        return None

    def ascending(self) -> torch.Tensor:
        """The numbers of the entries in ascending order; not copied if they are in it."""
        entries = self.entries.numpy()
        return self.entries if (entries[1:] >= entries[:-1]).all() else torch.from_numpy(np.sort(entries))

    def joined(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Which columns have edges out of them, and which rows edges into them, masks."""
        feeds, fed = (np.zeros(number, bool) for number in self.shape[::-1])
        for src, dst in self.pieces():
            feeds[src] = fed[dst] = True
        return torch.from_numpy(feeds), torch.from_numpy(fed)

    @property
    def is_whole(self) -> bool:
        """Whether the edges are all entries of the matrix, in their order."""
        return len(self) == self.shape[0] * self.shape[1] and \
            torch.equal(self.entries, torch.arange(len(self), dtype=self.entries.dtype, device="cpu"))

    def outline(self, num_nodes: int, *columns: torch.Tensor) -> Outline:
        """The graph itself, in which nodes are seldom alike."""
        every = torch.arange(num_nodes, device="cpu")
        return Outline(every, every, self)

    def behind(self, outline: Outline, edges: Some) -> Some:
        return edges


@dataclass(frozen=True)
class Rectangle:
    """Every edge from some nodes in a row to others in a row, by destination, then source."""

    sources: range
    targets: range

    def __len__(self) -> int:
        return len(self.sources) * len(self.targets)


class Rectangles(Ends):
    """Every edge of some rectangles, one after the other; no list of them is there until somebody asks for it.

    >>> ends = Rectangles(Rectangle(range(0, 2), range(2, 4)), Rectangle(range(0, 4), range(4, 5)))
    >>> ends.src.tolist(), ends.dst.tolist()
    ([0, 1, 0, 1, 0, 1, 2, 3], [2, 2, 3, 3, 4, 4, 4, 4])

    Args:
        dtype: of the lists.
    """

    def __init__(self, *rectangles: Rectangle, dtype: torch.dtype = torch.int64):
        super().__init__(dtype)
        self.rectangles = tuple(filter(len, rectangles))
        self._first = [0, *accumulate(map(len, self.rectangles))]

    def __len__(self) -> int:
        return self._first[-1]

    def _src(self) -> torch.Tensor:
        return self._list(lambda one: np.arange(one.sources.start, one.sources.stop))

    def _dst(self) -> torch.Tensor:
        return self._list(lambda one: np.arange(one.targets.start, one.targets.stop)[:, None])

    def _list(self, nodes: Callable[[Rectangle], np.ndarray]) -> torch.Tensor:
        """By numpy, since torch may be tracing what it does."""
        numbers = np.empty(len(self), np.int64 if self.dtype == torch.int64 else np.int32)
        for first, one in zip(self._first, self.rectangles):
            numbers[first:first + len(one)].reshape(len(one.targets), len(one.sources))[:] = nodes(one)
        return torch.from_numpy(numbers)

    def copy(self) -> Rectangles:
        return Rectangles(*self.rectangles, dtype=self.dtype)

    def equals(self, other: Ends) -> bool:
        return (isinstance(other, Rectangles) and self.rectangles == other.rectangles) or super().equals(other)

    def of(self, edges: Some) -> tuple[torch.Tensor, torch.Tensor]:
        edges = self._numbers(edges)
        first, source, columns, target = torch.tensor(
            [(first, one.sources.start, len(one.sources), one.targets.start)
             for first, one in zip(self._first, self.rectangles)], dtype=torch.long, device="cpu").reshape(-1, 4).T.contiguous()
        which = torch.searchsorted(first, edges, right=True) - 1
        within, columns = edges - first[which], columns[which]
        row = within // columns
        return source[which] + within - row * columns, target[which] + row

    def _numbers(self, edges: Some) -> torch.Tensor:
        if isinstance(edges, slice):
            return torch.arange(*edges.indices(len(self)), device="cpu")
        return edges.nonzero().flatten() if edges.dtype == torch.bool else edges

    def pieces(self, edges: Some = slice(None)) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for some in self._numbers(edges).split(CHUNK):
            src, dst = self.of(some)
            yield src.numpy(), dst.numpy()

    def run(self, sources: torch.Tensor, targets: torch.Tensor) -> slice | None:
        columns, rows = _range_of(sources), _range_of(targets)
        for first, one in zip(self._first, self.rectangles):
            if rows and one.sources == columns and rows[0] in one.targets and rows[-1] in one.targets:
                begin = first + one.targets.index(rows[0]) * len(one.sources)
                return slice(begin, begin + len(rows) * len(one.sources))
        return None

    def outline(self, num_nodes: int, *columns: torch.Tensor) -> Outline:
        begins = torch.zeros(num_nodes + 1, dtype=torch.bool, device="cpu")
        begins[0] = True
        for one in self.rectangles:
            begins[[one.sources.start, one.sources.stop, one.targets.start, one.targets.stop]] = True
        for column in columns:
            begins[1:-1] |= column[1:] != column[:-1]
        group, first = begins[:-1].cumsum(0) - 1, begins[:-1].nonzero().flatten()
        between, columns = self._between(group), len(first)
        entries = between._list(lambda one: np.arange(one.targets.start, one.targets.stop)[:, None] * columns
                                + np.arange(one.sources.start, one.sources.stop))
        return Outline(first, group, Entries.numbered(entries, (columns, columns)))

    def _between(self, group: torch.Tensor) -> Rectangles:
        """The same rectangles of a matrix of groups."""
        def groups(nodes: range) -> range:
            return range(int(group[nodes.start]), int(group[nodes.stop - 1]) + 1)

        return Rectangles(*(Rectangle(groups(one.sources), groups(one.targets)) for one in self.rectangles))

    def behind(self, outline: Outline, edges: Some) -> torch.Tensor:
        marks = torch.zeros(len(outline.ends), dtype=torch.bool, device="cpu")
        marks[edges] = True
        between, found = self._between(outline.group), [self._numbers(slice(0))]
        for first, one, small, own in zip(self._first, self.rectangles, between.rectangles,
                                          marks.split(list(map(len, between.rectangles)))):
            if own.any():
                rows, columns = (outline.group[nodes.start:nodes.stop] - groups.start for nodes, groups in
                                 ((one.targets, small.targets), (one.sources, small.sources)))
                marked = own.view(len(small.targets), len(small.sources))[rows][:, columns]
                found.append(marked.flatten().nonzero().flatten() + first)
        return torch.cat(found)


def _range_of(nodes: torch.Tensor) -> range | None:
    """The nodes as a range, if they are one."""
    first = int(nodes[0]) if len(nodes) else 0
    found = range(first, first + len(nodes))
    return found if torch.equal(nodes, torch.arange(found.start, found.stop, device="cpu")) else None


def entry_type(shape: tuple[int, int]) -> torch.dtype:
    """Of the numbers of a matrix's entries."""
    return torch.int32 if shape[0] * shape[1] < 2**31 else torch.int64
