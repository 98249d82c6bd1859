"""A training run: the loop, its folder, and how it is continued."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import platform
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

from .. import models
from .._version import __version__
from ..analysis import dead_nodes
from ..data import DATASETS, Augmentation, ImageData, generator_for, load, training_order
from ..errors import CheckpointError, InputError, RunError
from ..models import Classifier
from ..selectors import FROM_TRAINED
from .checkpoint import (CHECKPOINT, load_state, read_checkpoint, read_json, write_checkpoint,
                         write_csv, write_json, write_wirings)
from .recipe import Recipe

RECIPE, METRICS, WIRINGS, INITIAL = "recipe.json", "metrics.csv", "wiring", "initial.safetensors"
# recipe fields that models take if they have them, and those that selectors take, by their names there
MODEL_OPTIONS = ("k", "width", "pool", "steps", "tied", "solver", "rtol", "atol", "time", "adjoint",
                 "max_evaluations", "solver_options")
SELECTOR_OPTIONS = {"drop": "drop", "l1": "strength"}
SAVE_EVERY = 300  # seconds between checkpoints inside an epoch
EVALUATION_BATCH = 500


class Interrupted(RunError):
    """Somebody asked the run to stop; everything is saved."""


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


class Watcher:
    """Hears of the run as it goes; the command line draws it. Every method may be left as it is."""

    def started(self, run: Run) -> None: ...

    def stepped(self, run: Run, images: int, loss: float, accuracy: float) -> None: ...

    def finished_epoch(self, run: Run, row: dict) -> None: ...


class Run:
    """One training run and its folder.

    The folder holds ``recipe.json`` (the recipe with what produced it), ``checkpoint.safetensors``
    (everything needed to go on), ``metrics.csv`` (a line per epoch) and ``wiring/epoch-NNNN.npz``
    (the real edges after each epoch; 0 is the start). The order of the images and their
    augmentation depend on seed, epoch and step only, so a continued run does exactly what an
    undisturbed one would have done.

    Use :meth:`create` for a new run and :meth:`open` for one that exists.
    """

    def __init__(self, recipe: Recipe, folder: Path, data: ImageData):
        self.recipe, self.folder, self.data = recipe, folder, data
        if recipe.batch_size > len(data.train_images):
            raise InputError(f"batch_size={recipe.batch_size}, but {data.name} has only "
                             f"{len(data.train_images)} training images; choose a smaller batch.")
        if recipe.crop_padding > min(data.size):
            raise InputError(f"crop_padding={recipe.crop_padding} is more than the "
                             f"{min(data.size)} pixels of an image; choose less.")
        self.model = make_model(recipe, data)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=recipe.lr, momentum=recipe.momentum,
            weight_decay=recipe.weight_decay, nesterov=recipe.nesterov)
        self.progress = Progress()
        self.last_real = self._real_edges()
        self.augmentation = Augmentation(recipe.crop_padding, recipe.flip)

    # Making and opening

    @classmethod
    def create(cls, recipe: Recipe, folder: str | Path, data: ImageData | None = None) -> Run:
        """A new run; its folder must be new or empty.

        Raises:
            RunError: if the folder holds something already.
            InputError, DataError, UnknownNameError: for a recipe that cannot be run; the folder is
                not made then.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            what = "holds another run" if (folder / RECIPE).exists() else "exists and is not empty"
            raise RunError(f"{folder} {what}: continue that one with --resume, or choose another "
                           "folder with --out.")
        for name in ("data", "source"):  # a run must be found again from any folder
            value = getattr(recipe, name)
            if value is not None and value not in DATASETS and Path(value).exists():
                recipe = dataclasses.replace(recipe, **{name: str(Path(value).resolve())})
        run = cls(recipe, folder, data or load(recipe.data, recipe.image_size))
        _take_over(run)
        run.last_real = run._real_edges()
        try:
            (folder / WIRINGS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the folder {folder}: {error.strerror}.") from error
        write_json(folder / RECIPE, {
            "recipe": recipe.to_json(), "data": run.describe_data(),
            "versions": {"neuralgraph": __version__, "torch": torch.__version__,
                         "python": platform.python_version()},
        })
        if recipe.selector == "complete":  # a lottery ticket may be drawn from it
            write_checkpoint(folder / INITIAL, run.model.state_dict(), {})
        run.write_wiring()
        run.save()
        return run

    @classmethod
    def open(cls, folder: str | Path, data: ImageData | None = None,
             backend: str | None = None) -> Run:
        """The run in ``folder`` as its last checkpoint left it.

        Args:
            folder: of the run.
            data: the images, if they are loaded already.
            backend: instead of the recipe's.

        Raises:
            CheckpointError: if a file is missing, damaged or foreign.
            RunError: if the images are not those the run began with.
        """
        folder = Path(folder)
        description = read_json(folder / RECIPE)
        try:
            recipe = Recipe.from_json(description["recipe"])
            began_with = description["data"]
        except (KeyError, TypeError, LookupError, InputError) as error:
            raise CheckpointError(f"{folder / RECIPE} is damaged: {error}") from error
        tensors, state = read_checkpoint(folder / CHECKPOINT)
        if backend is not None:
            recipe = dataclasses.replace(recipe, backend=backend)
        run = cls(recipe, folder, data or load(recipe.data, recipe.image_size))
        if run.describe_data() != began_with:
            raise RunError(f"the images of {run.data.name} are not those that {folder} began with "
                           f"({began_with}, now {run.describe_data()}); restore them.")
        path = folder / CHECKPOINT
        load_state(run.model.load_state_dict, tensors, "model", path)
        load_state(run._load_momentum, tensors, "momentum", path)
        load_state(run._load_real, tensors, "real", path)
        try:
            run.progress = Progress(**state["progress"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
        return run

    def describe_data(self) -> dict:
        """What the run began with, to notice a change."""
        return {"train": len(self.data.train_images),
                "test": len(self.data.test_images), "classes": list(self.data.classes),
                "fingerprint": self.data.fingerprint()}

    # Training

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.data.train_images) / self.recipe.batch_size)

    @property
    def is_finished(self) -> bool:
        return self.progress.epoch >= self.recipe.epochs

    def train(self, watcher: Watcher | None = None) -> list[dict]:
        """Trains to the end and returns the metrics of all epochs.

        Raises:
            Interrupted: after Ctrl-C, once the current step is done and everything is saved.
            RunError: if the folder cannot be written; the last checkpoint is intact.
        """
        watcher = watcher or Watcher()
        watcher.started(self)
        saved = time.monotonic()
        with _deferred_interrupt() as interrupted:
            while not self.is_finished:
                order = training_order(len(self.data.train_images), self.recipe.seed,
                                       self.progress.epoch)
                while self.progress.step < self.steps_per_epoch:
                    self._step(order, watcher)
                    if interrupted.is_set():
                        self.save()
                        raise Interrupted(f"stopped in epoch {self.progress.epoch + 1} after step "
                                          f"{self.progress.step} of {self.steps_per_epoch}; "
                                          f"everything is saved in {self.folder}.")
                    if time.monotonic() - saved > SAVE_EVERY:
                        self.save()
                        saved = time.monotonic()
                row = self._finish_epoch()
                saved = time.monotonic()
                watcher.finished_epoch(self, row)
        return self.progress.rows

    def _step(self, order: torch.Tensor, watcher: Watcher) -> None:
        recipe, progress = self.recipe, self.progress
        began = time.perf_counter()
        start = progress.step * recipe.batch_size
        chosen = order[start:start + recipe.batch_size]
        generator = generator_for(recipe.seed, progress.epoch, progress.step)
        images = self.data.normalise(self.augmentation(self.data.train_images[chosen], generator))
        labels = self.data.train_labels[chosen]
        rate = recipe.learning_rate(progress.epoch * self.steps_per_epoch + progress.step,
                                    self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels)
        terms = [network.selector.penalty(network.weight) for network in self.model.networks]
        self.optimizer.zero_grad()
        sum((term for term in terms if term is not None), start=loss).backward()
        self.optimizer.step()
        done = progress.epoch * self.steps_per_epoch + progress.step + 1
        for network in self.model.networks:
            network.selector.advance(done, recipe.epochs * self.steps_per_epoch, network.weight)
        progress.loss += loss.item() * len(chosen)
        progress.correct += int((logits.argmax(1) == labels).sum())
        progress.step += 1
        progress.seconds += time.perf_counter() - began
        seen = start + len(chosen)
        watcher.stepped(self, len(chosen), progress.loss / seen, progress.correct / seen)

    def _finish_epoch(self) -> dict:
        progress, images = self.progress, len(self.data.train_images)
        accuracy, test_loss = self.evaluate()
        selections = [network.selection() for network in self.model.networks]
        real = [selection.real for selection in selections]
        row = {
            "epoch": progress.epoch + 1,
            "train_loss": round(progress.loss / images, 6),
            "train_accuracy": round(100 * progress.correct / images, 3),
            "test_loss": round(test_loss, 6),
            "test_accuracy": round(accuracy, 3),
            "threshold": min(selection.threshold() for selection in selections),
            "swapped_edges": sum(int((new & ~old).sum()) for new, old in zip(real, self.last_real)),
            "dead_nodes": sum(dead_nodes(network.wiring, mask.cpu()).count
                              for network, mask in zip(self.model.networks, real)),
            "images_per_second": round(images / progress.seconds, 1),
            "seconds": round(progress.seconds, 3),
        }
        self.last_real = real
        self.progress = Progress(epoch=progress.epoch + 1, rows=[*progress.rows, row])
        self.write_wiring()
        self.save()
        return row

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Accuracy in per cent and mean loss on the test images, in evaluation mode."""
        self.model.eval()
        correct, loss, count = 0, 0.0, len(self.data.test_images)
        for images, labels in self.data.test_batches(EVALUATION_BATCH):
            logits = self.model(images)
            correct += int((logits.argmax(1) == labels).sum())
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
        return 100 * correct / count, loss / count

    # Saving

    def save(self) -> None:
        """Writes the checkpoint, then the metrics that follow from it."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"momentum.{name}": value for name, value in self._momentum().items()}
        tensors |= {f"real.{number}": real for number, real in enumerate(self.last_real)}
        write_checkpoint(self.folder / CHECKPOINT, tensors, {"progress": vars(self.progress)})
        write_csv(self.folder / METRICS, self.progress.rows)

    def write_wiring(self) -> None:
        """The real edges as they are now, as one file of the sequence."""
        write_wirings(self.folder / WIRINGS / f"epoch-{self.progress.epoch:04d}.npz", self.last_real,
                      [network.weight for network in self.model.networks])

    def _real_edges(self) -> list[torch.Tensor]:
        """The real edges of each network."""
        self.model.eval()
        return [network.selection().real for network in self.model.networks]

    def _momentum(self) -> dict[str, torch.Tensor]:
        return {name: self.optimizer.state[parameter]["momentum_buffer"]
                for name, parameter in self.model.named_parameters()
                if self.optimizer.state.get(parameter, {}).get("momentum_buffer") is not None}

    def _load_momentum(self, buffers: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            if name in buffers:
                if buffers[name].shape != parameter.shape:
                    raise ValueError(f"momentum of {name} has shape {tuple(buffers[name].shape)}")
                self.optimizer.state[parameter]["momentum_buffer"] = buffers[name]

    def _load_real(self, masks: dict[str, torch.Tensor]) -> None:
        loaded = [masks[str(number)] for number in range(len(self.last_real))]
        for new, old in zip(loaded, self.last_real):
            if new.shape != old.shape or new.dtype != torch.bool:
                raise ValueError(f"a mask of {new.dtype} {tuple(new.shape)} for {len(old)} edges")
        self.last_real = loaded


def make_model(recipe: Recipe, data: ImageData) -> Classifier:
    """The model of a recipe for these images, with its initial values.

    Raises:
        InputError: for a setting that neither the model nor the selector has.
    """
    if data.size[0] != data.size[1]:
        raise InputError(f"{data.name} has images of {data.size[0]}x{data.size[1]} pixels; models "
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
    return models.create(recipe.model, num_classes=len(data.classes), in_channels=data.channels,
                         image_size=data.size[0], backend=recipe.backend, seed=recipe.seed, **options)


def _take_over(run: Run) -> None:
    """Gives a lottery ticket or a fine-tuned network the wiring of the run it comes from.

    Raises:
        RunError: if that run is missing, unfinished or of another model.
    """
    recipe = run.recipe
    if recipe.selector not in FROM_TRAINED:
        if recipe.source is not None:
            raise InputError(f"the selector {recipe.selector!r} takes nothing from another run; leave "
                             "source out.")
        return
    if recipe.source is None:
        raise InputError(f"the selector {recipe.selector!r} needs a finished run to take its wiring "
                         "from: --set source=FOLDER.")
    source = Run.open(recipe.source, run.data)
    if not source.is_finished:
        raise RunError(f"the run in {recipe.source} is not finished (epoch {source.progress.epoch} of "
                       f"{source.recipe.epochs}); finish it with neuralgraph train "
                       f"{source.recipe.name} --resume --out {recipe.source}")
    if source.recipe.model != recipe.model:
        raise RunError(f"the run in {recipe.source} trained {source.recipe.model!r}, this one is "
                       f"{recipe.model!r}; they must be the same model.")
    for mine, theirs in zip(run.model.networks, source.model.networks):
        if mine.wiring != theirs.wiring:
            raise RunError(f"the run in {recipe.source} has other candidate edges; use the same model "
                           "settings.")
        mine.selector.draw(theirs.weight)
    values = source.model.state_dict()
    if recipe.selector == "lottery-ticket":
        values, _ = read_checkpoint(source.folder / INITIAL)
    own = run.model.state_dict()
    own.update({name: value for name, value in values.items() if ".selector." not in name})
    run.model.load_state_dict(own)


@contextlib.contextmanager
def _deferred_interrupt():
    """An event that the first Ctrl-C sets, instead of an exception in the middle of a step."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals reach the main thread only
        return

    def remember(signum, frame):
        if event.is_set():
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        event.set()

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
