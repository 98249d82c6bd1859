"""Runs that are made to be compared: recipes and seeds, their folders, and what came out of them."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data import Images
from ..errors import InputError
from . import ways
from .checkpoint import RECIPE
from .job import Job, as_setting, check_same
from .lineage import with_whole_paths
from .recipe import Recipe
from .run import load_images
from .watching import Watcher


@dataclass(frozen=True)
class Entry:
    """What is compared with others.

    Args:
        name: of it, and of its folder.
        recipe: of its runs, which have a seed and a source of their own.
        base: what the recipe was made from, as ``neuralgraph train`` knows it, and the recipe that this means.
        source: name of the entry whose finished run of the same seed it starts from.
        may_fail: a training that diverges is an outcome, and the others go on.
    """

    name: str
    recipe: Recipe
    base: tuple[str, Recipe]
    source: str | None = None
    may_fail: bool = False


class Comparison:
    """Runs of some entries with some seeds, in folders ``OUT/ENTRY/seed-N``.

    Everything it knows is in those folders, so it may be interrupted or killed at any moment and made again.
    All entries come with one seed before any comes with the next, so that every comparison is whole soon.

    Args:
        out: the folder.
        entries: each behind the one it starts from.
        seeds: how many, from 0.

    Raises:
        InputError: for numbers that make no sense.
    """

    def __init__(self, out: str | Path, entries: Sequence[Entry], seeds: int):
        if seeds < 1:
            raise InputError(f"seeds must be at least 1, got {seeds}.")
        self.out, self.entries, self.seeds = Path(out), tuple(entries), range(seeds)

    def recipe(self, entry: Entry, seed: int) -> Recipe:
        """The recipe of one run."""
        settings = {"seed": str(seed)}
        if entry.source is not None:
            settings["source"] = str(self.folder(entry.source, seed).resolve())
        return with_whole_paths(entry.recipe.with_settings(settings))

    def folder(self, name: str, seed: int) -> Path:
        return self.out / name / f"seed-{seed}"

    def command(self, entry: Entry, seed: int) -> str:
        """The command that makes the same run alone."""
        own, (base, plain) = self.recipe(entry, seed), entry.base
        changes = [f"--set {name}={as_setting(value)}" for name, value in vars(own).items()
                   if value != getattr(plain, name)]
        return " ".join(["neuralgraph train", shlex.quote(base), *changes, "--out",
                         shlex.quote(str(self.folder(entry.name, seed)))])

    def jobs(self, fingerprint: str, device: str, workers: int | None) -> list[Job]:
        """The runs, in the order in which they are made one after another."""
        return [Job(entry.name, seed, self.recipe(entry, seed), self.folder(entry.name, seed),
                    self.command(entry, seed), fingerprint, entry.source, entry.may_fail, device, workers)
                for seed in self.seeds for entry in self.entries]

    def images(self, workers: int | None) -> Images:
        """The images, which are the same for all."""
        recipe = self.recipe(self.entries[0], 0)
        return load_images(recipe, workers)

    def run(self, data: Images, watcher: Watcher | None = None, *, device: str = "cpu", workers: int | None = None,
            jobs: int = 1, threads: int | None = None, ray: str | bool | None = None,
            ) -> Iterator[tuple[str, dict, dict[str, list[dict]]]]:
        """Makes, continues or skips the runs; after each its entry, its outcome, and all outcomes by entry.

        Args:
            data: the images.
            watcher: hears of them.
            device, workers: as for :meth:`Run.create`.
            jobs: how many at a time, each in a process of its own if there are several.
            threads: of each run; by default all cores, divided among the jobs, and on Ray 1.
            ray: the address of a Ray cluster to make them on, or True for the one that is at hand, or else a
                new one on this machine. Its machines must see the same folders.

        Raises:
            RunError: if a folder holds a run of other settings or images, or cannot be written.
            Interrupted: after Ctrl-C, when what was begun is saved.
            MissingPackageError: without Ray, where it is asked for.
        """
        todo = self.jobs(data.fingerprint(), device, workers)
        for job in todo:  # before hours are spent
            if (job.folder / RECIPE).exists():
                check_same(job.recipe, job.folder)
        done: dict[str, list[dict]] = {entry.name: [] for entry in self.entries}
        for job, result in ways.choose(todo, data, watcher or Watcher(), jobs, threads, ray):
            done[job.name] = sorted([*done[job.name], result], key=lambda run: run["seed"])
            yield job.name, result, done


def spelled(words: Sequence[str], options: Mapping[str, object], settings: Mapping[str, str] | None) -> str:
    """A command of this library as a shell takes it; options that are None are left out.

    >>> spelled(["report", "a b"], {"--out": None, "--seeds": 2}, {"lr": "0.1"})
    "neuralgraph report 'a b' --seeds 2 --set=lr=0.1"
    """
    given = (str(part) for option in options.items() if option[1] is not None for part in option)
    return shlex.join(["neuralgraph", *words, *given,
                       *(f"--set={name}={value}" for name, value in (settings or {}).items())])


def images_as_json(data: Images) -> dict:
    """What a result says of the images."""
    return {"name": data.name, "train": data.num_train, "test": data.num_test, "fingerprint": data.fingerprint()}


def spread(runs: Sequence[dict], key: str, digits: int = 3) -> dict:
    """Mean and sample standard deviation of a number over runs; None where there are too few.

    >>> spread([{"last": 80.0}, {"last": 82.0}], "last")
    {'mean': 81.0, 'std': 1.414, 'runs': 2}
    """
    values = [run[key] for run in runs if run[key] is not None]
    return {"mean": round(statistics.mean(values), digits) if values else None,
            "std": round(statistics.stdev(values), digits) if len(values) > 1 else None, "runs": len(values)}
