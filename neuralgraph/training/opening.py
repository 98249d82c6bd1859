"""What the folder of a run says: its recipe, and the model it holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from .. import growing, models
from .._version import __version__
from ..data import Images
from ..errors import CheckpointError, InputError, NeuralGraphError
from ..models import Classifier, Preprocessing
from ..rewiring import History
from .checkpoint import CHECKPOINT, RECIPE, load_model, newer_version, read_checkpoint, read_json
from .folder import HISTORY, last_round
from .options import MODEL_OPTIONS, SELECTOR_OPTIONS
from .progress import Progress, read_progress
from .recipe import Recipe


def describe(data: Images) -> dict:
    """What a model and a continued run have to know of the images."""
    return {"name": data.name, "train": data.num_train, "test": data.num_test,
            "classes": list(data.classes), "channels": data.channels, "size": list(data.size),
            "fingerprint": data.fingerprint()}


def read_recipe(folder: Path) -> tuple[Recipe, dict[str, Any]]:
    """The recipe of the run in ``folder``, and all of its ``recipe.json``.

    Raises:
        CheckpointError: if the file is missing, damaged, of a newer version or of a training without a
            recipe.
    """
    description = read_json(folder / RECIPE)
    return recipe_in(description, folder), description


def recipe_in(description: dict[str, Any], folder: Path) -> Recipe:
    """The recipe in the content of the ``recipe.json`` of ``folder``; raises as :func:`read_recipe`."""
    path = folder / RECIPE
    if "fit" in description:
        raise CheckpointError(f"{folder} is of neuralgraph.training.fit and holds no recipe: make the same "
                              "model in Python and call fit with resume=True.")
    try:
        images = description["data"]
        if not isinstance(images, dict) or not isinstance(images["classes"], list) or [
                type(n) for n in (images["channels"], *images["size"])] != [int] * 3:
            raise ValueError(f"the images are described by {images!r}")
        return Recipe.from_json(description["recipe"])
    except (KeyError, TypeError, AttributeError, LookupError, ValueError) as error:
        newer = newer_version(description)
        raise CheckpointError(
            f"{path} was written by neuralgraph {newer}, which is newer than this one ({__version__}): "
            f"update it to read the run ({error})" if newer else f"{path} is damaged: {error}") from error


def open_model(folder: str | Path, backend: str | None = None) -> tuple[Recipe, Classifier, Progress]:
    """The recipe, the model and the progress of the run in ``folder``; needs none of its images.

    The model is in evaluation mode, and its ``preprocessing`` says what it takes images for; that is None
    if the run was last trained before checkpoints held it. Of a run that grows it is the last round's.

    Raises:
        CheckpointError: if a file is missing, damaged or foreign.
    """
    folder = last_round(Path(folder))
    recipe, description = read_recipe(folder)
    if backend is not None:
        recipe = dataclasses.replace(recipe, backend=backend)
    model, progress = trained(recipe, description, folder)
    return recipe, model, progress


def trained(recipe: Recipe, description: dict[str, Any], folder: Path) -> tuple[Classifier, Progress]:
    """What :func:`open_model` gives, of a run's own folder whose ``recipe.json`` has been read."""
    path = folder / CHECKPOINT
    tensors, state = read_checkpoint(path)
    model = grown(make_model(recipe, description["data"]), state, path)
    load_model(model, tensors, path)
    if state.get("preprocessing") is not None:
        try:
            model.preprocessing = Preprocessing.from_json(state["preprocessing"])
        except InputError as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
    return model.eval(), read_progress(state, path)


def grown(model: Classifier, state: dict, path: Path) -> Classifier:
    """The model with the nodes that it had when the checkpoint ``path`` was written.

    Raises:
        CheckpointError: for a growth that is not of this model.
    """
    try:
        return growing.regrow(model, state.get("growth", []))
    except NeuralGraphError as error:
        raise CheckpointError(f"{path} does not fit the run's model: {error}") from error


def history(folder: str | Path) -> History:
    """Which edges were real when in a run, or in a training by :func:`fit`; of a run that grows, in its last round.

    It may still be going on: ``history(folder).refresh()`` reads what was written since.

    Raises:
        CheckpointError: if there is none, as in runs of before histories were recorded, or it is damaged.
    """
    return History(last_round(Path(folder)) / HISTORY)


def preprocessing_of(data: Images, recipe: Recipe) -> Preprocessing:
    """How the images of a run become the input of its model."""
    mean, std = (tuple(map(float, values)) for values in (data.mean, data.std))
    return Preprocessing(mean, std, tuple(map(str, data.classes)), data.size[0], data.channels,
                         recipe.resized_crop)


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
    if "backend" not in known and recipe.backend != "auto":
        raise InputError(f"the model {recipe.model!r} has no sums over edges to compute by the backend "
                         f"{recipe.backend!r}: leave it out.")
    options = {name: getattr(recipe, name) for name in MODEL_OPTIONS
               if getattr(recipe, name) is not None} | (recipe.model_options or {})
    selector_options = {option: getattr(recipe, name) for name, option in SELECTOR_OPTIONS.items()
                        if getattr(recipe, name) is not None} | (recipe.selector_options or {})
    if "selector" in known:
        options |= {"selector": recipe.selector, "selector_options": selector_options}
    elif recipe.selector != "complete" or selector_options:
        raise InputError(f"the model {recipe.model!r} keeps all its edges; use selector=complete.")
    for name in options:
        if name not in known:
            raise InputError(f"the model {recipe.model!r} has no setting {name!r}; leave it out "
                             f"(--set {name}=none).")
    if "backend" in known:
        options["backend"] = recipe.backend
    return models.create(recipe.model, num_classes=len(images["classes"]), in_channels=images["channels"],
                         image_size=height, seed=recipe.seed, **options)
