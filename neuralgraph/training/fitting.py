"""Training anybody's model on anybody's data, by the loop that trains recipes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..errors import InputError, RunError, lookup
from ..models import Classifier
from .checkpoint import CHECKPOINT, RECIPE, read_checkpoint, read_json, write_json
from .distributed import choose_device, current
from .folder import Seen, check_free, making
from .lineage import listed_changes
from .loop import Loop
from .optimizers import check_optimizer
from .progress import read_progress
from .run import versions
from .schedules import SCHEDULES, Schedule
from .supervised import Batches, Supervised, check_integers
from .watching import Watcher

FIXED_IN_EPOCH = ("steps_per_epoch", "seed")  # what decides what a step sees


def fit(model: nn.Module, loader: Batches, *, folder: str | Path, epochs: int,
        loss: Callable[[Any, Any], torch.Tensor],
        metrics: Mapping[str, Callable[[Any, Any], float]] | None = None,
        test: Batches | None = None,
        optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
        schedule: str | Schedule = "cosine", steps_per_epoch: int | None = None, seed: int = 0,
        device: str = "cpu", resume: bool = False, accept_changes: bool = False,
        watcher: Watcher | None = None) -> list[dict[str, Any]]:
    """Trains any model on any data and keeps everything in a folder, as a recipe's run does.

    One step minimises

        loss(model(x), target) + the penalties of the selectors of all neural graphs inside the model

    and then tells these selectors how far the training is. The folder gets ``checkpoint.safetensors``
    (everything needed to go on), ``metrics.csv`` (a line per epoch), ``wiring.history`` (which edges of
    every neural graph and sparse layer were real when) and ``recipe.json`` (how it was trained).

    A training that was stopped or killed and is resumed ends with the same bits as an undisturbed one, on
    one machine, if every epoch's batches are the same whenever they are asked for. So what ``loader`` and
    ``model`` draw must come from torch's global generator (a DataLoader's shuffling, dropout), which is set
    from seed, epoch and step before every batch and given back in the end as it was, or be determined by
    epoch and index. A ``torch.Generator`` that goes on from epoch to epoch does not do, nor do the global
    generators of NumPy and Python. To resume within an epoch, its first batches are read again.

    Args:
        model: trained in place, moved to ``device``, left in evaluation mode.
        loader: of the training batches ``(x, target)``: an iterable that can be gone through once per epoch
            (a DataLoader, a list), whose ``set_epoch(epoch)``, or its sampler's, is called if it has one; or
            a function of the epoch, from 0, that returns one. Tensors in ``x`` and ``target``, and in dicts,
            lists and tuples there, are moved to ``device``. The first dimension of the first tensor is the
            number of samples, the weight of a batch in means over an epoch.
        folder: new, empty, or to be resumed.
        epochs: how many times to go through the loader.
        loss: of ``model(x)`` and ``target``: a tensor of one number, the mean over the batch.
        metrics: by name, functions of the same two that return a number, the mean over the batch.
        test: batches as of ``loader``, to judge the model by after every epoch.
        optimizer: makes one from the model's parameters; by default SGD with the recipes' rate 0.1,
            momentum 0.9 and weight decay 1e-4.
        schedule: of what the optimizer's learning rates are multiplied by: "cosine" (to 0, per step),
            "constant", or a function of finished steps, steps per epoch and epochs.
        steps_per_epoch: for loaders without a length, or to use so many batches of each epoch only.
        seed: see above.
        device: "cpu", "cuda", "cuda:N", or "auto" for a GPU if there is one.
        resume: go on with the training that the folder holds, whose arguments must be these; begin if it
            holds nothing yet.
        accept_changes: resume although arguments differ, with more epochs for example; the folder keeps a
            record of it.
        watcher: hears of every step and epoch: :class:`ProgressBar()` shows them.

    Returns:
        The metrics of every epoch: "epoch", "train_loss" and "test_loss", "train_NAME" and "test_NAME" of
        each metric, what :class:`~neuralgraph.training.log.Log` lists of the wiring, "samples_per_second"
        and "seconds".

    Raises:
        InputError: for arguments that cannot be used.
        RunError: if the folder holds something else, or other arguments, or cannot be written.
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP, once everything is saved.

    >>> import tempfile, torch, neuralgraph as ng
    >>> x = torch.linspace(-1, 1, 64).view(64, 1, 1, 1)                     # regression of a sine
    >>> batches = list(zip(x.split(16), torch.sin(3 * x).split(16)))
    >>> unit = ng.NodeFunction("bias activation", activation="tanh")
    >>> net = ng.StaticNeuralGraph(ng.wirings.blocks([1, 16, 16, 1], unit), ng.TopK(k=120))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = ng.training.fit(net, batches, folder=folder, epochs=30,
    ...                            loss=torch.nn.functional.mse_loss,
    ...                            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.1))
    >>> rows[-1]["train_loss"] < 0.2 * rows[0]["train_loss"]
    True
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module to train, got {type(model).__name__}.")
    check_integers(epochs=(epochs, 0), seed=(seed, 0))
    epochs, seed = int(epochs), int(seed)
    schedule_name = schedule if isinstance(schedule, str) else _name(schedule)
    factor = lookup("schedule", schedule, SCHEDULES) if isinstance(schedule, str) else schedule
    if not callable(factor) or (optimizer is not None and not callable(optimizer)):
        raise InputError("optimizer and schedule must be functions (schedule, or its name): optimizer=lambda "
                         "parameters: torch.optim.AdamW(parameters, lr=1e-3).")
    if current().size > 1:
        raise InputError("fit trains in one process; several train recipes only (neuralgraph.training.Run).")
    place = choose_device(device)
    task = Supervised(loader, test, loss, metrics or {}, steps_per_epoch, seed, place)
    model.to(place)
    made = check_optimizer(_sgd(model.parameters()) if optimizer is None
                           else optimizer(list(model.parameters())), model)
    folder = Path(folder)
    seen = Seen(folder)
    begun = (folder / RECIPE).exists()
    if not (resume and begun):
        check_free(folder)
    described = {"model": type(model).__name__, "epochs": epochs, "loss": _name(loss),
                 "metrics": list(task.metrics), "tested": test is not None,
                 "optimizer": type(made).__name__, "groups": _groups(made), "schedule": schedule_name,
                 "steps_per_epoch": task.steps_per_epoch, "seed": seed}
    described = json.loads(json.dumps(described, default=repr))
    preprocessing = model.preprocessing if isinstance(model, Classifier) else None
    run = Loop(model, task, made, folder, epochs=epochs, schedule=factor, ranks=current(), device=place,
               notes={} if preprocessing is None else {"preprocessing": preprocessing.to_json()})
    content = {"fit": described, "versions": versions()}
    if not begun:
        with making(folder):
            run.save()
            write_json(folder / RECIPE, content)
            run.seen.remember()
        old = described
    else:
        run.seen = seen
        old, changes = _resume(run, described, accept_changes)
        content["changes"] = changes
    with run.alone():
        if old != described:
            write_json(folder / RECIPE, content)
            run.seen.remember()
        rows = run.train(run, watcher or Watcher())
    model.eval()
    return rows


def _resume(run: Loop, described: dict, accept_changes: bool) -> tuple[dict, list[dict]]:
    """Takes over the checkpoint of a folder; how it was trained before, and the record of all changes."""
    content = read_json(run.folder / RECIPE)
    old = content.get("fit")
    if not isinstance(old, dict):
        raise RunError(f"{run.folder} holds a recipe's run, not a training by fit: continue it with "
                       "neuralgraph train --resume, or choose another folder.")
    changes = {name: [old.get(name), described.get(name)] for name in {**old, **described}
               if old.get(name) != described.get(name)}
    if "model" in changes:
        raise RunError(f"{run.folder} holds the training of a {old.get('model')}, not of a "
                       f"{described['model']}; choose another folder.")
    if changes and not accept_changes:
        raise RunError(f"{run.folder} began with other arguments: {listed_changes(changes)}. Give those "
                       "again, or accept_changes=True to go on with these.")
    path = run.folder / CHECKPOINT
    tensors, state = read_checkpoint(path)
    progress = read_progress(state, path)
    fixed = [name for name in FIXED_IN_EPOCH if name in changes]
    if fixed and progress.step:
        raise RunError(f"{', '.join(fixed)} can change between epochs only, but the checkpoint is from step "
                       f"{progress.step} of an epoch; finish that epoch as it began.")
    if "optimizer" in changes:  # its state means nothing to another
        tensors = {name: value for name, value in tensors.items() if not name.startswith("optimizer.")}
        state = {**state, "optimizer": {}}
    run.load(tensors, state, path)
    record = content.get("changes", [])
    if changes:
        record = [*record, {"epoch": run.progress.epoch, "step": run.progress.step,
                            "from": {name: was for name, (was, _) in changes.items()}}]
    return old, record


def _name(function: object) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def _groups(optimizer: Optimizer) -> list[dict]:
    """The settings of each parameter group as the training begins."""
    return [{name: value.tolist() if isinstance(value, torch.Tensor) else value
             for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def _sgd(parameters) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4)
