"""The paper's Tables 1 and 2 again: all rows and seeds, as long as it takes."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .._html import table
from ..data import Images
from ..errors import InputError, lookup
from .checkpoint import read_json, write_json
from .comparison import Comparison, Entry, images_as_json, spelled, spread
from .recipe import Recipe
from .recipes import RECIPES
from .run import versions
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

    It is a :class:`~neuralgraph.training.comparison.Comparison`, so it may be interrupted or killed at any
    moment and made again. ``OUT/TABLE.json`` holds the result so far, of the rows and seeds asked for last.

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
        for name in settings or ():
            if name in ("seed", "source", "data", "epochs"):
                raise InputError(f"{name} is not a setting of all rows; use the option for it."
                                 if name != "source" else "source follows from the row.")
        self.table = table
        wanted = set(rows or known)
        wanted |= {source for name in wanted if (source := known[name].source) is not None}
        self.rows = tuple(row for row in known.values() if row.name in wanted)
        self.settings = {**(settings or {}), "data": data}
        self.comparison = Comparison(out, [self._entry(row, epochs) for row in self.rows], seeds)
        self.out, self.seeds = self.comparison.out, self.comparison.seeds
        options = {"--data": data, "--epochs": epochs, "--seeds": seeds, "--out": out,
                   "--rows": rows and ",".join(rows)}
        self.whole_command = spelled(["reproduce", table], options, settings)

    def _entry(self, row: Row, epochs: int | None) -> Entry:
        paper = self._paper(row)
        recipe = paper if epochs is None else paper.shortened(epochs)
        return Entry(row.name, recipe.with_settings(self.settings), (paper.name, paper), row.source)

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
        return self.comparison.recipe(self.comparison.entries[self.rows.index(row)], seed)

    def run(self, watcher: Watcher | None = None, *, device: str = "cpu", workers: int | None = None,
            jobs: int = 1, threads: int | None = None) -> Iterator[dict]:
        """Makes, continues or skips the runs; yields the result so far after each.

        Beside what ``TABLE.json`` holds it has "newest", the name of the row and its run. Arguments and errors
        are those of :meth:`~neuralgraph.training.comparison.Comparison.run`.
        """
        data = self.comparison.images(workers)
        fixed = self._description(data)
        for name, outcome, done in self.comparison.run(data, watcher, device=device, workers=workers, jobs=jobs,
                                                       threads=threads):
            result = {**fixed, "rows": self._summary(done)}
            write_json(self.out / f"{self.table}.json", result)
            yield {**result, "newest": (name, outcome)}

    def _repr_html_(self) -> str:
        """The result so far, beside the paper's."""
        path = self.out / f"{self.table}.json"
        found = read_json(path)["rows"] if path.exists() else []
        rows = [(row["title"], row["last"]["mean"], row["last"]["std"], row["paper"]["mean"], row["paper"]["std"],
                 f"{len(row['runs'])} of {len(self.seeds)}") for row in found]
        return table(("", "test %", "std", "paper %", "std", "runs"), rows, f"{self.table} in {self.out}",
                     [self.schedule, *([] if rows else ["no run is finished"])])

    def _paper(self, row: Row) -> Recipe:
        return RECIPES[f"{self.table}-{row.name}"]

    def _description(self, data: Images) -> dict:
        """What all rows have in common."""
        return {
            "table": self.table, "command": self.whole_command, "schedule": self.schedule,
            "is_reduced": self.is_reduced,
            "data": images_as_json(data),
            "seeds": list(self.seeds), "settings": self.settings,
            "std": "sample standard deviation over seeds; the paper's is over 5 runs",
            "versions": {**versions(), "platform": platform.platform()},
        }

    def _summary(self, done: dict[str, list[dict]]) -> list[dict]:
        return [{"name": row.name, "title": row.title, "paper": {"mean": row.mean, "std": row.std},
                 "last": spread(done[row.name], "last"), "best": spread(done[row.name], "best"),
                 "runs": done[row.name]} for row in self.rows]
