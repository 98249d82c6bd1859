"""What notebooks show of results: small tables and curves, as HTML that holds nothing but text and lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from ._files import printable

LONGEST = 200  # characters of a text
MOST_ROWS = 30  # of a table; of more, the first and the last
WIDTH, HEIGHT = 280, 130  # of a curve, pixels
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
CELL = "padding:1px 8px;text-align:"


def text(value: object, most: int = LONGEST) -> str:
    """A value as text in HTML, whatever is in it; of a long one the beginning.

    >>> text("<b>" + "x" * 300, most=6)
    '&lt;b&gt;xx…'
    """
    if isinstance(value, float):
        value = f"{value:.5g}"
    elif isinstance(value, int) and not isinstance(value, bool):
        value = f"{value:,}"
    shown = printable(str(value)[:most + 1])
    return escape(shown if len(shown) <= most else shown[:most - 1] + "…")


def table(head: Sequence[str], rows: Sequence[Sequence[object]], title: object = None, notes: Sequence[str] = ()) -> str:
    """A table; columns that hold nothing but numbers stand to the right. Its title is above, and lines of notes below.

    Args:
        head: names of the columns; empty for none.
        rows: of cells; None is left empty.
        title: above it.
        notes: below it.
    """
    left_out = len(rows) - MOST_ROWS
    if left_out > 0:
        rows = [*rows[:MOST_ROWS // 2], *rows[-(MOST_ROWS // 2):]]
    sides = ["right" if all(value is None or _is_number(value) for value in column) else "left" for column in zip(*rows)]
    lines = ["".join(f'<td style="{CELL}{side}">{"" if value is None else text(value)}</td>'
                     for value, side in zip(row, sides)) for row in rows]
    if left_out > 0:
        lines.insert(MOST_ROWS // 2, f'<td colspan="{len(sides)}" style="{CELL}left">… {left_out:,} more …</td>')
    top = "".join(f'<th style="{CELL}{side}">{text(name)}</th>' for name, side in zip(head, sides or ["left"] * len(head)))
    return ('<div>' + ("" if title is None else f"<div><b>{text(title)}</b></div>") + "<table>"
            + (f"<thead><tr>{top}</tr></thead>" if head else "")
            + f"<tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"
            + "".join(f"<div>{text(note)}</div>" for note in notes) + "</div>")


def facts(pairs: Mapping[str, object], title: object = None, notes: Sequence[str] = ()) -> str:
    """A table of names and values; those that are None are left out."""
    return table((), [(name, value) for name, value in pairs.items() if value is not None], title, notes)


def curve(lines: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str) -> str:
    """Curves over an axis, as SVG, with the least and greatest numbers at the axes.

    Args:
        lines: (x, y) of every point, by the name of the curve; points that are not finite are left out.
        across, up: what the axes are of.
    """
    lines = {name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in lines.items()}
    every = [point for points in lines.values() for point in points]
    if not every:
        return ""
    (left, right), (low, high) = ((min(values), max(values)) for values in zip(*every))
    inside = 46, 8, WIDTH - 8, HEIGHT - 32  # left, top, right, bottom
    wide, tall = (right - left) or 1.0, (high - low) or 1.0
    drawn = []
    for number, (name, points) in enumerate(lines.items()):
        places = [(inside[0] + (x - left) / wide * (inside[2] - inside[0]),
                   inside[3] - (y - low) / tall * (inside[3] - inside[1])) for x, y in points]
        colour = COLOURS[number % len(COLOURS)]
        drawn.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="'
                     + " ".join(f"{x:.1f},{y:.1f}" for x, y in places) + f'"><title>{text(name)}</title></polyline>')
        if places:
            drawn.append(f'<circle cx="{places[-1][0]:.1f}" cy="{places[-1][1]:.1f}" r="2.5" fill="{colour}"/>')
    words = [_label(inside[0] - 4, inside[3], "end", f"{low:.3g}"),
             _label(inside[0] - 4, inside[1] + 6, "end", f"{high:.3g}"),
             _label(inside[0], inside[3] + 13, "start", f"{left:.4g}"),
             _label(inside[2], inside[3] + 13, "end", f"{right:.4g}"),
             _label((inside[0] + inside[2]) / 2, HEIGHT - 6, "middle", f"{text(up)} over {text(across)}")]
    if len(lines) > 1:
        words += [_label(inside[2], inside[1] + 12 * (number + 1), "end", text(name, most=24), COLOURS[number % len(COLOURS)])
                  for number, name in enumerate(lines)]
    frame = f'<path d="M{inside[0]} {inside[1]}V{inside[3]}H{inside[2]}" fill="none" stroke="#888888"/>'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            f'font-size="10" fill="currentColor">{frame}{"".join(drawn)}{"".join(words)}</svg>')


def beside(*parts: str) -> str:
    """Parts in a row, as far as there is room; empty if all of them are."""
    shown = "".join(f"<div>{part}</div>" for part in parts if part)
    return shown and f'<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start">{shown}</div>'


def _label(x: float, y: float, anchor: str, what: str, colour: str = "currentColor") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{what}</text>'


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
