"""A figure that shows itself in a notebook, whether or not pyplot is there."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

CSS_PIXELS = 96  # per inch


class ShownFigure(Figure):
    """A figure of no window and no global state.

    Jupyter draws figures once pyplot has been imported, and at the end of a cell those that pyplot made; this one
    is drawn, once, where it is the value of a cell, with or without pyplot.
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        content = io.BytesIO()
        self.savefig(content, format="png")
        width, height = (round(CSS_PIXELS * side) for side in self.get_size_inches())
        return content.getvalue(), {"width": width, "height": height}
