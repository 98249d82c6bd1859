"""Which row of a workspace each node's map has: nodes that are not needed at the same time share them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..plan import Plan, reduced


def num_nodes(plan: Plan) -> int:
    """One more than the largest number of a node."""
    return 1 + max((int(group.nodes.max()) for group in (*plan.groups, *plan.before)), default=0)


def lifetimes(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """The level at which each node is computed, and the last one at which its map is needed; (count,) each."""
    level = np.zeros(num_nodes(plan), int)
    for group in plan.groups:
        level[group.nodes] = group.level
    last = level.copy()
    np.maximum.at(last, plan.src, level[plan.dst])
    return level, last


def largest_level(plan: Plan, space: tuple[int, ...]) -> int:
    """Numbers, per sample, of all maps that are needed at the same time, where they are most."""
    level, last = lifetimes(plan)
    size = np.zeros(len(level))
    for group in plan.groups:
        if group.outputs is None:
            size[group.nodes] = math.prod(reduced(space, group.scale * group.stride))
    change = np.zeros(2 + level.max(initial=0))
    np.add.at(change, level, size)
    np.subtract.at(change, last + 1, size)
    return max(1, int(change.cumsum().max()))


def popped(free: list) -> Any:
    """One of them, or None; another thread may take the last at any moment."""
    try:
        return free.pop()
    except IndexError:
        return None


class Rows:
    """Rows of a workspace, taken and given back; all numbers are in units of LANES."""

    def __init__(self) -> None:
        self.size = 0
        self.gaps: list[tuple[int, int]] = []  # from, to: ascending, none touches the next

    def take(self, size: int, number: int) -> np.ndarray:
        """Where so many rows begin: in gaps, the lowest first, then at the end."""
        rows, gaps = [np.zeros(0, np.int64)], []
        for begin, end in self.gaps:
            here = min(number, (end - begin) // size)
            rows.append(begin + size * np.arange(here))
            number -= here
            if begin + size * here < end:
                gaps.append((begin + size * here, end))
        self.gaps = gaps
        rows.append(self.size + size * np.arange(number))
        self.size += size * number
        return np.concatenate(rows)

    def give(self, size: int, rows: np.ndarray) -> None:
        begin = np.sort(np.concatenate([rows, *([b] for b, _ in self.gaps)]))
        ends = dict(self.gaps)
        gaps: list[tuple[int, int]] = []
        for start in begin.tolist():
            end = ends.get(start, start + size)
            if gaps and gaps[-1][1] == start:
                gaps[-1] = gaps[-1][0], end
            else:
                gaps.append((start, end))
        self.gaps = gaps
