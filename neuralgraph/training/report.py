"""Runs side by side: a table of what came out, and drawings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._html import beside, curve, facts, table
from ..analysis import plots
from ..errors import CheckpointError, InputError, RunError
from .checkpoint import CHECKPOINT, RECIPE, part, read_checkpoint, read_json
from .folder import rounds
from .log import METRICS, read_metrics
from .opening import open_model, read_recipe
from .recipe import Recipe

DRAWN = {"graph": plots.graph, "adjacency": plots.adjacency, "degrees": plots.degree_histograms,
         "weights": plots.weight_histogram}

MOST_CURVES = 4  # in a notebook
TITLES = {"best": "best %", "last": "last %", "multiply_adds": "multiply-adds", "dead_nodes": "dead nodes"}


@dataclass(frozen=True)
class Record:
    """What the files of a run say, without its model or images.

    Args:
        name: that tells it from the others of a comparison.
        folder: of the run.
        recipe: of the run; None for a training by :func:`~neuralgraph.training.fit`.
        epochs: how many there are to be.
        rows: the metrics of the finished epochs.
        k: real edges, summed over networks and sparse layers.
    """

    name: str
    folder: Path
    recipe: Recipe | None
    epochs: int
    rows: list[dict[str, Any]]
    k: int

    @property
    def best(self) -> dict | None:
        """The metrics of the epoch of highest test accuracy, the first of several; None without a recipe."""
        if self.recipe is None:
            return None
        return max(self.rows, key=lambda row: row["test_accuracy"], default=None)

    @property
    def missing(self) -> str | None:
        """What cannot be said or drawn of this training, and why."""
        if self.recipe is not None:
            return None
        return ("trained by neuralgraph.training.fit: its metrics are its own, so best, last and learning "
                "curves are left out; its model is in Python, where neuralgraph.plots draws networks")

    @property
    def seconds(self) -> float:
        """Of training, without evaluation."""
        return sum(row["seconds"] for row in self.rows)

    def _repr_html_(self) -> str:
        line, = compare([self])
        known = {TITLES.get(name, name): value for name, value in line.items() if name != "run"}
        return beside(facts(known, self.name), _curves([self]))


class Records(list[Record]):
    """Records of several runs; a notebook shows them side by side."""

    def _repr_html_(self) -> str:
        lines = compare(self)
        head = [TITLES.get(name, name) for name in lines[0]] if lines else []
        return beside(table(head, [list(line.values()) for line in lines]), _curves(self[:MOST_CURVES]))


def _curves(records: Sequence[Record]) -> str:
    return curve({record.name: [(row["epoch"], row["test_accuracy"]) for row in record.rows]
                  for record in records if record.recipe is not None}, "epoch", "test accuracy (%)")


def read_records(folders: Sequence[str | Path]) -> Records:
    """The records of runs, named by as much of their folders as tells them apart; of one that grows, of each round.

    Raises:
        CheckpointError: for a folder that holds no run or a damaged one.
        InputError: for a folder given twice.
    """
    paths = [path for folder in map(Path, folders) for path in rounds(folder) or [folder]]
    whole = [path.resolve() for path in paths]
    if len(set(whole)) < len(whole):
        twice = next(path for number, path in enumerate(whole) if path in whole[:number])
        raise InputError(f"the run {twice} is given twice.")
    records = Records()  # the k of l1-anneal changes, so it is counted
    for path, name in zip(paths, _names(whole)):
        recipe, epochs = _how(path)
        rows = read_metrics(path)
        if recipe is not None and rows and "test_accuracy" not in rows[0]:
            raise CheckpointError(f"{path / METRICS} is damaged: it has no column 'test_accuracy'.")
        tensors, _ = read_checkpoint(path / CHECKPOINT)
        k = sum(int(real.sum()) for real in part(tensors, "real").values())
        records.append(Record(name, path, recipe, epochs, rows, k))
    return records


def _how(folder: Path) -> tuple[Recipe | None, int]:
    """The recipe of a run, if there is one, and the number of epochs."""
    fit = read_json(folder / RECIPE).get("fit")
    if fit is None:
        recipe, _ = read_recipe(folder)
        return recipe, recipe.epochs
    if not isinstance(fit, dict) or type(fit.get("epochs")) is not int:
        raise CheckpointError(f"{folder / RECIPE} is damaged: it does not give the number of epochs.")
    return None, fit["epochs"]


def compare(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One line of the table per run; None where there is no finished epoch."""
    lines = []
    for record in records:
        last, best, recipe = (record.rows[-1] if record.rows else {}), (record.best or {}), record.recipe
        lines.append({
            "run": record.name, "recipe": recipe and recipe.name, "selector": recipe and recipe.selector,
            "epochs": f"{len(record.rows)}/{record.epochs}",
            "best": best.get("test_accuracy"), "last": recipe and last.get("test_accuracy"),
            "loss": last.get("test_loss"), "k": record.k, "multiply_adds": last.get("multiply_adds"),
            "dead_nodes": last.get("dead_nodes"), "seconds": record.seconds,
        })
    return lines


def draw(records: Sequence[Record], out: str | Path) -> list[Path]:
    """Draws the runs into a folder; returns the PNG files.

    ``learning-curves.png`` for all, and per run ``NAME-rewiring.png``, and for each of its networks
    ``NAME-graph.png``, ``NAME-adjacency.png``, ``NAME-degrees.png`` and ``NAME-weights.png`` (numbered if
    there are several). Of a training without recipe only the first of these: see :attr:`Record.missing`.

    Raises:
        MissingPackageError: without matplotlib.
        RunError: if the folder cannot be written.
    """
    out = Path(out)
    files = []

    def keep(figure, name):
        try:
            out.mkdir(parents=True, exist_ok=True)
            figure.savefig(out / name)
        except OSError as error:
            raise RunError(f"cannot write {out / name}: {error.strerror or error}.") from error
        files.append(out / name)

    with_epochs = [record for record in records if record.rows and record.recipe]
    if with_epochs:
        keep(plots.learning_curves({record.name: record.rows for record in with_epochs}),
             "learning-curves.png")
    for record in records:
        name = record.name.replace("/", "-")
        if record.rows and "swapped_edges" in record.rows[0]:
            keep(plots.rewiring(record.rows, record.name), f"{name}-rewiring.png")
        if record.recipe is None:
            continue
        _, model, _ = open_model(record.folder)
        networks = model.networks
        for number, network in enumerate(networks, start=1):
            label, title = name, record.name
            if len(networks) > 1:
                label, title = f"{name}-{number}", f"{record.name}, network {number}"
            for kind, figure in DRAWN.items():
                keep(figure(network, title), f"{label}-{kind}.png")
    return files


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest tails of different paths that are different."""
    for depth in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
