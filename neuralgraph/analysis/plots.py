"""Drawings of wirings and of training, as matplotlib figures (``pip install 'neuralgraph[plot]'``).

Every function returns a :class:`matplotlib.figure.Figure`; ``figure.savefig("name.png")`` keeps it. No
window is opened and nothing of matplotlib's global state is touched.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import torch

from .._files import printable
from ..errors import InputError, MissingPackageError
from ..networks import NeuralGraph
from ..wiring import Wiring, layout
from ..wiring.wiring import HIDDEN, INPUT, OUTPUT
from .structure import degrees

# Okabe and Ito's palette, told apart by all kinds of colour vision, and line styles beside it
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
REAL, HALLUCINATED = COLOURS[0], COLOURS[4]
LEGEND_WIDTH = 110  # characters


def learning_curves(runs: Mapping[str, Sequence[Mapping[str, float]]]):
    """Test accuracy and training loss of every run over its epochs.

    Args:
        runs: name of each run to its metrics, one mapping per epoch as ``metrics.csv`` has them.
    """
    if not runs:
        raise InputError("there is no run to draw.")
    runs = {_text(name): rows for name, rows in runs.items()}
    columns = max(1, min(len(runs), LEGEND_WIDTH // (max(map(len, runs)) + 8)))
    figure = _figure(10, 4.2 + 0.2 * -(-len(runs) // columns))
    for axes, name, title in zip(figure.subplots(1, 2), ("test_accuracy", "train_loss"),
                                 ("test accuracy (%)", "training loss")):
        for number, (label, rows) in enumerate(runs.items()):
            axes.plot([row["epoch"] for row in rows], [row[name] for row in rows], label=label,
                      color=COLOURS[number % len(COLOURS)], marker="o", markersize=3,
                      linestyle=STYLES[number // len(COLOURS) % len(STYLES)], linewidth=1.4)
        _epochs(axes, max((len(rows) for rows in runs.values()), default=0))
        axes.set_ylabel(title)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False,
                  fontsize=9)
    return figure


def rewiring(rows: Sequence[Mapping[str, float]]):
    """The threshold, and how many edges were swapped for others, over the epochs of a run.

    Args:
        rows: its metrics, one mapping per epoch as ``metrics.csv`` has them.
    """
    figure = _figure(10, 4)
    epochs = [row["epoch"] for row in rows]
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [row["threshold"] for row in rows], color=COLOURS[0], marker="o", markersize=3)
    left.set_ylabel("threshold: smallest |weight| of a real edge")
    _from_zero(left)
    right.bar(epochs, [row["swapped_edges"] for row in rows], color=COLOURS[1])
    _from_zero(right, top=1.0)
    right.set_ylabel("edges swapped since the epoch before")
    for axes in (left, right):
        _epochs(axes, len(rows))
    return figure


def adjacency(wiring: Wiring | NeuralGraph):
    """The adjacency matrix, [dst, src] as everywhere here: a dot per edge, nodes ordered by block.

    Lines mark where blocks begin, their numbers stand along the sides.

    Args:
        wiring: a learned wiring, say, or a network, of which the real edges are drawn.
    """
    wiring = _learned(wiring)
    order = wiring.block.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    figure = _figure(6.8, 7)
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
        set_ticks(middles, [str(b) for b in blocks.tolist()])
    axes.set(xlim=(-0.5, wiring.num_nodes - 0.5), ylim=(wiring.num_nodes - 0.5, -0.5), aspect="equal",
             xlabel="from block", ylabel="to block",
             title=f"{wiring.num_edges:,} edges between {wiring.num_nodes:,} nodes")
    axes.tick_params(length=0)
    return figure


def graph(wiring: Wiring | NeuralGraph):
    """The nodes and edges, laid out by blocks or by forces (see :func:`neuralgraph.wiring.layout`).

    Edges are blue where the weight is above 0 and orange below, the stronger the darker and the thicker; inputs are green,
    outputs violet, nodes without edges left out.

    Args:
        wiring: a learned wiring, say, or a network, of which the real edges are drawn.
    """
    wiring = _learned(wiring)
    place = layout(wiring).numpy()
    figure = _figure(9, 6)
    from matplotlib.collections import LineCollection
    axes = figure.subplots()
    weight = torch.ones(wiring.num_edges) if wiring.weight is None else wiring.weight.float()
    share = (weight.abs() / weight.abs().max().clamp(min=1e-30)).numpy()
    order = share.argsort(kind="stable")  # the strongest on top
    ends = place[torch.stack([wiring.src, wiring.dst], 1).numpy()][order]
    crowded = min(1.0, 3000 / max(1, wiring.num_edges))
    axes.add_collection(LineCollection(
        ends, colors=[COLOURS[0] if positive else COLOURS[1] for positive in (weight > 0).numpy()[order]],
        alpha=(0.1 + 0.8 * share[order]) * (0.3 + 0.7 * crowded), linewidths=0.3 + 1.5 * share[order],
        rasterized=wiring.num_edges > 5000))
    inward, outward = degrees(wiring)
    live = (inward + outward > 0).numpy()
    for role, colour in ((HIDDEN, "0.35"), (INPUT, COLOURS[2]), (OUTPUT, COLOURS[3])):
        nodes = place[(wiring.role == role).numpy() & live]
        axes.scatter(*nodes.T, s=max(3.0, min(40.0, 6000 / wiring.num_nodes)), color=colour, zorder=3, linewidths=0)
    axes.set(xlim=(-0.02, 1.02), ylim=(1.02, -0.02), xticks=[], yticks=[],
             title=f"{wiring.num_edges:,} edges between {int(live.sum()):,} live of {wiring.num_nodes:,} nodes")
    axes.set_frame_on(False)
    return figure


def degree_histograms(wiring: Wiring | NeuralGraph):
    """How many nodes have how many in-edges and out-edges; dead ones stand at 0.

    Where these are so many that the others would not be seen, the vertical axis is logarithmic.

    Args:
        wiring: a learned wiring, say, or a network, of which the real edges count.
    """
    wiring = _learned(wiring)
    inward, outward = degrees(wiring)
    figure = _figure(10, 4)
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


def weight_histogram(network: NeuralGraph):
    """The weights of real and of hallucinated edges, with the threshold between them.

    The vertical axis is logarithmic: there may be a thousand hallucinated edges for a real one.
    """
    selection = network.selection()
    weight, real = network.weight.detach().float().cpu(), selection.real.cpu()
    figure = _figure(8, 4.5)
    axes = figure.subplots()
    edge = float(weight.abs().max()) if len(weight) else 1.0
    bins = torch.linspace(-edge, edge, 121).tolist()
    for part, label, colour in ((weight[~real], "hallucinated", HALLUCINATED),
                                (weight[real], "real", REAL)):
        if len(part):
            axes.hist(part.numpy(), bins=bins, color=colour, alpha=0.75,
                      label=f"{len(part):,} {label} edges")
    threshold = selection.threshold()
    for sign in (-1, 1):
        axes.axvline(sign * threshold, color="0.2", linestyle="--", linewidth=1,
                     label=f"threshold {threshold:.2e}" if sign > 0 else None)
    axes.set(yscale="log", ylim=(0.7, None), xlabel="weight", ylabel="edges")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


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


def _from_zero(axes, top: float = 0.0) -> None:
    """The vertical axis from 0 to at least ``top``, with room above the data."""
    axes.update_datalim([(1, 0), (1, top)])
    axes.autoscale_view()
    axes.set_ylim(bottom=0)


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


def _figure(width: float, height: float):
    """An empty figure, size in inches, that lays its parts out without overlaps."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPackageError("drawing", "matplotlib", "plot") from None
    return Figure(figsize=(width, height), dpi=150, layout="constrained")
