"""The folder of a run: what its files say, and the model they hold."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .. import models
from ..data import DATASETS, Images
from ..errors import CheckpointError, InputError, RunError
from ..models import Classifier
from .checkpoint import CHECKPOINT, RECIPE, check_fits, part, read_checkpoint, read_json
from .recipe import Recipe

WIRINGS, INITIAL = "wiring", "initial.safetensors"
UNFINISHED = ".unfinished"  # in a folder whose making was cut off: it may be made again
# recipe fields that models take if they have them, and those that selectors take, by their names there
MODEL_OPTIONS = ("k", "width", "pool", "steps", "solver")
SELECTOR_OPTIONS = {"drop": "drop", "l1": "strength"}


@dataclass
class Progress:
    """Where a run stands, saved with every checkpoint.

    Args:
        epoch: number of the current epoch, from 0.
        step: finished steps of this epoch.
        loss: summed over the images of this epoch so far.
        correct: right answers likewise.
        seconds: of training in this epoch so far.
        rows: the metrics of finished epochs.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    rows: list[dict] = field(default_factory=list)

    @classmethod
    def from_json(cls, fields: dict) -> Progress:
        """The progress that a checkpoint holds.

        Raises:
            TypeError, ValueError: for fields that are missing, unknown, or of another kind.
        """
        progress = cls(**fields)
        for name in ("epoch", "step", "correct"):
            if type(getattr(progress, name)) is not int or getattr(progress, name) < 0:
                raise ValueError(f"{name} is {getattr(progress, name)!r}")
        for name in ("loss", "seconds"):
            if type(getattr(progress, name)) not in (int, float):
                raise ValueError(f"{name} is {getattr(progress, name)!r}")
        rows = progress.rows
        if not isinstance(rows, list) or len(rows) != progress.epoch or not all(
                isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
            raise ValueError(f"rows are not {progress.epoch} epochs of metrics")
        return progress


def describe(data: Images) -> dict:
    """What a model and a continued run have to know of the images."""
    return {"name": data.name, "train": data.num_train, "test": data.num_test,
            "classes": list(data.classes), "channels": data.channels, "size": list(data.size),
            "fingerprint": data.fingerprint()}


def read_recipe(folder: Path) -> tuple[Recipe, dict]:
    """The recipe of the run in ``folder``, and all of its ``recipe.json``.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    path = folder / RECIPE
    description = read_json(path)
    try:
        images = description["data"]
        if not isinstance(images, dict) or not isinstance(images["classes"], list) or [
                type(n) for n in (images["channels"], *images["size"])] != [int] * 3:
            raise ValueError(f"the images are described by {images!r}")
        return Recipe.from_json(description["recipe"]), description
    except (KeyError, TypeError, AttributeError, LookupError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def read_progress(state: dict, path: Path) -> Progress:
    """Where a checkpoint stands.

    Raises:
        CheckpointError: if it does not say so in the right words.
    """
    try:
        return Progress.from_json(state["progress"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def open_model(folder: str | Path, backend: str | None = None) -> tuple[Recipe, Classifier, Progress]:
    """The recipe, the model and the progress of the run in ``folder``; needs none of its images.

    Raises:
        CheckpointError: if a file is missing, damaged or foreign.
    """
    folder = Path(folder)
    recipe, description = read_recipe(folder)
    if backend is not None:
        recipe = dataclasses.replace(recipe, backend=backend)
    path = folder / CHECKPOINT
    tensors, state = read_checkpoint(path)
    model = make_model(recipe, description["data"])
    load_model(model, tensors, path)
    return recipe, model, read_progress(state, path)


def load_model(model: Classifier, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Gives a model the values of a checkpoint."""
    values = part(tensors, "model")
    check_fits(values, model.state_dict(), path)
    model.load_state_dict(values)


def make_model(recipe: Recipe, images: dict) -> Classifier:
    """The model of a recipe for images as :func:`describe` has them, with its initial values.

    Raises:
        InputError: for a setting that neither the model nor the selector has.
    """
    height, width = images["size"]
    if height != width:
        raise InputError(f"{images['name']} has images of {height}x{width} pixels; models "
                         "take square ones: give image_size to resize.")
    known = models.options_of(recipe.model)
    options = {name: getattr(recipe, name) for name in MODEL_OPTIONS
               if getattr(recipe, name) is not None}
    selector_options = {option: getattr(recipe, name) for name, option in SELECTOR_OPTIONS.items()
                        if getattr(recipe, name) is not None}
    if "selector" in known:
        options |= {"selector": recipe.selector, "selector_options": selector_options}
    elif recipe.selector != "complete" or selector_options:
        raise InputError(f"the model {recipe.model!r} keeps all its edges; use selector=complete.")
    for name in options:
        if name not in known:
            raise InputError(f"the model {recipe.model!r} has no setting {name!r}; leave it out "
                             f"(--set {name}=none).")
    return models.create(recipe.model, num_classes=len(images["classes"]),
                         in_channels=images["channels"], image_size=height, backend=recipe.backend, seed=recipe.seed, **options)


def with_whole_paths(recipe: Recipe) -> Recipe:
    """A run must find its images and its source again from any folder."""
    for name in ("data", "source"):
        value = getattr(recipe, name)
        if value is not None and value not in DATASETS and Path(value).exists():
            recipe = dataclasses.replace(recipe, **{name: str(Path(value).resolve())})
    return recipe


def listed_changes(changes: dict[str, list]) -> str:
    """name=new (was old), ..."""
    return ", ".join(f"{name}={new} (was {old})" for name, (old, new) in changes.items())


def check_free(folder: Path) -> None:
    """Refuses a folder that holds something, unless it is a run whose making was cut off."""
    if (folder / UNFINISHED).is_file() and not (folder / RECIPE).exists():
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "holds another run" if (folder / RECIPE).exists() else "exists and is not empty"
        raise RunError(f"{folder} {what}: continue that one with --resume, or choose another "
                       "folder with --out.")


@contextlib.contextmanager
def alone_in(folder: Path):
    """Keeps a second process from training the same run; a killed one leaves nothing behind."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise RunError(f"cannot open the folder {folder}: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RunError(f"{folder} is being trained by another process; wait for it or stop it.") from None
    except OSError:
        pass  # a file system without locks
    _LOCKS.add(descriptor)
    try:
        yield
    finally:
        _LOCKS.discard(descriptor)
        os.close(descriptor)


_LOCKS: set[int] = set()


def _drop_locks() -> None:
    """A process forked to read images must not keep the lock of a parent that was killed."""
    while _LOCKS:
        os.close(_LOCKS.pop())


os.register_at_fork(after_in_child=_drop_locks)
