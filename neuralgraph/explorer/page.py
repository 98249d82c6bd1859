"""The explorer's page: one file that needs nothing else."""

from __future__ import annotations

import base64
import json
import math
from html import escape
from importlib import resources

import numpy as np

from ..errors import InputError, MissingPackageError
from .sources import Source

SHADES = 6  # of each sign
WIDTHS = (0.5, 0.8, 1.1, 1.5, 2.0, 2.8)  # of the shades, pixels
POSITIVE, NEGATIVE, LIT = "#0072B2", "#D55E00", "#E69F00"
CURVES = {"turnover": "turnover (new, share)", "threshold": "threshold (|weight|)",
          "dead": "dead nodes", "accuracy": "test accuracy (%)"}


def page(sources: list[Source], addresses: list[str | None] | None = None, classes: dict | None = None) -> str:
    """A self-contained HTML page that shows one source, or two side by side.

    Args:
        sources: one or two.
        addresses: of each, where the page finds its history while it grows; None for one that is in the page.
        classes: of a single source, what :func:`~neuralgraph.explorer.classes.describe_classes` says.

    Raises:
        MissingPackageError: without Bokeh.
    """
    if not 1 <= len(sources) <= 2:
        raise InputError(f"one thing can be explored, or two side by side, got {len(sources)}.")
    try:
        from bokeh.embed import components
        from bokeh.resources import INLINE
    except ImportError:
        raise MissingPackageError("the explorer", "bokeh", "explore") from None
    figures = {}
    for number in range(len(sources)):
        figures[f"graph{number}"] = _graph(number)
        figures[f"matrix{number}"] = _matrix(number)
    for name, title in CURVES.items():
        figures[name] = _curve(name, title, len(sources))
    figures["weights"] = _histogram("weights", "edges by weight")
    figures["degrees"] = _histogram("degrees", "degrees: in, out (line)")
    script, places = components(figures)
    data = [{"title": source.title, "graphs": [graph.to_json() for graph in source.graphs], "unit": source.unit,
             "metrics": [finite(row) for row in source.metrics], "notes": source.notes, "address": address, "classes": classes,
             "content": None if address else base64.b64encode(source.history).decode()}
            for source, address in zip(sources, addresses or [None] * len(sources))]
    sides = "".join(_SIDE.format(number=number, title=escape(source.title), graph=places[f"graph{number}"],
                                 matrix=places[f"matrix{number}"]) for number, source in enumerate(sources))
    charts = "".join(f'<div class="chart {"curve" if name in CURVES else ""}">{places[name]}</div>'
                     for name in (*CURVES, "weights", "degrees"))
    return _own("explorer.html").format(
        title=escape(" | ".join(source.title for source in sources)), style=_own("explorer.css"), sides=sides,
        charts=charts, bokeh="\n".join([INLINE.render_css(), INLINE.render_js()]), script=script,
        data=_json(data), code=_own("explorer.js"), count=len(sources))


def _own(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _json(data: object) -> str:
    """JSON that no parser of HTML takes for markup."""
    text = json.dumps(data, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def finite(row: dict) -> dict:
    """A row of metrics as JSON has numbers."""
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


_SIDE = """<section class="side" data-side="{number}"><h2>{title}</h2>
<div class="graph">{graph}</div><div class="matrix">{matrix}</div></section>"""


# Figures: what they show is put in by the page's own script


def _figure(name: str, **options):
    from bokeh.plotting import figure

    made = figure(name=name, toolbar_location=options.pop("toolbar_location", None), sizing_mode="stretch_both",
                  min_border=4, **options)
    made.toolbar.logo = None
    return made


def _lines(made, name: str, colour: str, width: float, alpha: float) -> None:
    from bokeh.models import ColumnDataSource

    source = ColumnDataSource({"x": [], "y": []}, name=name)
    made.line("x", "y", source=source, color=colour, line_width=width, alpha=alpha).glyph.name = f"look-{name}"


def _graph(side: int):
    from bokeh.models import ColumnDataSource, HoverTool, Range1d, TapTool

    made = _figure(f"graph-{side}", x_range=Range1d(start=-0.03, end=1.03), y_range=Range1d(start=1.03, end=-0.03),
                   tools="pan,wheel_zoom,box_zoom,reset,save", active_scroll="wheel_zoom", toolbar_location="above")
    made.axis.visible = made.grid.visible = False
    for sign, colour in (("p", POSITIVE), ("n", NEGATIVE)):
        for shade, width in enumerate(WIDTHS):
            _lines(made, f"edges-{side}-{sign}{shade}", colour, width, 0.25 + 0.7 * shade / (SHADES - 1))
    _lines(made, f"lit-{side}", LIT, 2.5, 0.9)
    nodes = ColumnDataSource({name: [] for name in ("x", "y", "colour", "alpha", "size", "label", "degrees")},
                             name=f"nodes-{side}")
    drawn = made.scatter("x", "y", source=nodes, size="size", color="colour", alpha="alpha", line_color=None)
    drawn.nonselection_glyph = drawn.selection_glyph = None
    made.add_tools(HoverTool(renderers=[drawn], tooltips=[("node", "@label"), ("edges", "@degrees")]),
                   TapTool(renderers=[drawn]))
    return made


def _matrix(side: int):
    from bokeh.models import ColumnDataSource, Range1d

    made = _figure(f"matrix-{side}", x_range=Range1d(start=-1, end=1), y_range=Range1d(start=1, end=-1),
                   title="adjacency [to, from]", tools="pan,wheel_zoom,reset")
    made.grid.visible = False
    source = ColumnDataSource({"image": [np.zeros((1, 1), np.uint32)], "size": [1]}, name=f"matrix-image-{side}")
    made.image_rgba("image", x=-0.5, y=-0.5, dw="size", dh="size", source=source)
    return made


def _chart(name: str, title: str):
    """Its ranges follow what is put in."""
    from bokeh.models import Range1d

    return _figure(f"chart-{name}", title=title, tools="", x_range=Range1d(start=0, end=1), y_range=Range1d(start=0, end=1))


def _curve(name: str, title: str, sides: int):
    from bokeh.models.annotations import Span

    made = _chart(name, title)
    for side in range(sides):
        _lines(made, f"{name}-{side}", (POSITIVE, "#009E73")[side], 1.8, 1.0)
    made.add_layout(Span(location=0, dimension="height", line_color=LIT, line_width=2, name=f"head-{name}"))
    return made


def _histogram(name: str, title: str):
    from bokeh.models import ColumnDataSource
    from bokeh.models.annotations import Span

    made = _chart(name, title)
    bars = ColumnDataSource({"left": [], "right": [], "top": [], "colour": []}, name=name)
    made.quad(left="left", right="right", top="top", bottom=0, fill_color="colour", line_color=None, source=bars)
    if name == "degrees":
        outline = ColumnDataSource({"x": [], "y": []}, name="degrees-out")
        made.step("x", "y", source=outline, color=NEGATIVE, line_width=2, mode="center")
    else:
        for sign in ("low", "high"):
            made.add_layout(Span(location=0, dimension="height", line_color=LIT, line_dash="dashed", line_width=2,
                                 name=f"threshold-{sign}"))
    return made
