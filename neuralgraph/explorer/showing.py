"""Exploring: a page as a file, in a notebook, or live from a run that trains."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from .._files import replace
from ..analysis import Attribution, Circuit, NullModel
from ..errors import InputError
from .classes import describe_classes
from .page import page
from .sources import Shown, source_of


class Exploration:
    """A page that shows itself in a notebook.

    Args:
        html: the page.
        path: where it was written to, if it was.
    """

    def __init__(self, html: str, path: Path | None):
        self.html, self.path = html, path

    def _repr_html_(self) -> str:
        return (f'<iframe srcdoc="{escape(self.html, quote=True)}" style="width:100%;height:720px;border:0" '
                'title="neuralgraph explorer"></iframe>')

    def __repr__(self) -> str:
        return f"Exploration({'not written' if self.path is None else self.path})"


def explore(*what: Shown, out: str | Path | None = None,
            attributions: Mapping[str, tuple[Attribution, ...]] | None = None,
            circuits: Mapping[str, Circuit] | None = None,
            null_models: Mapping[str, NullModel] | None = None) -> Exploration:
    """An interactive page of a wiring and how it formed: one HTML file that works without a network.

    Space plays, the arrow keys step through the recorded moments; filters, a search by label, the adjacency
    matrix, weights, degrees, turnover and accuracy follow the play head; a click pins a node and lights all paths through
    it. Beyond 20,000 edges in sight these are bundled until one zooms in.

    Args:
        what: the folder of a run, a history's file or :class:`~neuralgraph.rewiring.History`, a model, a network or a
            wiring; two to see them side by side at the same time.
        attributions: by name, such as that of a class, what :func:`neuralgraph.analysis.attribution` found in the model
            at the end: edges and nodes are coloured and sized by them.
        circuits: by name, what :func:`neuralgraph.analysis.circuit` found: shown alone, with their overlaps.
        null_models: by name, what :func:`neuralgraph.analysis.null_model` found: a table beside the graph.
        out: the file to write; by default none, for notebooks, where the result shows itself.

    Returns:
        The page.

    Raises:
        InputError: for something without a graph, more than 3,000,000 edges, attributions of another model, or a
            file that cannot be written.
        CheckpointError: for a damaged run or history.
        MissingPackageError: without Bokeh (``pip install 'neuralgraph[explore]'``).
    """
    sources = [source_of(one) for one in what]
    classes = None
    if attributions or circuits or null_models:
        if len(sources) != 1:
            raise InputError("attributions, circuits and null models belong to one model: explore it alone.")
        classes = describe_classes(sources[0], attributions or {}, circuits or {}, null_models or {})
    html = page(sources, classes=classes)
    path = None if out is None else Path(out)
    if path is not None:
        try:
            if not path.parent.is_dir():
                raise InputError(f"there is no folder {path.parent} to write {path.name} into.")
            replace(path, html.encode())
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}.") from error
    return Exploration(html, path)
