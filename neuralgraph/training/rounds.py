"""Runs that grow: trained, split, trained again."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from .. import growing
from .._html import facts
from ..data import Augmentation, Images, lost_readers
from ..errors import InputError, RunError, lookup
from ..models import Classifier
from .checkpoint import RECIPE, write_json
from .distributed import Ranks, current
from .folder import check_free, round_folder, rounds
from .lineage import changes_of, check_source, with_whole_paths
from .opening import read_recipe
from .options import options
from .recipe import Recipe
from .run import Run, load_images, versions
from .watching import Watcher


class GrowingRun:
    """A recipe with ``grow``: training, splitting, training, ..., each training as long as the recipe says.

    The folder holds ``recipe.json`` and a whole run per size, ``round-0``, ``round-1``, ..., each with an
    optimizer of its own; ``split-1.json``, ... say what was split to get there. All commands take the folder
    for that of its last round, and ``report`` shows every round. The splitting sees the training
    images in their order (of ``grow.num_batches`` those that the seed draws) and without augmentation, so that a
    continued run does exactly what an undisturbed one would have done, wherever it was cut off. Growth ends
    early where no node has an eigenvalue below 0.

    Use :meth:`create` for a new run and :meth:`open` for one that exists.
    """

    def __init__(self, recipe: Recipe, folder: Path, run: Run, number: int):
        self.recipe, self.folder, self.run, self.number = recipe, folder, run, number
        self._to_write: dict | None = None

    @classmethod
    def create(cls, recipe: Recipe, folder: str | Path, data: Images | None = None, *, device: str = "cpu",
               workers: int | None = None) -> GrowingRun:
        """A new run; arguments and errors as for :meth:`Run.create`."""
        if recipe.grow is None:
            raise InputError("this recipe does not grow: give it grow=split, or use neuralgraph.training.Run.")
        for name in recipe.grow_options or {}:
            lookup(f"option of grow={recipe.grow}", name, options("grow", recipe.grow))
        growing.check_settings(**(recipe.grow_options or {}))
        folder, recipe = Path(folder), with_whole_paths(recipe)
        if current().is_first:
            check_free(folder)
        data, once = data or load_images(recipe, workers), _once(recipe)
        check_source(once)
        run = Run(once, folder, data, device)  # refuses what cannot be trained, before a folder is made
        if current().is_first:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RunError(f"cannot make the folder {folder}: {error.strerror}.") from error
            write_json(folder / RECIPE, {"recipe": recipe.to_json(), "data": run.images, "versions": versions()})
        return cls(recipe, folder, Run.create(once, round_folder(folder, 0), data, device=device), 0)

    @classmethod
    def open(cls, folder: str | Path, data: Images | None = None, *, device: str = "cpu", workers: int | None = None,
             settings: dict[str, str] | None = None, accept_changes: bool = False) -> GrowingRun:
        """The run in ``folder`` as its last checkpoint left it; arguments and errors as for :meth:`Run.open`."""
        folder, settings = Path(folder), settings or {}
        saved, description = read_recipe(folder)
        recipe = with_whole_paths(saved.with_settings(settings))
        changes_of(recipe, saved, folder, accept_changes)
        found = rounds(folder)
        if found:
            inside = {key: text for key, text in settings.items() if not re.match(r"grow\b|grow_", key)}
            run = Run.open(found[-1], data, device=device, workers=workers, settings=inside,
                           accept_changes=accept_changes)
        else:  # a kill came before the first round was there
            run = Run.create(_once(recipe), round_folder(folder, 0), data, device=device, workers=workers)
        opened = cls(recipe, folder, run, max(0, len(found) - 1))
        if recipe != saved:
            opened._to_write = {**description, "recipe": recipe.to_json()}
        return opened

    @property
    def ranks(self) -> Ranks:
        return self.run.ranks

    @property
    def rounds(self) -> int:
        """How often it is split."""
        return self.recipe.grow_rounds or 1

    def _repr_html_(self) -> str:
        return facts({"round": self.number, "of": self.rounds}, f"{self.recipe.name}, growing, in {self.folder}") \
            + self.run._repr_html_()

    def train(self, watcher: Watcher | None = None, check_ranks: bool = False) -> list[dict[str, Any]]:
        """Trains all rounds to the end and returns the metrics of the last; otherwise as :meth:`Run.train`."""
        watcher = watcher or Watcher()
        if self._to_write is not None and self.ranks.is_first:
            write_json(self.folder / RECIPE, self._to_write)
        self._to_write = None
        rows = self.run.train(watcher, check_ranks)
        while self.number < self.rounds:
            model, report = self._split()
            watcher.grew(self.run, report)
            if not report.split:
                break
            self.number += 1
            if self.ranks.is_first:
                write_json(self.folder / f"split-{self.number}.json", dataclasses.asdict(report))
            self.run = Run.grow_from(self.run, round_folder(self.folder, self.number), model, report.growth)
            rows = self.run.train(watcher, check_ranks)
        return rows

    def _split(self) -> tuple[Classifier, growing.SplitReport]:
        with lost_readers():
            options = self.recipe.grow_options or {}
            return growing.split(self.run.model, _Batches(self.run, options.get("num_batches")), F.cross_entropy,
                                 **options)


class _Batches:
    """The training images of a run in their order, as they are; or so many batches of them, drawn by its seed."""

    def __init__(self, run: Run, number: int | None):
        self.run, self.number = run, number

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        data, recipe, device = self.run.data, self.run.recipe, self.run.device
        order = torch.arange(data.num_train) if self.number is None else \
            torch.randperm(data.num_train, generator=torch.Generator().manual_seed(recipe.seed))
        batches = order.split(recipe.batch_size)[:self.number]
        for images, labels in data.train_batches(batches, Augmentation(0, False), recipe.seed, 0):
            yield data.normalise(images.to(device)), labels.to(device)



def _once(recipe: Recipe) -> Recipe:
    """The recipe of each round."""
    return dataclasses.replace(recipe, grow=None, grow_rounds=None, grow_options=None)
