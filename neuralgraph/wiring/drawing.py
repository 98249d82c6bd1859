"""A small picture of a wiring, for notebooks."""

from __future__ import annotations

import torch

from .._html import text
from .layout import layout
from .reading import INPUT, OUTPUT
from .wiring import Wiring

MOST_EDGES = 1500
WIDTH, HEIGHT, MARGIN = 560, 300, 14  # pixels
POSITIVE, NEGATIVE, PLAIN = "#0072B2", "#D55E00", "#888888"
NODES = {INPUT: "#009E73", OUTPUT: "#CC79A7"}


def picture(wiring: Wiring, title: str | None = None) -> str:
    """An HTML fragment: the wiring drawn as SVG, its title below.

    Edges are blue where the weight is above 0 and red below, the stronger the darker; of more than 1,500 the strongest
    are drawn (without weights every so many). Inputs are green, outputs violet, nodes without edges pale.

    Args:
        wiring: what to draw.
        title: instead of its ``repr``.
    """
    number = wiring.num_edges
    size = torch.ones(number) if wiring.weight is None else wiring.weight.abs().float()
    drawn, more = edges_to_draw(wiring, MOST_EDGES)
    drawn, more = drawn.tolist(), more and f"; {more}"
    strength = torch.zeros(number)
    strength[drawn] = size[drawn]
    position = layout(wiring, strength)
    x, y = (MARGIN + position[:, 0] * (WIDTH - 2 * MARGIN)).tolist(), (MARGIN + position[:, 1] * (HEIGHT - 2 * MARGIN)).tolist()
    src, dst = wiring.src.tolist(), wiring.dst.tolist()
    most = float(size.max()) if number else 1.0
    lines = []
    for edge in drawn:
        colour = PLAIN if wiring.weight is None else POSITIVE if wiring.weight[edge] > 0 else NEGATIVE
        u, v, opacity = src[edge], dst[edge], 0.15 + 0.75 * (float(size[edge]) / most if most else 0.0)
        lines.append(f'<line x1="{x[u]:.1f}" y1="{y[u]:.1f}" x2="{x[v]:.1f}" y2="{y[v]:.1f}" stroke="{colour}" '
                     f'stroke-opacity="{opacity:.2f}"/>')
    live = set(src) | set(dst)
    radius = max(1.0, min(4.0, 0.35 * HEIGHT / max(1, int(torch.bincount(wiring.block).max()))))
    circles = [f'<circle cx="{x[v]:.1f}" cy="{y[v]:.1f}" r="{radius:.1f}" fill="{NODES.get(role, "#666666")}" '
               f'fill-opacity="{1 if v in live else 0.3}"><title>{text(wiring.label(v))}</title></circle>'
               for v, role in enumerate(wiring.role.tolist())]
    return (f'<figure style="margin:0"><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}">{"".join(lines)}{"".join(circles)}</svg>'
            f"<figcaption>{text(title or repr(wiring))}{more}</figcaption></figure>")


def edges_to_draw(wiring: Wiring, most: int) -> tuple[torch.Tensor, str]:
    """Numbers of at most so many edges, the strongest last and thus on top; and words for what is left out."""
    number = wiring.num_edges
    if wiring.weight is None:
        drawn = torch.arange(number) if number <= most else torch.arange(most) * number // most
    else:
        drawn = wiring.weight.abs().argsort(descending=True, stable=True)[:most].flip(0)
    if number <= most:
        return drawn, ""
    return drawn, f"{most:,} of them drawn" if wiring.weight is None else f"the {most:,} strongest edges drawn"
