"""The commands train and evaluate."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from shlex import quote
from typing import Any

import click

from ..errors import InputError, RunError, lookup
from ..growing import SplitReport
from ..layers.sparse import sparse_layers
from ..training import RECIPES, GrowingRun, Interrupted, ProgressBar, Recipe, Run, Watcher, join, keep_freed_memory, read_recipe
from ..training.distributed import Ranks
from ..training.folder import free_folder, latest_folder
from ..training.recipes import GROUPS

COLUMNS = (
    ("epoch", "epoch", "{:>5}"), ("train_loss", "loss", "{:>7.4f}"),
    ("train_accuracy", "train %", "{:>7.2f}"), ("test_accuracy", "test %", "{:>7.2f}"),
    ("threshold", "threshold", "{:>9.2e}"), ("swapped_edges", "swapped", "{:>8}"),
    ("dead_nodes", "dead", "{:>5}"), ("images_per_second", "images/s", "{:>8.0f}"),
)


class Display(ProgressBar):
    """The bar, and one line of a table per epoch."""

    def started(self, run: Any) -> None:
        edges = ", ".join([f"{network.num_real} of {network.wiring.num_edges} edges"
                           for network in run.model.networks]
                          + [f"{layer.k} of {layer.num_weights} weights" for layer in sparse_layers(run.model)]
                          or ["all weights"])
        click.echo(f"{run.recipe.name} on {run.data.name}: {run.data.num_train} training and "
                   f"{run.data.num_test} test images, {edges}, selector "
                   f"{run.recipe.selector}, in {run.folder}")
        self.columns = [column for column in COLUMNS if column[0] in run.loop.columns]
        click.echo(" ".join(_width(shape, title) for _, title, shape in self.columns))
        super().started(run)

    def grew(self, run: Any, report: SplitReport) -> None:
        self.close()
        click.echo(f"\n{report}\n")

    def finished_epoch(self, run: Any, row: dict) -> None:
        self.say(" ".join(shape.format(row[name]) for name, _, shape in self.columns))


def recipes(name: str | None) -> None:
    if name is not None:
        rows = recipe_named(name).settings()
        widths = [max(len(str(row[column])) for row in rows) for column in (0, 1)]
        for key, value, kind, meaning in rows:
            value = "none" if value is None else str(value).lower() if isinstance(value, bool) else value
            value = ",".join(map(str, value)) if isinstance(value, tuple) else value
            click.echo(f"{key:{widths[0]}}  {str(value):{widths[1]}}  ({kind}) {meaning}")
        return
    width = max(map(len, RECIPES))
    for title, group in GROUPS.items():
        click.echo(f"\n{title}")
        for recipe in group:
            click.echo(f"  {recipe.name:{width}}  {recipe.description}")


def train(recipe: str, data: str | None, epochs: int | None, settings: tuple[str, ...],
          out: Path | None, resume: bool, accept_changes: bool, device: str,
          workers: int | None, check_ranks: bool) -> None:
    keep_freed_memory()
    given = given_settings(settings)
    if data is not None:
        given["data"] = data
    if epochs is not None:
        given["epochs"] = str(epochs)
    if accept_changes and not resume:
        raise InputError("--accept-changes belongs to --resume.")
    with join() as ranks:
        place: dict[str, Any] = {"device": device, "workers": workers}
        if resume:
            folder = _found(recipe, out)
            kind = Run if read_recipe(folder)[0].grow is None else GrowingRun
            run = kind.open(folder, settings=given, accept_changes=accept_changes, **place)
        else:
            chosen = recipe_named(recipe).with_settings(given)
            with _own_folder(chosen.name, out, ranks) as folder:
                run = (Run if chosen.grow is None else GrowingRun).create(chosen, folder, **place)
        _train(run, check_ranks)


def _train(run: Run | GrowingRun, check_ranks: bool) -> None:
    """Trains and says so, in the first process only."""
    first = run.ranks.is_first
    display = Display() if first else Watcher()
    try:
        rows = run.train(display, check_ranks)
    except Interrupted as stop:
        if isinstance(display, Display):
            display.close()
            click.echo(f"{stop}\nContinue with: neuralgraph train {quote(run.recipe.name)} --resume --out "
                       f"{quote(str(run.folder))}", err=True)
        raise SystemExit(130) from None
    finally:
        if isinstance(display, Display):
            display.close()
    if rows and first:
        best = max(rows, key=lambda row: row["test_accuracy"])
        click.echo(f"test accuracy {rows[-1]['test_accuracy']:.2f} % (best {best['test_accuracy']:.2f} % "
                   f"in epoch {best['epoch']}), saved in {run.folder}")


def evaluate(folder: Path, backend: str | None, device: str, workers: int | None) -> None:
    run = Run.open(folder, backend=backend, device=device, workers=workers)
    began = time.perf_counter()
    accuracy, top5, loss = run.evaluate()
    seconds = time.perf_counter() - began
    count = run.data.num_test
    used = ", ".join(sorted({repr(network.backend) for network in run.model.networks})) or "ordinary layers"
    click.echo(f"test accuracy {accuracy:.2f} %, top-5 {top5:.2f} %, loss {loss:.4f} on {count} images "
               f"of {run.data.name}, {count / seconds:.0f} images/s with {used}")


def recipe_named(name: str) -> Recipe:
    """A recipe by its name, or from a file or the folder of a run."""
    if name not in RECIPES and Path(name).exists():
        return Recipe.read(name)
    if len(Path(name).parts) > 1 or Path(name).suffix == ".json":
        raise InputError(f"there is no recipe {name}; give a name of `neuralgraph recipes`, a JSON file "
                         "or the folder of a run.")
    return lookup("recipe", name, RECIPES)


def _found(recipe: str, out: Path | None) -> Path:
    """The folder of the run to resume."""
    is_run = recipe not in RECIPES and Path(recipe).is_dir()
    if is_run and out is not None:
        raise InputError(f"{recipe} is the run to resume, so leave out --out.")
    folder = Path(recipe) if is_run else out or latest_folder(recipe)
    saved, _ = read_recipe(folder)
    if saved.name != recipe and not is_run:
        raise RunError(f"{folder} holds a run of {saved.name!r}, not of {recipe!r}: "
                       f"neuralgraph train {quote(saved.name)} --resume --out {quote(str(folder))}")
    return folder


def given_settings(settings: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE, as given to --set, as a dict."""
    return dict(_split(setting) for setting in settings)


def _split(setting: str) -> tuple[str, str]:
    key, equals, value = setting.partition("=")
    if not equals:
        raise InputError(f"--set needs KEY=VALUE, got {setting!r}.")
    return key.strip(), value.strip()


@contextlib.contextmanager
def _own_folder(recipe: str, out: Path | None, ranks: Ranks):
    """The folder of a new run: as given, or a free one that the first process takes for all."""
    with free_folder(recipe) if out is None and ranks.is_first else contextlib.nullcontext(out) as folder:
        yield ranks.from_first(folder)


def _width(shape: str, title: str) -> str:
    """The title as wide as its column."""
    return title.rjust(max(len(title), len(shape.format(0))))
