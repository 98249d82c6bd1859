"""What a wiring looks like: dead nodes, degrees, paths, and how it changes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .._html import facts
from ..wiring import Wiring
from ..wiring.paths import longest_path_levels
from ..wiring.wiring import INPUT, OUTPUT


@dataclass(frozen=True)
class DeadNodes:
    """Nodes that real edges leave aside.

    Args:
        no_in: a mask (V,) of nodes that are no inputs and have no real in-edge: a constant.
        no_out: a mask (V,) of nodes that are no outputs and have no real out-edge: never read.
    """

    no_in: torch.Tensor
    no_out: torch.Tensor

    @property
    def count(self) -> int:
        """Nodes that are either."""
        return int((self.no_in | self.no_out).sum())

    def _repr_html_(self) -> str:
        return facts({"without in-edge": int(self.no_in.sum()), "without out-edge": int(self.no_out.sum()),
                      "either": self.count, "of": len(self.no_in)}, "dead nodes")


def degrees(wiring: Wiring, real: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """In- and out-degree of every node, each (V,), over all edges or those of the mask ``real``."""
    src, dst = (wiring.src, wiring.dst) if real is None else wiring.ends.of(real.cpu())
    return (torch.bincount(dst, minlength=wiring.num_nodes),
            torch.bincount(src, minlength=wiring.num_nodes))


def dead_nodes(wiring: Wiring, real: torch.Tensor | None = None) -> DeadNodes:
    """The nodes without real in-edge or out-edge (one pass, as the authors count them).

    >>> import neuralgraph as ng
    >>> wiring = ng.wirings.blocks([1, 2, 1])
    >>> dead = dead_nodes(wiring, torch.tensor([True, False, True, True, False]))
    >>> dead.no_in.tolist(), dead.no_out.tolist()
    ([False, False, True, False], [False, False, True, False])
    """
    inward, outward = degrees(wiring, real)
    return DeadNodes(no_in=(inward == 0) & (wiring.role != INPUT),
                     no_out=(outward == 0) & (wiring.role != OUTPUT))


def longest_path(wiring: Wiring) -> int | None:
    """The number of edges of the longest path, or None if the wiring has cycles."""
    outline = wiring.ends.outline(wiring.num_nodes)
    levels = longest_path_levels(outline.ends)
    return None if levels is None else int(levels.max())


def block_counts(wiring: Wiring) -> dict[tuple[int, int], int]:
    """The number of edges from block i to block j, {(i, j): count}.

    >>> import neuralgraph as ng
    >>> block_counts(ng.wirings.blocks([2, 3, 1]))
    {(0, 1): 6, (0, 2): 2, (1, 2): 3}
    """
    ends = torch.stack([wiring.block[wiring.src], wiring.block[wiring.dst]], dim=1)
    pairs, counts = ends.unique(dim=0, return_counts=True)
    return {tuple(pair): count for pair, count in zip(pairs.tolist(), counts.tolist())}
