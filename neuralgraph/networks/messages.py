"""The messages of a static graph, side by side, so that those a stage reads are one tensor without a copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .._torch import is_compiling
from ..backends import Shared
from ..wiring import Stage, Wiring

Key = tuple[int, int]  # a stage and a chunk of it


def split(x: torch.Tensor, sizes: Sequence[int]) -> Sequence[torch.Tensor]:
    """x (B, V, *space) by numbers of nodes; its gradient is written once, and for all nodes at once not copied."""
    return (x,) if len(sizes) == 1 else x.split(sizes, dim=1)


class Places:
    """Where the messages of each chunk stand among all whose maps have the same size.

    Args:
        stages: of a static graph.
        wiring: theirs.
    """

    def __init__(self, stages: Sequence[Stage], wiring: Wiring):
        self.rows: dict[int, int] = {}  # scale of maps -> how many there are
        self.of: dict[Key, tuple[int, int, int]] = {}  # scale, first, one after the last
        scales = wiring.message_scale()
        for number, stage in enumerate(stages):
            for c, chunk in enumerate(stage.chunks):
                if not chunk.is_output and wiring.functions[chunk.function].send:
                    scale = int(scales[chunk.nodes[0]])
                    first = self.rows.get(scale, 0)
                    self.rows[scale] = first + len(chunk.nodes)
                    self.of[number, c] = scale, first, self.rows[scale]


class Messages:
    """The messages of one forward pass.

    Args:
        places: of the graph.
        x: the network's input.
        compiled: whether compiled node functions can write messages where they will be read.
    """

    def __init__(self, places: Places, x: torch.Tensor, compiled: bool):
        self.places = places
        self.together = compiled and x.device.type == "cpu" and not is_compiling() \
            and x.dtype in (torch.float32, torch.float64)
        self.batch, self.space, self.like = len(x), x.shape[2:], x.detach()
        self._parts: dict[Key, torch.Tensor] = {}
        self._maps: dict[int, torch.Tensor] = {}
        self._caches: dict[int, dict] = {}
        self._written: set[Key] = set()

    def buffer(self, key: Key) -> torch.Tensor | None:
        """Where the messages of a chunk may be written: to autograd a tensor of its own."""
        if not self.together or key not in self.places.of:
            return None
        scale, first, last = self.places.of[key]
        if scale not in self._maps:
            sides = (-(-side // scale) for side in self.space)
            self._maps[scale] = self.like.new_empty(self.batch, self.places.rows[scale], *sides)
            self._caches[scale] = {}
        return self._maps[scale][:, first:last].data

    def put(self, key: Key, message: torch.Tensor, written: bool) -> None:
        """The messages of a chunk; ``written``: they were written into its buffer."""
        self._parts[key] = message
        if written:
            self._written.add(key)

    def of(self, keys: Sequence[Key]) -> tuple[torch.Tensor, Shared | None]:
        """The messages of some chunks, one after the other, (B, n, *space).

        Where they lie side by side they are not copied, and their place among all that do is told too.
        """
        parts = [self._parts[key] for key in keys]
        run = self._run(keys)
        if run is None:
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), None
        scale, first, last = run
        maps = self._maps[scale][:, first:last].data
        return _SideBySide.apply((maps,), *parts), Shared(first, last, self._caches[scale])

    def _run(self, keys) -> tuple[int, int, int] | None:
        """Scale, first and end of the chunks, if they stand in one run and were written there."""
        if not self._written.issuperset(keys):
            return None
        spans = [self.places.of[key] for key in keys]
        if any(a[0] != b[0] or a[2] != b[1] for a, b in zip(spans, spans[1:])):
            return None
        return spans[0][0], spans[0][1], spans[-1][2]


class _SideBySide(torch.autograd.Function):
    """torch.cat of tensors that lie side by side already."""

    @staticmethod
    def forward(ctx, whole, *parts):
        ctx.sizes = [part.shape[1] for part in parts]
        return whole[0]

    @staticmethod
    def backward(ctx, gradient):
        return None, *gradient.split(ctx.sizes, dim=1)
