"""What backends keep of a stage beside its plain data, made when it is first wanted."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch

from .._dgl import load
from ..selectors import Selection
from ..wiring import Stage
from ..wiring.ends import Rectangles

if TYPE_CHECKING:
    from .._dgl import DGLGraph


class Layout:
    """The candidate edges of a stage as index tensors, as a dense matrix or as a DGL block.

    It depends on nothing but the stage, and lives as long as the stage does: get it by :meth:`of`. What a first call
    of a network left here, torch.compile then finds and need not record.
    """

    def __init__(self, stage: Stage):
        # the parts, not the stage, which could never be forgotten otherwise
        self.which, self.ends = stage.which, stage.ends
        self.shape = len(stage.nodes), len(stage.sources)
        self._kept: dict[str, torch.Tensor] = {}

    @classmethod
    def of(cls, stage: Stage) -> Layout:
        """That of a stage, the same at every call."""
        found = stage.kept.get("layout")
        if found is None:
            found = stage.kept["layout"] = cls(stage)
        return found

    @property
    def src(self) -> torch.Tensor:
        return self.ends.src

    @property
    def dst(self) -> torch.Tensor:
        return self.ends.dst

    @property
    def is_full_matrix(self) -> bool:
        """Whether the edges are every [dst, src] pair in row-major order and contiguous."""
        return isinstance(self.ends, Rectangles)

    @property
    def entries(self) -> torch.Tensor | None:
        """The index of each edge in the flattened matrix [dst, src], integers (E_s,); None where they are a full matrix."""
        return None if isinstance(self.ends, Rectangles) else self.ends.entries

    @property
    def position(self) -> torch.Tensor:
        """The same, int64, of edges that are any."""
        return torch.arange(len(self.ends), device="cpu") if self.entries is None else self.entries.long()

    @cached_property
    def is_sorted(self) -> bool:
        """Whether the edges are in the order of destinations, those of each in the order of sources."""
        return self.entries is None or bool((self.entries[1:] > self.entries[:-1]).all())

    @property
    def slots(self) -> torch.Tensor:
        """The edges into each node, by source, as indices among the stage's, (n_dst, most); -1 fills up."""
        counts = torch.bincount(self.dst, minlength=self.shape[0])
        order = self.position.argsort()
        column = torch.arange(len(order), device="cpu") - (counts.cumsum(0) - counts).repeat_interleave(counts)
        slots = torch.full((self.shape[0], int(counts.max())), -1, device="cpu")
        slots[self.dst[order], column] = order
        return slots

    @cached_property
    @torch.inference_mode(False)
    def candidates(self) -> DGLGraph:
        """The candidate edges as a bipartite DGL block."""
        return self.block()

    def block(self, real: torch.Tensor | None = None, reverse: bool = False) -> DGLGraph:
        """A bipartite DGL block of the candidate edges, or of those in the mask ``real`` (E_s,)."""
        ends = (self.src, self.dst) if real is None else tuple(end.int() for end in self.ends.of(real))
        sizes = self.shape[::-1]
        if reverse:
            ends, sizes = ends[::-1], sizes[::-1]
        with torch.device("cpu"):  # DGL makes tensors on torch's default device
            block = load("the backend 'dgl'").create_block(ends, num_src_nodes=sizes[0], num_dst_nodes=sizes[1])
            block.create_formats_()
        return block

    def on(self, name: str, device: torch.device) -> torch.Tensor:
        """``which``, ``position``, ``slots``, ``src`` or ``dst`` on a device, kept for the next call."""
        key = f"{name} on {device}"
        if key not in self._kept:
            with torch.inference_mode(False):  # it must serve training too
                self._kept[key] = getattr(self, name).to(device)
        return self._kept[key]

    def values(self, per_edge: torch.Tensor) -> torch.Tensor:
        """The entries of an (E,) tensor that belong to this stage, (E_s,)."""
        if isinstance(self.which, slice):
            return per_edge[self.which]
        return per_edge[self.on("which", per_edge.device)]

    def weight(self, selection: Selection) -> torch.Tensor:
        """The effective weights of this stage's edges, (E_s,)."""
        return selection.of(self.which) if isinstance(self.which, slice) else self.values(selection.weight)

    def matrix(self, values: torch.Tensor) -> torch.Tensor:
        """Values of this stage's edges, (E_s,), as its dense matrix [dst, src]."""
        if self.is_full_matrix:
            return values.view(self.shape)
        dense = values.new_zeros(self.shape[0] * self.shape[1])
        return dense.index_put((self.on("position", values.device),), values).view(self.shape)
