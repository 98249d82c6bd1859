"""The command predict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shlex import quote

import click
import torch
from torch import nn

from .. import inference
from ..data import find_pictures, read_picture
from ..errors import DataError, InputError
from ..models import Preprocessing
from ..training import open_model

BATCH = 64  # images at once


def predict(source: Path, places: tuple[Path, ...], top: int) -> None:
    model, preprocessing = _opened(source)
    failed = False
    for batch, paths in _batches(find_pictures(places), preprocessing):
        for error in (found for found in paths if isinstance(found, DataError)):
            click.echo(f"Error: {error}", err=True)
            failed = True
        paths = [path for path in paths if isinstance(path, Path)]
        if not paths:
            continue
        with torch.inference_mode():
            shares = model(batch).softmax(1)
        best = shares.topk(min(top, shares.shape[1]))
        for path, values, numbers in zip(paths, best.values.tolist(), best.indices.tolist()):
            named = ", ".join(f"{preprocessing.classes[number]} {100 * value:.1f} %"
                              for value, number in zip(values, numbers))
            click.echo(f"{path}: {named}")
    if failed:
        raise SystemExit(1)


def _opened(source: Path) -> tuple[nn.Module, Preprocessing]:
    """The model of a run or a compiled file, and what it takes pictures for."""
    if source.is_dir():
        _, model, _ = open_model(source)
        mend = ("it was last saved by a version that did not keep them; neuralgraph train "
                f"{quote(str(source))} --resume adds them (its images must be there)")
    elif source.is_file():
        model = inference.load(source)
        mend = "it is no compiled run, such as neuralgraph benchmark RUN --save FILE makes" \
            if isinstance(model, (inference.CompiledLayers, inference.CompiledNetwork)) else \
            "compile the model again: neuralgraph benchmark RUN --save FILE"
    else:
        raise InputError(f"there is neither a run nor a file {source}.")
    preprocessing = getattr(model, "preprocessing", None)
    if preprocessing is None:
        raise InputError(f"{source} does not hold how its model takes images (mean, standard deviation, "
                         f"classes, size): {mend}.")
    return model, preprocessing


def _batches(paths: list[Path], preprocessing: Preprocessing) -> Iterator[tuple[torch.Tensor, list]]:
    """(inputs of the model, paths, in place of each that cannot be used its error)."""
    for start in range(0, len(paths), BATCH):
        found: list[Path | DataError] = []
        inputs = []
        for path in paths[start:start + BATCH]:
            try:
                inputs.append(preprocessing(read_picture(path)))
                found.append(path)
            except DataError as error:
                found.append(error)
            except InputError as error:
                found.append(DataError(f"cannot use the image {path}: {error}"))
        yield torch.cat(inputs) if inputs else torch.empty(0), found
