"""Drawings of wirings and of training, as matplotlib figures (``pip install 'neuralgraph[plot]'``).

Every function returns a :class:`matplotlib.figure.Figure`, which shows itself in a notebook;
``figure.savefig("name.png")`` keeps it (``.pdf`` and ``.svg`` too). No window is opened and nothing of
matplotlib's global state is touched.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._files import printable
from ..errors import InputError, MissingPackageError
from ..networks import NeuralGraph
from ..wiring import Wiring, layout
from ..wiring.drawing import edges_to_draw
from ..wiring.wiring import HIDDEN, INPUT, OUTPUT
from . import curves
from .structure import degrees

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["adjacency", "arena", "degree_histograms", "graph", "learning_curves", "rewiring", "weight_histogram"]

# Okabe and Ito's palette, told apart by all kinds of colour vision, and line styles beside it
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
REAL, HALLUCINATED = COLOURS[0], COLOURS[4]
LEGEND_WIDTH = 110  # characters
MOST_NAME = 60  # characters of a title
BINS = 60  # of the weights on either side of 0, about
LABELS_APART = 1 / 20  # of an axis, between two labels
MOST_LINES = 2000  # of a drawn graph
MOST_INK = 0.5  # of a drawn graph: times that all its lines would cover it


def __dir__() -> list[str]:
    return __all__


def learning_curves(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Test accuracy and training loss of every run over its epochs.

    Args:
        runs: name of each run to its metrics, one mapping per epoch as ``metrics.csv`` has them.
    """
    if not runs:
        raise InputError("there is no run to draw.")
    named = f"{len(runs)} runs" if len(runs) > 1 else next(iter(runs))
    runs = {_text(name): rows for name, rows in runs.items()}
    columns = max(1, min(len(runs), LEGEND_WIDTH // (max(map(len, runs)) + 8)))
    figure = _figure(10, 4.5 + 0.2 * -(-len(runs) // columns), named, "learning curves")
    for axes, name, title in zip(figure.subplots(1, 2), ("test_accuracy", "train_loss"),
                                 ("test accuracy (%)", "training loss (cross-entropy, nats)")):
        for number, (label, rows) in enumerate(runs.items()):
            axes.plot([row["epoch"] for row in rows], [row[name] for row in rows], label=label,
                      color=COLOURS[number % len(COLOURS)], marker=_marker(rows), markersize=3,
                      linestyle=STYLES[number // len(COLOURS) % len(STYLES)], linewidth=1.4)
        _epochs(axes, max((len(rows) for rows in runs.values()), default=0))
        axes.set_ylabel(title)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False,
                  fontsize=9)
    return figure


def rewiring(rows: Sequence[Mapping[str, float]], name: str | None = None) -> Figure:
    """The threshold, and how many edges were swapped for others, over the epochs of a run.

    Args:
        rows: its metrics, one mapping per epoch as ``metrics.csv`` has them.
        name: of the run, for the title.
    """
    figure = _figure(10, 4.3, name, "rewiring")
    epochs = [row["epoch"] for row in rows]
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [row["threshold"] for row in rows], color=COLOURS[0], marker=_marker(rows), markersize=3)
    left.set_ylabel("threshold (least |weight| of a real edge)")
    _from_zero(left)
    right.bar(epochs, [row["swapped_edges"] for row in rows], color=COLOURS[1])
    _from_zero(right, top=1.0)
    right.set_ylabel("edges swapped since the epoch before")
    right.yaxis.get_major_locator().set_params(integer=True)
    for axes in (left, right):
        _epochs(axes, len(rows))
    return figure


def adjacency(wiring: Wiring | NeuralGraph, name: str | None = None) -> Figure:
    """The adjacency matrix, [dst, src] as everywhere here: a dot per edge, nodes ordered by block.

    Lines mark where blocks begin, their numbers stand along the sides.

    Args:
        wiring: a learned wiring, say, or a network, of which the real edges are drawn.
        name: of it, for the title.
    """
    wiring = _learned(wiring)
    order = wiring.block.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    figure = _figure(6.8, 7.3, name, "adjacency matrix")
    axes = figure.subplots()
    # squared points: neighbouring nodes' dots touch, and a few dots among many nodes are seen
    size = max((320 / wiring.num_nodes)**2, min(6.0, 12_000 / max(1, wiring.num_edges)), 0.5)
    axes.scatter(place[wiring.src], place[wiring.dst], s=size, marker="s", linewidths=0,
                 color=COLOURS[0], rasterized=True)
    blocks, sizes = wiring.block.unique(return_counts=True)  # numbers of blocks may be anything
    ends = sizes.cumsum(0)
    for end in ends[:-1].tolist():
        axes.axhline(end - 0.5, color="0.6", linewidth=0.6)
        axes.axvline(end - 0.5, color="0.6", linewidth=0.6)
    middles = (ends - sizes / 2).tolist()
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        _label_sparsely(set_ticks, middles, blocks.tolist(), least=LABELS_APART * wiring.num_nodes)
    axes.set(xlim=(-0.5, wiring.num_nodes - 0.5), ylim=(wiring.num_nodes - 0.5, -0.5), aspect="equal",
             xlabel="from block", ylabel="to block",
             title=f"{wiring.num_edges:,} edges between {wiring.num_nodes:,} nodes")
    axes.tick_params(length=0)
    return figure


def graph(wiring: Wiring | NeuralGraph, name: str | None = None) -> Figure:
    """The nodes and edges, laid out by blocks or by forces (see :func:`neuralgraph.wiring.layout`).

    Edges are blue where the weight is above 0 and orange below, the stronger the darker and the thicker (grey without
    weights); inputs are green, outputs violet, nodes without edges left out. Blocks are columns, and an edge that would
    run through a node on its way bends around it. Where edges lead back, all bend to the same side and, up to 1,000 of
    them, end in arrows. Of more than 2,000 edges the strongest are drawn (without weights every so many).

    Args:
        wiring: a learned wiring, say, or a network, of which the real edges are drawn.
        name: of it, for the title.
    """
    wiring = _learned(wiring)
    inward, outward = degrees(wiring)
    live = (inward + outward > 0).numpy()
    size = 9.0, 6.0
    figure = _figure(size[0], size[1] + 0.8, name, "graph")
    axes = figure.subplots()
    drawn, left_out = edges_to_draw(wiring, MOST_LINES)
    place, src, dst = layout(wiring).double().numpy(), wiring.src[drawn].numpy(), wiring.dst[drawn].numpy()
    is_layered = bool((wiring.block[wiring.src] < wiring.block[wiring.dst]).all())
    if is_layered:
        lines = curves.between_columns(place, src, dst, live)
    else:
        lines = curves.any_way(place, src, dst, size)
    per_column = max(Counter(place[live, 0].tolist()).values(), default=1) if is_layered else live.sum()**0.5
    diameter = min(7.0, max(2.0, 0.6 * 72 * size[1] / max(1, per_column)))  # points
    weight = None if wiring.weight is None else wiring.weight[drawn].float().numpy()
    _draw_edges(axes, weight, lines, size, arrows=diameter / 144 if len(src) <= 1000 and not is_layered else None)
    for role, title, colour in ((HIDDEN, "hidden node", "0.25"), (INPUT, "input", COLOURS[2]), (OUTPUT, "output", COLOURS[3])):
        nodes = place[(wiring.role == role).numpy() & live]
        if len(nodes):
            axes.scatter(*nodes.T, s=diameter**2, color=colour, zorder=3, linewidths=0.4, edgecolors="white", label=title)
    axes.set(xlim=(-0.02, 1.02), yticks=[],
             title=f"{wiring.num_edges:,} edges between {int(live.sum()):,} live of {wiring.num_nodes:,} nodes"
                   + (left_out and f"; {left_out}"))
    axes.margins(y=0.02)
    axes.autoscale_view(scalex=False)
    axes.invert_yaxis()
    axes.set_xticks([])
    if is_layered:
        axes.set_xlabel("block")
        _label_sparsely(axes.set_xticks, place[:, 0].tolist(), wiring.block.tolist(), least=LABELS_APART)
        axes.tick_params(length=0)
    axes.set_frame_on(False)
    handles, titles = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, titles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def _draw_edges(axes, weight: np.ndarray | None, lines: np.ndarray, size: tuple[float, float], arrows: float | None) -> None:
    """The edges of :func:`graph`, the last on top; with arrows that end at nodes of this radius, inches."""
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.lines import Line2D
    if not len(lines):
        return
    if weight is None:
        share, kinds = np.full(len(lines), 0.5), {"edge": ("0.45", np.ones(len(lines), bool))}
    else:
        strong = float(np.quantile(abs(weight), 0.98)) or 1.0  # a few may be much stronger than all others
        share = (abs(weight) / strong).clip(max=1.0)
        kinds = {"weight above 0": (COLOURS[0], weight > 0), "weight below 0": (COLOURS[1], weight <= 0)}
    width, alpha = 0.3 + 1.5 * share, 0.15 + 0.75 * share
    length = np.linalg.norm(np.diff(lines, axis=1) * np.asarray(size), axis=2).sum(1)
    ink = float((length * width / 72 * alpha).sum() / (size[0] * size[1]))
    alpha *= min(1.0, MOST_INK / max(ink, 1e-9))
    colours = np.empty(len(lines), dtype=object)
    for title, (colour, which) in kinds.items():
        colours[which] = colour
        if which.any():
            axes.add_line(Line2D([], [], color=colour, linewidth=1.8, label=title))
    axes.add_collection(LineCollection(list(lines), colors=colours.tolist(), alpha=alpha, linewidths=width, capstyle="round"))
    axes.update_datalim(lines.reshape(-1, 2))
    if arrows is not None:
        axes.add_collection(PolyCollection(list(curves.heads(lines, size, arrows)), facecolors=colours.tolist(), linewidths=0,
                                           alpha=alpha, zorder=2.5))


def degree_histograms(wiring: Wiring | NeuralGraph, name: str | None = None) -> Figure:
    """How many nodes have how many in-edges and out-edges; dead ones stand at 0.

    Where these are so many that the others would not be seen, the vertical axis is logarithmic.

    Args:
        wiring: a learned wiring, say, or a network, of which the real edges count.
        name: of it, for the title.
    """
    wiring = _learned(wiring)
    inward, outward = degrees(wiring)
    figure = _figure(10, 4.3, name, "degrees")
    for axes, degree, counts, title, colour in zip(
            figure.subplots(1, 2), (inward, outward), (wiring.role != INPUT, wiring.role != OUTPUT),
            ("in-edges of a node (inputs left out)", "out-edges of a node (outputs left out)"), COLOURS):
        degree = degree[counts]
        _histogram(axes, degree, colour)
        axes.set_xlabel(title)
        if len(degree):
            axes.set_title(f"mean {degree.float().mean():.1f}, {int((degree == 0).sum())} nodes at 0",
                           fontsize=10)
    return figure


def weight_histogram(network: NeuralGraph, name: str | None = None) -> Figure:
    """The weights of real and of hallucinated edges, with the threshold between them.

    Bins end at the threshold, the least magnitude of a real edge, so that where edges are ranked by magnitude none
    holds both kinds. The vertical axis is logarithmic: there may be a thousand hallucinated edges for a real one.

    Args:
        network: whose weights are drawn.
        name: of it, for the title.
    """
    selection = network.selection()
    weight, real = network.weight.detach().float().cpu(), selection.real.cpu()
    figure = _figure(8, 4.8, name, "weights")
    axes = figure.subplots()
    threshold = float(weight[real].abs().min()) if real.any() else math.nan
    bins = _bins(weight, threshold)
    for part, label, colour in ((weight[~real], "hallucinated", HALLUCINATED),
                                (weight[real], "real", REAL)):
        if len(part):
            axes.hist(part.numpy(), bins=bins, color=colour, alpha=0.75,
                      label=f"{len(part):,} {label} edges")
    for sign in (-1, 1):
        axes.axvline(sign * threshold, color="0.2", linestyle="--", linewidth=1,
                     label=f"threshold {threshold:.3g}" if sign > 0 else None)
    axes.set(yscale="log", ylim=(0.7, None), xlabel="weight of an edge", ylabel=f"edges, in steps of {bins[-1] - bins[-2]:.2g}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _bins(weight: torch.Tensor, threshold: float) -> np.ndarray:
    """Where bins begin and end: in equal steps, and at the threshold and its negative.

    A bin holds what lies at its left end and not what lies at its right, so ends below 0 are a little nearer to it.
    """
    most = float(weight.abs().max()) if len(weight) else 0.0
    step = (most or 1.0) / BINS
    if threshold >= step / 2:
        step = threshold / round(threshold / step)
    ends = step * np.arange(1, math.ceil(most / step) + 2)  # one beyond the largest weight
    if threshold > 0:
        ends = np.union1d(ends[abs(ends - threshold) > step / 4], [threshold])
    below = np.nextafter(-ends[::-1].astype(np.float32), np.float32(0)).astype(float)
    return np.concatenate([below, [0.0], ends])


def arena(result: Mapping[str, Any]) -> Figure:
    """Contenders one below the other: their test accuracy, its difference to the first, and multiply-adds.

    A dot is a run; a mark with a bar is their mean and standard deviation, and of the differences the mean with
    its bootstrap interval.

    Args:
        result: as ``arena.json`` has it.
    """
    rows = [row for row in result["contenders"] if row["last"]["mean"] is not None]
    if not rows:
        raise InputError("there is no finished run to draw.")
    epochs = f"{result['epochs']} epochs, {len(result['seeds'])} seed{'s' if len(result['seeds']) > 1 else ''}"
    figure = _figure(11, 1.9 + 0.34 * len(rows), f"arena of {result['recipe']}", f"{epochs}, {result['data']['name']}")
    accuracy, difference, adds = figure.subplots(1, 3, sharey=True, width_ratios=(4, 4, 3))
    for place, row in enumerate(rows):
        for axes, mean, low, high in _bars(row, accuracy, difference):
            axes.plot([low, high], [place, place], color=COLOURS[0], linewidth=1.6)
            axes.plot(mean, place, marker="D", color=COLOURS[0], markersize=5)
        runs = [run for run in row["runs"] if run["last"] is not None]
        accuracy.plot([run["last"] for run in runs], [place] * len(runs), linestyle="", marker="o", markersize=4,
                      color=COLOURS[1], alpha=0.6, markeredgewidth=0)
        adds.plot([run["multiply_adds"] for run in runs], [place] * len(runs), linestyle="", marker="o", markersize=4,
                  color=COLOURS[1], alpha=0.6, markeredgewidth=0)
    accuracy.set_yticks(range(len(rows)), [_text(row["label"]) for row in rows])
    accuracy.set(ylim=(len(rows) - 0.4, -0.6), xlabel="test accuracy (%)")
    difference.axvline(0, color="0.4", linewidth=0.8)
    difference.set_xlabel(f"test accuracy against {_text(result['baseline'])} (points)")
    adds.set_xlabel("multiply-adds per image")
    most = [run["multiply_adds"] for row in rows for run in row["runs"] if run["multiply_adds"]]
    if most and max(most) > 10 * min(most):
        adds.set_xscale("log")
    else:
        adds.xaxis.get_major_locator().set_params(nbins=3)
        adds.xaxis.set_major_formatter("{x:,.0f}")
    for axes in (accuracy, difference, adds):
        axes.grid(axis="x", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
    return figure


def _bars(row: Mapping, accuracy, difference):
    """(axes, mean, low, high) of what is known of a contender."""
    mean, std = row["last"]["mean"], row["last"]["std"] or 0.0
    yield accuracy, mean, mean - std, mean + std
    if row["difference"] is not None:
        own = row["difference"]
        low, high = (own["mean"] if own[name] is None else own[name] for name in ("low", "high"))
        yield difference, own["mean"], low, high


def _histogram(axes, degree: torch.Tensor, colour: str) -> None:
    """One bar per degree, or per range of degrees where there are many."""
    top = int(degree.max()) + 1 if len(degree) else 1
    width = -(-top // 120)
    bins = [edge - 0.5 for edge in range(0, top + width, width)]
    counts, _, _ = axes.hist(degree.numpy(), bins=bins, color=colour)
    axes.set_ylabel("nodes" if width == 1 else f"nodes, in steps of {width} edges")
    axes.xaxis.get_major_locator().set_params(integer=True)
    counts = counts[counts > 0]
    if len(counts) and counts.max() > 20 * statistics.median(counts):  # dead nodes hide the others
        axes.set(yscale="log", ylim=(0.7, None))
    else:
        axes.yaxis.get_major_locator().set_params(integer=True)


def _label_sparsely(set_ticks: Callable, places: Sequence[float], names: Sequence[int], least: float) -> None:
    """Ticks with names, but for those that are nearer than ``least`` to the one before."""
    kept: dict[float, int] = {}
    for place, name in sorted(set(zip(places, names))):
        if not kept or place - max(kept) >= least:
            kept[place] = name
    set_ticks(list(kept), [str(name) for name in kept.values()])


def _from_zero(axes, top: float = 0.0) -> None:
    """The vertical axis from 0 to at least ``top``, with room above the data."""
    axes.update_datalim([(1, 0), (1, top)])
    axes.autoscale_view()
    axes.set_ylim(bottom=0)


def _marker(rows: Sequence) -> str:
    """Of each point, where these are few enough to be told apart."""
    return "o" if len(rows) <= 40 else ""


def _epochs(axes, count: int) -> None:
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, max(1, count) + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def _text(name: str) -> str:
    """A name as matplotlib draws it: no formula, and no label that it leaves out."""
    name = printable(name).replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def _learned(wiring: Wiring | NeuralGraph) -> Wiring:
    return wiring.learned_wiring() if isinstance(wiring, NeuralGraph) else wiring


def _figure(width: float, height: float, name: str | None, what: str):
    """An empty figure, size in inches, that lays its parts out without overlaps; its title says of what it shows what."""
    try:
        from .figure import ShownFigure
    except ImportError:
        raise MissingPackageError("drawing", "matplotlib", "plot") from None
    figure = ShownFigure(figsize=(width, height), dpi=150, layout="constrained")
    if name is not None:
        what = f"{_text(name if len(name) <= MOST_NAME else f'{name[:MOST_NAME - 1]}…')}: {what}"
    figure.suptitle(what, fontsize=12)
    return figure
