"""The commands train and evaluate."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from tqdm import tqdm

from ..errors import InputError, RunError, lookup
from ..training import RECIPES, Interrupted, Recipe, Run, Watcher, join, keep_freed_memory, read_recipe
from ..training.recipes import GROUPS

COLUMNS = (
    ("epoch", "epoch", "{:>5}"), ("train_loss", "loss", "{:>7.4f}"),
    ("train_accuracy", "train %", "{:>7.2f}"), ("test_accuracy", "test %", "{:>7.2f}"),
    ("threshold", "threshold", "{:>9.2e}"), ("swapped_edges", "swapped", "{:>8}"),
    ("dead_nodes", "dead", "{:>5}"), ("images_per_second", "images/s", "{:>8.0f}"),
)


class Display(Watcher):
    """A progress bar on a terminal, and one line per epoch everywhere."""

    def __init__(self):
        self.bar = None

    def started(self, run):
        edges = ", ".join(f"{network.selector.num_real} of {network.wiring.num_edges} edges"
                          for network in run.model.networks)
        click.echo(f"{run.recipe.name} on {run.data.name}: {run.data.num_train} training and "
                   f"{run.data.num_test} test images, {edges}, selector "
                   f"{run.recipe.selector}, in {run.folder}")
        click.echo(" ".join(_width(shape, title) for _, title, shape in COLUMNS))
        done = run.progress.epoch * run.steps_per_epoch + run.progress.step
        if sys.stderr.isatty() and not run.is_finished:
            per_epoch = run.data.num_train
            self.bar = tqdm(total=run.recipe.epochs * per_epoch, unit="image", unit_scale=True,
                            initial=min(done * run.recipe.batch_size, run.recipe.epochs * per_epoch),
                            leave=False, dynamic_ncols=True)

    def stepped(self, run, images, loss, accuracy):
        if self.bar is not None:
            self.bar.set_description(f"epoch {run.progress.epoch + 1}/{run.recipe.epochs}", refresh=False)
            self.bar.set_postfix_str(f"loss {loss:.3f}, {100 * accuracy:.1f} % right", refresh=False)
            self.bar.update(images)

    def finished_epoch(self, run, row):
        line = " ".join(shape.format(row[name]) for name, _, shape in COLUMNS)
        tqdm.write(line) if self.bar is not None else click.echo(line)

    def close(self):
        if self.bar is not None:
            self.bar.close()


def recipes() -> None:
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
        place = {"device": device, "workers": workers}
        if resume:
            folder = _found(recipe, out)
            run = Run.open(folder, settings=given, accept_changes=accept_changes, **place)
        else:
            chosen = _recipe(recipe).with_settings(given)
            folder = ranks.from_first(out or _free_folder(chosen.name))
            run = Run.create(chosen, folder, **place)
        _train(run, check_ranks)


def _train(run: Run, check_ranks: bool) -> None:
    """Trains and says so, in the first process only."""
    first = run.ranks.is_first
    display = Display() if first else Watcher()
    try:
        rows = run.train(display, check_ranks)
    except Interrupted as stop:
        if first:
            display.close()
            click.echo(f"{stop}\nContinue with: neuralgraph train {run.recipe.name} --resume --out "
                       f"{run.folder}", err=True)
        raise SystemExit(130) from None
    finally:
        if first:
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
    used = ", ".join(sorted({repr(network.backend) for network in run.model.networks}))
    click.echo(f"test accuracy {accuracy:.2f} %, top-5 {top5:.2f} %, loss {loss:.4f} on {count} images "
               f"of {run.data.name}, {count / seconds:.0f} images/s with {used}")


def _recipe(name: str) -> Recipe:
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
    folder = Path(recipe) if is_run else out or _latest_folder(recipe)
    saved, _ = read_recipe(folder)
    if saved.name != recipe and not is_run:
        raise RunError(f"{folder} holds a run of {saved.name!r}, not of {recipe!r}: "
                       f"neuralgraph train {saved.name} --resume --out {folder}")
    return folder


def given_settings(settings: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE, as given to --set, as a dict."""
    return dict(_split(setting) for setting in settings)


def _split(setting: str) -> tuple[str, str]:
    key, equals, value = setting.partition("=")
    if not equals:
        raise InputError(f"--set needs KEY=VALUE, got {setting!r}.")
    return key.strip(), value.strip()


def _numbered(recipe: str, number: int) -> Path:
    return Path("runs", recipe if number == 1 else f"{recipe}-{number}")


def _free_folder(recipe: str) -> Path:
    """runs/RECIPE, or the first of runs/RECIPE-2, -3, ... that does not exist."""
    number = 1
    while _numbered(recipe, number).exists():
        number += 1
    return _numbered(recipe, number)


def _latest_folder(recipe: str) -> Path:
    number = 1
    while _numbered(recipe, number).exists():
        number += 1
    if number == 1:
        raise RunError(f"there is no run to resume in {_numbered(recipe, 1)}; name its folder with "
                       "--out.")
    return _numbered(recipe, number - 1)


def _width(shape: str, title: str) -> str:
    """The title as wide as its column."""
    return title.rjust(max(len(title), len(shape.format(0))))
