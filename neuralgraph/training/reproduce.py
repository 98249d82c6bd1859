"""The paper's Tables 1 and 2 again: all rows and seeds, one after another, as long as it takes."""

from __future__ import annotations

import json
import platform
import shlex
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .._version import __version__
from ..data import Images, load
from ..errors import InputError, RunError, lookup
from .checkpoint import RECIPE, write_json
from .lineage import with_whole_paths
from .recipe import Recipe
from .recipes import RECIPES
from .run import Run
from .watching import Watcher

SEEDS = 5  # as in the paper


@dataclass(frozen=True)
class Row:
    """One row of a table of the paper.

    Args:
        name: without the name of the table.
        title: as in the paper.
        mean: test accuracy in the paper, per cent.
        std: its standard deviation over 5 runs.
        source: name of the row whose finished run this one starts from.
    """

    name: str
    title: str
    mean: float | None
    std: float | None
    source: str | None = None


TABLES = {
    "table1": (
        Row("static-rg", "Static (RG)", 76.1, 0.5),
        Row("static-dnw", "Static (DNW)", 80.9, 0.6),
        Row("discrete-rg", "Discrete Time (RG)", 77.3, 0.7),
        Row("discrete-dnw", "Discrete Time (DNW)", 82.3, 0.6),
        Row("continuous-rg", "Continuous (RG)", 78.5, 1.2),
        Row("continuous-dnw", "Continuous (DNW)", 83.1, 0.3),
    ),
    "table2": (
        Row("mobilenet-v1", "MobileNetV1 (x 0.25)", 86.3, 0.2),
        Row("rg", "MobileNetV1-RG (x 0.225)", 87.2, 0.1),
        Row("no-update", "No Update Rule", 86.7, 0.5),
        Row("l1-anneal", "L1 + Anneal", 84.3, 0.6),
        Row("targeted-dropout", "TD rho = 0.95", 89.2, 0.4),
        Row("complete", "the complete graph, not in the table", None, None),
        Row("lottery-ticket", "Lottery Ticket (one-shot)", 87.9, 0.3, source="complete"),
        Row("fine-tune-0.1", "Fine Tune alpha = 0.1", 89.4, 0.2, source="complete"),
        Row("fine-tune-0.01", "Fine Tune alpha = 0.01", 89.7, 0.1, source="complete"),
        Row("fine-tune-0.001", "Fine Tune alpha = 0.001", 88.7, 0.2, source="complete"),
        Row("dnw", "MobileNetV1-DNW (x 0.225)", 89.7, 0.2),
    ),
}


class Reproduction:
    """Runs of the rows of a table, in folders ``OUT/ROW/seed-N``, and what came out of them.

    Everything it knows is in those folders, so it may be interrupted or killed at any moment and made
    again. ``OUT/TABLE.json`` holds the result so far, of the rows and seeds asked for last.

    Args:
        table: a key of :data:`TABLES`.
        out: the folder.
        data: name or path of the images.
        epochs: instead of the paper's; milestones keep their share.
        seeds: how many, from 0.
        rows: names of rows, by default all; rows that these start from are added.
        settings: further fields of the recipes, as text.

    Raises:
        InputError, UnknownNameError: for rows, settings or numbers that do not exist.
    """

    def __init__(self, table: str, out: str | Path, data: str, *, epochs: int | None = None,
                 seeds: int = SEEDS, rows: Sequence[str] | None = None,
                 settings: dict[str, str] | None = None):
        known = {row.name: row for row in lookup("table", table, TABLES)}
        for name in rows or ():
            lookup(f"row of {table}", name, known)
        if seeds < 1:
            raise InputError(f"seeds must be at least 1, got {seeds}.")
        for name in settings or ():
            if name in ("seed", "source", "data", "epochs"):
                raise InputError(f"{name} is not a setting of all rows; use the option for it."
                                 if name != "source" else "source follows from the row.")
        self.table, self.out, self.seeds = table, Path(out), range(seeds)
        wanted = set(rows or known)
        wanted |= {known[name].source for name in wanted} - {None}
        self.rows = tuple(row for row in known.values() if row.name in wanted)
        self.settings = {**(settings or {}), "data": data}
        self.epochs = epochs
        options = {"--data": data, "--epochs": epochs, "--seeds": seeds, "--out": out,
                   "--rows": rows and ",".join(rows)}
        self.whole_command = shlex.join(["neuralgraph", "reproduce", table, *(
            str(part) for option in options.items() if option[1] is not None for part in option), *(
            f"--set={name}={value}" for name, value in (settings or {}).items())])
        for row in self.rows:
            self.recipe(row, 0)  # every setting fits every row

    @property
    def is_reduced(self) -> bool:
        """Whether any row trains for fewer epochs than the paper's."""
        return any(self.recipe(row, 0).epochs < self._paper(row).epochs for row in self.rows)

    @property
    def schedule(self) -> str:
        """What the numbers may be compared with."""
        own, paper = self.recipe(self.rows[0], 0).epochs, self._paper(self.rows[0]).epochs
        name = f"reduced schedule: {own} of the paper's {paper} epochs" if self.is_reduced else \
            f"{own} epochs, the paper's {paper}"
        changed = [f"{key}={value}" for key, value in self.settings.items() if key != "data"]
        return ", ".join([name, *changed])

    def recipe(self, row: Row, seed: int) -> Recipe:
        """The recipe of one run."""
        recipe = self._paper(row)
        if self.epochs is not None:
            recipe = recipe.shortened(self.epochs)
        settings = {**self.settings, "seed": str(seed)}
        if row.source is not None:
            settings["source"] = str(self.folder(row.source, seed).resolve())
        return with_whole_paths(recipe.with_settings(settings))

    def folder(self, row: str, seed: int) -> Path:
        return self.out / row / f"seed-{seed}"

    def command(self, row: Row, seed: int) -> str:
        """The command that makes the same run alone."""
        own, plain = self.recipe(row, seed), self._paper(row)
        changes = [f"--set {name}={_text(value)}" for name, value in vars(own).items()
                   if value != getattr(plain, name)]
        return " ".join(["neuralgraph train", plain.name, *map(str, changes), "--out",
                         shlex.quote(str(self.folder(row.name, seed)))])

    def run(self, watcher: Watcher | None = None, *, device: str = "cpu",
            workers: int | None = None) -> Iterator[dict]:
        """Makes, continues or skips one run after another; yields the result so far after each.

        Beside what ``TABLE.json`` holds it has "newest", the name of the row and its run.

        All rows come with one seed before any comes with the next, so that the table is whole soon.

        Raises:
            RunError: if the folder holds a run of other settings or images, or cannot be written.
            Interrupted: after Ctrl-C, when the current run is saved.
        """
        recipe = self.recipe(self.rows[0], 0)
        data = load(recipe.data, recipe.image_size, recipe.resized_crop, workers)
        fixed = self._description(data)
        done: dict[str, list[dict]] = {row.name: [] for row in self.rows}
        for seed in self.seeds:
            for row in self.rows:
                run = self._open(row, seed, data, device)
                if not run.is_finished:
                    run.train(watcher)
                outcome = self._outcome(run, row, seed)
                done[row.name].append(outcome)
                result = {**fixed, "rows": self._summary(done)}
                write_json(self.out / f"{self.table}.json", result)
                yield {**result, "newest": (row.name, outcome)}

    def _open(self, row: Row, seed: int, data: Images, device: str) -> Run:
        recipe, folder = self.recipe(row, seed), self.folder(row.name, seed)
        if not (folder / RECIPE).exists():
            return Run.create(recipe, folder, data, device=device)
        run = Run.open(folder, data, device=device)
        differing = [f"{name}={_text(getattr(run.recipe, name))} (asked for {_text(value)})"
                     for name, value in vars(recipe).items()
                     if name not in ("data", "source") and value != getattr(run.recipe, name)]
        if differing:
            raise RunError(f"{folder} holds a run with {', '.join(differing)}: ask for the same, or "
                           "choose another folder with --out.")
        return run

    def _paper(self, row: Row) -> Recipe:
        return RECIPES[f"{self.table}-{row.name}"]

    def _outcome(self, run: Run, row: Row, seed: int) -> dict:
        rows = run.progress.rows
        best = max(rows, key=lambda r: r["test_accuracy"], default=None)
        last = rows[-1] if rows else None
        return {"seed": seed, "folder": str(run.folder), "command": self.command(row, seed),
                "epochs": len(rows), "last": last and last["test_accuracy"],
                "best": best and best["test_accuracy"], "best_epoch": best and best["epoch"],
                "last_top5": last and last["test_top5_accuracy"],
                "multiply_adds": last and last["multiply_adds"],
                "dead_nodes": last and last["dead_nodes"], "device": str(run.device),
                "seconds": round(sum(r["seconds"] for r in rows), 1), "recipe": run.recipe.to_json()}

    def _description(self, data: Images) -> dict:
        """What all rows have in common."""
        return {
            "table": self.table, "command": self.whole_command, "schedule": self.schedule,
            "is_reduced": self.is_reduced,
            "data": {"name": data.name, "train": data.num_train, "test": data.num_test,
                     "fingerprint": data.fingerprint()},
            "seeds": list(self.seeds), "settings": self.settings,
            "std": "sample standard deviation over seeds; the paper's is over 5 runs",
            "versions": {"neuralgraph": __version__, "torch": torch.__version__,
                         "python": platform.python_version(), "platform": platform.platform()},
        }

    def _summary(self, done: dict[str, list[dict]]) -> list[dict]:
        return [{"name": row.name, "title": row.title, "paper": {"mean": row.mean, "std": row.std},
                 "last": spread(done[row.name], "last"), "best": spread(done[row.name], "best"),
                 "runs": done[row.name]} for row in self.rows]


def spread(runs: Sequence[dict], key: str) -> dict:
    """Mean and sample standard deviation of a number over runs; None where there are too few.

    >>> spread([{"last": 80.0}, {"last": 82.0}], "last")
    {'mean': 81.0, 'std': 1.414, 'runs': 2}
    """
    values = [run[key] for run in runs if run[key] is not None]
    return {"mean": round(statistics.mean(values), 3) if values else None,
            "std": round(statistics.stdev(values), 3) if len(values) > 1 else None, "runs": len(values)}


def _text(value: object) -> str:
    """A field as --set takes it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return shlex.quote(json.dumps(value))
    return shlex.quote("none" if value is None else str(value))
