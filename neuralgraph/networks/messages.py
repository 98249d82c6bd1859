"""The messages of a static graph, side by side, so that those a stage reads are one tensor without a copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch.autograd import forward_ad

from .._torch import is_compiling
from ..backends import Pool, Shared
from ..backends.transforms import is_transformed
from ..wiring import Stage, Wiring

Key = tuple[int, int]  # a stage and a chunk of it
PLAIN = torch.Tensor, torch.nn.Parameter
GATHERED = 16  # messages that a stage copies from a pool are worth one that it reads where it stands


def split(x: torch.Tensor, sizes: Sequence[int]) -> Sequence[torch.Tensor]:
    """x (B, V, *space) by numbers of nodes; its gradient is written once, and for all nodes at once not copied."""
    return (x,) if len(sizes) == 1 else x.split(sizes, dim=1)


class Place(NamedTuple):
    """Rows among the messages whose maps have the same size: ``scale`` times smaller than the network's input."""

    scale: int
    rows: slice


class Places:
    """Where the messages of each chunk stand among all that have the same size.

    ``pooled`` are the sizes of which it is worth it that a :class:`~neuralgraph.backends.Pool` holds the messages, where
    stages compute from it what they read in a row; ``crowded``, where they copy that too.

    Args:
        stages: of a static graph.
        wiring: theirs.
    """

    def __init__(self, stages: Sequence[Stage], wiring: Wiring):
        self.rows: Counter[int] = Counter()  # scale of maps -> how many there are
        self.of: dict[Key, Place] = {}
        self.reads: list[Place | None] = []  # of each stage, where its sources are in a row
        self.stages = stages
        self._row = torch.zeros(wiring.num_nodes, dtype=torch.long)
        self._index: dict[tuple[int, torch.device], torch.Tensor] = {}
        scales = wiring.message_scale()
        last_read: dict[Key, int] = {}
        for number, stage in enumerate(stages):
            last_read.update(dict.fromkeys(stage.inputs, number))
        chunks = {key: stages[key[0]].chunks[key[1]] for key in sorted(last_read)}
        for key, chunk in chunks.items():
            scale = int(scales[chunk.nodes[0]])
            first = self.rows[scale]
            self.rows[scale] += len(chunk.nodes)
            self.of[key] = Place(scale, slice(first, self.rows[scale]))
            self._row[chunk.nodes] = torch.arange(first, self.rows[scale])
        in_a_row: Counter[int] = Counter()  # how many messages stages read with others
        apart: Counter[int] = Counter()
        for stage in stages:
            place = None
            if stage.inputs:
                (scale, one), (_, other) = self.of[stage.inputs[0]], self.of[stage.inputs[-1]]
                if other.stop - one.start == len(stage.sources):
                    place = Place(scale, slice(one.start, other.stop))
                if len(stage.inputs) > 1:
                    (in_a_row if place else apart)[scale] += len(stage.sources)
            self.reads.append(place)
        most = _most_open(self.of, last_read)
        # of which one gradient of all takes hardly more memory, and a pool saves as many copies as it has messages
        fit = {scale: rows for scale, rows in self.rows.items() if rows <= 2 * most[scale]}
        self.pooled, self.crowded = (
            {scale for scale, rows in fit.items() if worth * in_a_row[scale] + apart[scale] >= GATHERED * rows}
            for worth in (GATHERED, 1))

    def index(self, number: int, device: torch.device) -> torch.Tensor:
        """The rows of a stage's sources, (n_src,), kept for the next call."""
        key = number, device
        if key not in self._index:
            with torch.inference_mode(False):  # it must serve training too
                self._index[key] = self._row[self.stages[number].sources].to(device)
        return self._index[key]

    def __deepcopy__(self, memo) -> Places:
        return self  # as stages are

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_index": {}}


def _most_open(places: dict[Key, Place], last_read: dict[Key, int]) -> dict[int, int]:
    """Of each scale, of how many messages at most the gradients are unfinished at one time."""
    changes: dict[int, Counter[int]] = {}
    for key, (scale, rows) in places.items():
        change = changes.setdefault(scale, Counter())
        change[key[0] + 1] += rows.stop - rows.start
        change[last_read[key] + 1] -= rows.stop - rows.start
    return {scale: max(accumulate(change[number] for number in sorted(change))) for scale, change in changes.items()}


class Messages:
    """The messages of one forward pass.

    Args:
        places: of the graph.
        x: the network's input.
        compiled: whether compiled node functions can write messages where they will be read.
    """

    def __init__(self, places: Places, x: torch.Tensor, compiled: bool):
        self.places = places
        # else torch is to see its own operations only
        plain = not is_compiling() and type(x) in PLAIN and not is_transformed(x) and forward_ad._current_level < 0
        self.together = compiled and plain and x.dim() > 2 and x.device.type == "cpu" and \
            x.dtype in (torch.float32, torch.float64)
        # convolutions copy maps of a part of the channels
        self.pooled = set() if not plain else places.pooled if self.together or x.dim() == 2 else places.crowded
        self.like, self.space = x, x.shape[2:]
        self._parts: dict[Key, torch.Tensor] = {}
        self._pools: dict[int, Pool] = {}
        self._apart: set[Key] = set()  # that are in no pool

    def buffer(self, key: Key) -> torch.Tensor | None:
        """Where the messages of a chunk may be written: to autograd a tensor of its own."""
        place = self.places.of.get(key)
        if place is None or not self.together:
            return None
        return self._pool(place.scale, self.like).part(place.rows)

    def put(self, key: Key, message: torch.Tensor, written: bool) -> None:
        """The messages of a chunk; ``written``: they were written into its buffer."""
        place = self.places.of.get(key)
        if place is None:  # nobody reads them
            return
        self._parts[key] = message
        if place.scale in self.pooled:
            pool = self._pool(place.scale, message)
            if written or pool.fits(message):
                pool.put(message, place.rows, written)
                return
        if not written:
            self._apart.add(key)

    def of(self, number: int, keys: Sequence[Key]) -> tuple[torch.Tensor, Shared | None]:
        """The messages that a stage reads, of these chunks one after the other, (B, n, *space).

        Where they lie side by side they are not copied, and their place among all that do is told too.
        """
        scale, place = self.places.of[keys[0]].scale, self.places.reads[number]
        pool, pooled = self._pools.get(scale), scale in self.pooled
        if pool is None or self._apart and not self._apart.isdisjoint(keys) or place is None and not pooled:
            parts = [self._parts[key] for key in keys]
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), None
        if place is None:
            return pool.read(self.places.index(number, self.like.device)), None
        rows = place.rows
        if pooled:
            return pool.read(rows), Shared(rows.start, rows.stop, pool.cache, pool)
        parts = [self._parts[key] for key in keys]
        return _SideBySide.apply((pool.part(rows),), *parts), Shared(rows.start, rows.stop, pool.cache)

    def _pool(self, scale: int, like: torch.Tensor) -> Pool:
        if scale not in self._pools:
            sides = tuple(-(-side // scale) for side in self.space)
            self._pools[scale] = Pool(like, self.places.rows[scale], sides)
        return self._pools[scale]


class _SideBySide(torch.autograd.Function):
    """torch.cat of tensors that lie side by side already."""

    @staticmethod
    def forward(ctx, whole, *parts):
        ctx.sizes = [part.shape[1] for part in parts]
        return whole[0]

    @staticmethod
    def backward(ctx, gradient):
        return None, *gradient.split(ctx.sizes, dim=1)
