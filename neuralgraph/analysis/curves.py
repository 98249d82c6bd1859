"""The lines of a drawn graph: straight where that can be followed, bent where it cannot."""

from __future__ import annotations

import numpy as np

POINTS = 33  # of a bent line
MOST_AROUND = 25  # nodes of a column, up to which there is room between them
CLOSE = 0.015  # heights of a line and of a node that it would seem to run through
LOOP = 0.11  # radius of a loop, inches
HEAD = 0.085, 0.03  # length and half width of an arrow's head, inches


def between_columns(place: np.ndarray, src: np.ndarray, dst: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Edges from left to right as points (E, 33, 2); those that would run through a node between bend around it,
    if there is room.

    Args:
        place: position of every node, (V, 2), from 0 to 1, in columns.
        src, dst: of every edge, (E,).
        live: the nodes that are drawn, bool (V,).
    """
    start, end = place[src], place[dst]
    bend = np.zeros(len(src))
    for x in np.unique(place[:, 0])[1:-1]:
        passing = ((start[:, 0] < x) & (x < end[:, 0])).nonzero()[0]
        heights = np.sort(place[live & (place[:, 0] == x), 1])
        if not 0 < len(heights) <= MOST_AROUND or not len(passing):
            continue
        share = (x - start[passing, 0]) / (end[passing, 0] - start[passing, 0])
        height = start[passing, 1] * (1 - share) + end[passing, 1] * share
        right = np.searchsorted(heights, height).clip(1, len(heights) - 1) if len(heights) > 1 else np.zeros_like(passing)
        distance = np.minimum(abs(heights[right] - height), abs(heights[right - 1] - height))
        bend[passing[distance < CLOSE]] = 1.0
    length = end[:, 0] - start[:, 0]
    side = np.where(src % 2 == 0, 1.0, -1.0)  # both, so that lines of neighbours part
    middle = (start + end) / 2
    middle[:, 1] += bend * side * (0.04 + 0.25 * length)
    return _bezier(start, middle, end)


def any_way(place: np.ndarray, src: np.ndarray, dst: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Edges in any direction as points (E, 33, 2), all bent to the same side, so that u -> v and v -> u are two lines.

    Args:
        place, src, dst: as for :func:`between_columns`.
        size: of the picture, inches.
    """
    scale = np.asarray(size)
    start, end = place[src] * scale, place[dst] * scale
    along = end - start
    lines = _bezier(start, (start + end) / 2 + 0.14 * np.stack([along[:, 1], -along[:, 0]], 1), end)
    loops = src == dst
    angle = np.linspace(0.5, 2.5, POINTS) * np.pi
    ring = LOOP * np.stack([np.cos(angle), np.sin(angle) - 1], 1)
    lines[loops] = start[loops, None] + ring
    return lines / scale


def heads(lines: np.ndarray, size: tuple[float, float], radius: float) -> np.ndarray:
    """The triangles of arrows at the ends of lines, (E, 3, 2).

    Args:
        lines: from :func:`any_way`.
        size: of the picture, inches.
        radius: of the nodes, inches, at which they end.
    """
    scale = np.asarray(size)
    lines = lines * scale
    far = np.linalg.norm(lines - lines[:, -1:], axis=2)  # from the end
    before = POINTS - 1 - (far[:, ::-1] > radius + HEAD[0]).argmax(1)  # the last point that is outside
    back = lines[np.arange(len(lines)), before]
    along = lines[:, -1] - back
    along /= np.linalg.norm(along, axis=1, keepdims=True).clip(min=1e-9)
    across = HEAD[1] * np.stack([-along[:, 1], along[:, 0]], 1)
    tip = lines[:, -1] - radius * along
    base = tip - HEAD[0] * along
    return np.stack([tip, base + across, base - across], 1) / scale


def _bezier(start: np.ndarray, middle: np.ndarray, end: np.ndarray) -> np.ndarray:
    t = np.linspace(0, 1, POINTS)[None, :, None]
    return (1 - t)**2 * start[:, None] + 2 * t * (1 - t) * middle[:, None] + t**2 * end[:, None]
