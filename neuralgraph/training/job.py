"""One run of a comparison: all that a process needs to make it, and what came out of it."""

from __future__ import annotations

import functools
import json
import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch

from ..data import Images, load
from ..errors import DataError, RunError, SelectionError
from .checkpoint import RECIPE
from .opening import read_recipe
from .recipe import Recipe
from .run import Run
from .watching import Watcher


@dataclass(frozen=True)
class Job:
    """One run.

    Args:
        name: of the entry.
        seed: of the run.
        recipe: with seed and source.
        folder: of the run.
        command: that makes the same run alone.
        fingerprint: of the images.
        after: the name of the entry whose run of this seed must be finished before.
        may_fail: as of :class:`Entry`.
        device, workers: as for :meth:`Run.create`.
    """

    name: str
    seed: int
    recipe: Recipe
    folder: Path
    command: str
    fingerprint: str
    after: str | None
    may_fail: bool
    device: str
    workers: int | None

    def open(self, data: Images) -> Run:
        """The run as it was left, or a new one.

        Raises:
            RunError: if the folder holds a run of other settings.
        """
        if not (self.folder / RECIPE).exists():
            return Run.create(self.recipe, self.folder, data, device=self.device)
        check_same(self.recipe, self.folder)
        return Run.open(self.folder, data, device=self.device)

    def perform(self, data: Images, watcher: Watcher | None = None) -> dict:
        """Makes, continues or skips the run; what came out of it, as JSON."""
        run, timed = self.open(data), None
        result = {"seed": self.seed, "folder": str(self.folder), "command": self.command, "failure": None}
        if not run.is_finished:
            timed = {"threads": torch.get_num_threads()}
            try:
                run.train(watcher)
            except SelectionError as error:  # weights that have no order
                if not self.may_fail:
                    raise
                result["failure"] = str(error)
        return {**result, **outcome(run), "timed": timed}


def check_same(recipe: Recipe, folder: Path) -> None:
    """Refuses a folder that holds a run of other settings; the paths of images and source may differ.

    Raises:
        RunError: that names them.
    """
    saved, _ = read_recipe(folder)
    differing = [f"{name}={as_setting(getattr(saved, name))} (asked for {as_setting(value)})"
                 for name, value in vars(recipe).items()
                 if name not in ("data", "source") and value != getattr(saved, name)]
    if differing:
        raise RunError(f"{folder} holds a run with {', '.join(differing)}: ask for the same, or choose another "
                       "folder with --out.")


def perform(job: Job, watcher: Watcher | None = None) -> dict:
    """:meth:`Job.perform` in a process that has to find the images itself.

    Raises:
        DataError: if they are others here.
    """
    place = job.recipe.data, job.recipe.image_size, job.recipe.resized_crop, job.workers
    data = _kept(*place)
    if data.fingerprint() != job.fingerprint:  # of an earlier comparison
        _kept.cache_clear()
        data = _kept(*place)
    if data.fingerprint() != job.fingerprint:
        raise DataError(f"the images of {job.recipe.data} are not the same in all processes of the comparison.")
    return job.perform(data, watcher)


@functools.lru_cache(maxsize=1)
def _kept(*place) -> Images:
    return load(*place)


def outcome(run: Run) -> dict:
    """What came out of a run, as JSON; None where it did not come to its end or is not measured.

    ``k`` is the number of real edges (in layers, of real weights) after the last epoch, ``step_seconds`` the
    median time of a step.
    """
    progress, real = run.progress, run.loop.turnover.last
    rows = progress.rows if run.is_finished else []
    best = max(rows, key=lambda row: row["test_accuracy"], default=None)
    last = rows[-1] if rows else None
    return {"epochs": len(progress.rows), "last": last and last["test_accuracy"], "best": best and best["test_accuracy"],
            "best_epoch": best and best["epoch"], "last_top5": last and last["test_top5_accuracy"],
            "last_loss": last and last["test_loss"],
            "k": sum(int(mask.sum()) for mask in real), "candidates": sum(map(len, real)),
            "multiply_adds": last and last["multiply_adds"], "dead_nodes": last and last.get("dead_nodes"),
            "device": str(run.device), "seconds": round(sum(row["seconds"] for row in progress.rows), 1),
            "step_seconds": statistics.median(progress.step_seconds) if progress.step_seconds else None,
            "recipe": run.recipe.to_json()}


def as_setting(value: object) -> str:
    """A field as --set takes it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return shlex.quote(json.dumps(value))
    return shlex.quote("none" if value is None else str(value))
