"""Where a run comes from: another run that it starts from, and what was changed since it began."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import torch

from ..data import DATASETS
from ..errors import InputError, RunError
from ..layers import choices_of
from ..layers.choice import Choice
from ..models import Classifier
from ..networks import NeuralGraph
from ..selectors import FROM_TRAINED, Ticket
from .checkpoint import read_checkpoint
from .folder import INITIAL
from .progress import Progress
from .recipe import Recipe

if TYPE_CHECKING:
    from .run import Run

# what decides the images of a step, so that it cannot change inside an epoch
ORDER = ("data", "image_size", "resized_crop", "batch_size", "seed")


def with_whole_paths(recipe: Recipe) -> Recipe:
    """A run must find its images and its source again from any folder."""
    for name in ("data", "source"):
        value = getattr(recipe, name)
        if value is not None and value not in DATASETS and Path(value).exists():
            whole: dict[str, Any] = {name: str(Path(value).resolve())}
            recipe = dataclasses.replace(recipe, **whole)
    return recipe


def listed_changes(changes: dict[str, list]) -> str:
    """name=new (was old), ..."""
    return ", ".join(f"{name}={new} (was {old})" for name, (old, new) in changes.items())


def changes_of(recipe: Recipe, saved: Recipe, folder: Path, accept: bool) -> dict[str, list]:
    """[old, new] of every setting that is not the saved one's; the path of the images may be another.

    Raises:
        RunError: if there are any that are not accepted.
    """
    changes = {name: [old, getattr(recipe, name)] for name, old in vars(saved).items()
               if name != "data" and getattr(recipe, name) != old}
    if changes and not accept:
        raise RunError(f"{folder} began with other settings: {listed_changes(changes)}. Leave them "
                       "out, or give --accept-changes to go on with them.")
    return changes


def changes_of_images(images: dict, saved: dict, folder: Path, accept: bool) -> dict[str, list]:
    """[old, new] of the images as a whole, if anything but their name differs.

    Raises:
        RunError: if they differ and that is not accepted.
    """
    differing = {name: [saved.get(name), value] for name, value in images.items()
                 if name != "name" and saved.get(name) != value}
    if differing and not accept:
        raise RunError(f"the images of {images['name']} are not those that {folder} began with: "
                       f"{listed_changes(differing)}. Restore them, or go on with these by "
                       "neuralgraph train --resume --accept-changes.")
    return {"data": [saved, images]} if differing else {}


def recorded(changes: dict[str, list], progress: Progress) -> list[dict]:
    """A record of changes for ``recipe.json``.

    Raises:
        RunError: for what cannot change inside an epoch.
    """
    if not changes:
        return []
    if progress.step and not changes.keys().isdisjoint(ORDER):
        raise RunError(f"{', '.join(sorted(changes.keys() & set(ORDER)))} decides which images a "
                       "step sees and can change between epochs only, but the checkpoint is from "
                       f"step {progress.step} of an epoch; finish that epoch as it began.")
    return [{"epoch": progress.epoch, "step": progress.step,
             "from": {name: old for name, (old, _) in changes.items()}}]


def check_source(recipe: Recipe) -> bool:
    """Whether the selector of a recipe takes its wiring from another run.

    Raises:
        InputError: if that run is not given, or one is given that is not needed.
    """
    if recipe.selector not in FROM_TRAINED:
        if recipe.source is not None:
            raise InputError(f"the selector {recipe.selector!r} takes nothing from another run; leave "
                             "source out.")
        return False
    if recipe.source is None:
        raise InputError(f"the selector {recipe.selector!r} needs a finished run to take its wiring "
                         "from: --set source=FOLDER.")
    return True


def _ticket(owner: NeuralGraph | Choice) -> Ticket:
    """The selector of a network or of layers, of those in FROM_TRAINED."""
    assert isinstance(owner.selector, Ticket)
    return owner.selector


def take_over(model: Classifier, recipe: Recipe, source: Run) -> None:
    """Gives a lottery ticket or a fine-tuned network the wiring of the run it comes from.

    Raises:
        RunError: if that run is unfinished or of another model.
    """
    assert recipe.source is not None  # see check_source
    if not source.is_finished:
        raise RunError(f"the run in {recipe.source} is not finished (epoch {source.progress.epoch} of "
                       f"{source.recipe.epochs}); finish it with neuralgraph train "
                       f"{quote(source.recipe.name)} --resume --out {quote(recipe.source)}")
    if source.recipe.model != recipe.model:
        raise RunError(f"the run in {recipe.source} trained {source.recipe.model!r}, this one is "
                       f"{recipe.model!r}; they must be the same model.")
    initial: dict[str, torch.Tensor] = {}
    choices = [choice for _, choice in choices_of(model)]
    if recipe.selector == "lottery-ticket" or any(
            ticket.needs_initial for ticket in (*map(_ticket, model.networks), *map(_ticket, choices))):
        initial, _ = read_checkpoint(source.folder / INITIAL)
    names = {part: name for name, part in source.model.named_modules()}
    for mine, theirs in zip(model.networks, source.model.networks):
        if mine.wiring != theirs.wiring:
            raise RunError(f"the run in {recipe.source} has other candidate edges; use the same model "
                           "settings.")
        _ticket(mine).draw(theirs.weight, initial.get(f"{names[theirs]}.weight"))
    names, trained = {id(own): name for name, own in model.named_parameters()}, dict(source.model.named_parameters())
    for choice in choices:
        own = [names[id(parameter)] for parameter in choice.parameters()]
        weight, first = (torch.cat([values[name].detach().flatten() for name in own]) if values else None
                         for values in (trained, initial))
        assert weight is not None  # a model has parameters
        _ticket(choice).draw(weight, first)
    values = initial if recipe.selector == "lottery-ticket" else source.model.state_dict()
    own = model.state_dict()
    own.update({name: value for name, value in values.items() if ".selector." not in name})
    model.load_state_dict(own)
