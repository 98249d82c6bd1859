"""A training run: the loop, its folder, and how it is continued."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import platform
import signal
import threading
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from .._version import __version__
from ..analysis import cost, dead_nodes
from ..data import Augmentation, Images, load, lost_readers, training_order
from ..errors import CheckpointError, InputError, RunError
from ..selectors import FROM_TRAINED
from .checkpoint import (CHECKPOINT, RECIPE, check_fits, digest, part, read_checkpoint,
                         write_checkpoint, write_json, write_wirings)
from .distributed import choose_device, current
from .folder import (INITIAL, UNFINISHED, WIRINGS, Progress, alone_in, check_free, describe,
                     listed_changes, load_model, make_model, read_progress, read_recipe,
                     with_whole_paths)
from .log import Log
from .recipe import Recipe

# what decides the images of a step, so that it cannot change inside an epoch
ORDER = ("data", "image_size", "resized_crop", "batch_size", "seed")
SAVE_EVERY = 300  # seconds between checkpoints inside an epoch
EVALUATION_BATCH = 500


class Interrupted(RunError):
    """Somebody asked the run to stop; everything is saved."""


class Watcher:
    """Hears of the run as it goes; the command line draws it. Every method may be left as it is."""

    def started(self, run: Run) -> None: ...

    def stepped(self, run: Run, images: int, loss: float, accuracy: float) -> None: ...

    def finished_epoch(self, run: Run, row: dict) -> None: ...


class Run:
    """One training run and its folder.

    The folder holds ``recipe.json`` (the recipe with what produced it), ``checkpoint.safetensors``
    (everything needed to go on), ``metrics.csv`` (a line per epoch; see
    :class:`~neuralgraph.training.log.Log`) and ``wiring/epoch-NNNN.npz`` (the real edges after each
    epoch; 0 is the start). The order of the images depends on seed and epoch only, and their
    augmentation on the image too, so a continued run does exactly what an
    undisturbed one would have done.

    In processes that torchrun started and :func:`neuralgraph.training.join` brought together, each
    takes its part of every batch; gradients are averaged, metrics summed, and only the first writes.

    Use :meth:`create` for a new run and :meth:`open` for one that exists.
    """

    def __init__(self, recipe: Recipe, folder: Path, data: Images, device: str = "cpu"):
        self.recipe, self.folder, self.data = recipe, folder, data
        self.ranks, self.device = current(), choose_device(device)
        if recipe.precision == "bfloat16" and self.device.type == "cuda" and \
                not torch.cuda.is_bf16_supported():
            raise InputError("precision=bfloat16, but this GPU does not have it; use precision=float32.")
        if recipe.batch_size > data.num_train:
            raise InputError(f"batch_size={recipe.batch_size}, but {data.name} has only "
                             f"{data.num_train} training images; choose a smaller batch.")
        if recipe.batch_size < self.ranks.size:
            raise InputError(f"batch_size={recipe.batch_size} is too few for {self.ranks.size} processes.")
        if recipe.crop_padding > min(data.size):
            raise InputError(f"crop_padding={recipe.crop_padding} is more than the "
                             f"{min(data.size)} pixels of an image; choose less.")
        self.images = describe(data)
        self.model = make_model(recipe, self.images).to(self.device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=recipe.lr, momentum=recipe.momentum,
            weight_decay=recipe.weight_decay, nesterov=recipe.nesterov)
        self.progress = Progress()
        self.stopping = False  # whether any process was asked to stop
        self._since = 0.0  # when the step began, on the clock of time.perf_counter
        self.changes: list[dict] = []  # of settings and images since the run began
        self._begin_wiring()
        self.log = Log(folder)
        self.augmentation = Augmentation(recipe.crop_padding, recipe.flip)

    # Making and opening

    @classmethod
    def create(cls, recipe: Recipe, folder: str | Path, data: Images | None = None, *,
               device: str = "cpu", workers: int | None = None) -> Run:
        """A new run; its folder must be new or empty.

        Args:
            recipe: what to train and how.
            folder: of the run.
            data: the images, if they are loaded already.
            device: "cpu", "cuda", "cuda:N", or "auto" for a GPU if there is one.
            workers: processes that decode images, see :func:`neuralgraph.data.load`.

        Raises:
            RunError: if the folder holds something already.
            InputError, DataError, UnknownNameError: for a recipe that cannot be run; the folder is
                not made then.
        """
        folder = Path(folder)
        recipe = with_whole_paths(recipe)
        if current().is_first:
            check_free(folder)
        if recipe.data is None and data is None:
            raise InputError(f"the recipe {recipe.name!r} has no images of its own; name some with --data.")
        run = cls(recipe, folder, data or _load_images(recipe, workers), device)
        _take_over(run)
        run._begin_wiring()
        run._check_ranks_agree()
        if not run.ranks.is_first:
            return run
        try:
            (folder / WIRINGS).mkdir(parents=True, exist_ok=True)
            (folder / UNFINISHED).touch()
        except OSError as error:
            raise RunError(f"cannot make the folder {folder}: {error.strerror}.") from error
        if recipe.selector == "complete":  # a lottery ticket may be drawn from it
            write_checkpoint(folder / INITIAL, run.model.state_dict(), {})
        run.write_wiring()
        run.save()
        run.write_recipe(recipe)
        (folder / UNFINISHED).unlink()
        return run

    @classmethod
    def open(cls, folder: str | Path, data: Images | None = None, backend: str | None = None, *,
             device: str = "cpu", workers: int | None = None,
             settings: dict[str, str] | None = None, accept_changes: bool = False) -> Run:
        """The run in ``folder`` as its last checkpoint left it.

        Args:
            folder: of the run.
            data: the images, if they are loaded already.
            backend: instead of the recipe's, for this time.
            device, workers: as for :meth:`create`.
            settings: fields of the recipe, as text, to compare with those the run began with; only
                ``data``, the place of the images, may differ if the images do not.
            accept_changes: go on although settings or images differ; the folder keeps a record of it.

        Raises:
            CheckpointError: if a file is missing, damaged or foreign.
            RunError: if settings or images are not those the run began with.
        """
        folder = Path(folder)
        saved, description = read_recipe(folder)
        recipe = with_whole_paths(saved.with_settings(settings or {}))
        changes = {name: [old, getattr(recipe, name)] for name, old in vars(saved).items()
                   if name != "data" and getattr(recipe, name) != old}
        if changes and not accept_changes:
            raise RunError(f"{folder} began with other settings: {listed_changes(changes)}. Leave them "
                           "out, or give --accept-changes to go on with them.")
        path = folder / CHECKPOINT
        tensors, state = read_checkpoint(path)
        in_use = recipe if backend is None else dataclasses.replace(recipe, backend=backend)
        run = cls(in_use, folder, data or _load_images(recipe, workers), device)
        differing = {name: [description["data"].get(name), value] for name, value in run.images.items()
                     if name != "name" and description["data"].get(name) != value}
        if differing and not accept_changes:
            raise RunError(f"the images of {run.data.name} are not those that {folder} began with: "
                           f"{listed_changes(differing)}. Restore them, or go on with these by "
                           "neuralgraph train --resume --accept-changes.")
        if differing:
            changes["data"] = [description["data"], run.images]
        run._load(tensors, state, path)
        run.changes = description.get("changes", [])
        if changes:
            if run.progress.step and not changes.keys().isdisjoint(ORDER):
                raise RunError(f"{', '.join(sorted(changes.keys() & set(ORDER)))} decides which images a "
                               "step sees and can change between epochs only, but the checkpoint is from "
                               f"step {run.progress.step} of an epoch; finish that epoch as it began.")
            run.changes = [*run.changes, {"epoch": run.progress.epoch, "step": run.progress.step,
                                          "from": {name: old for name, (old, _) in changes.items()}}]
        run._check_ranks_agree()
        if (recipe != saved or differing) and run.ranks.is_first:
            run.write_recipe(recipe)
        return run

    def _check_ranks_agree(self) -> None:
        """Finds processes with another configuration, other images, versions or weights."""
        self.ranks.check_same({
            "the recipe": self.recipe.to_json(), "the images": self.images["fingerprint"],
            "the progress": vars(self.progress), "neuralgraph": __version__, "torch": torch.__version__,
            "the weights": digest(self.model.state_dict())})

    def _load(self, tensors: dict[str, torch.Tensor], state: dict, path: Path) -> None:
        """Takes over model, momentum, real edges and progress from a checkpoint."""
        load_model(self.model, tensors, path)
        momentum = part(tensors, "momentum")
        check_fits(momentum, dict(self.model.named_parameters()), path, complete=False)
        for name, parameter in self.model.named_parameters():
            if name in momentum:
                self.optimizer.state[parameter]["momentum_buffer"] = \
                    momentum[name].to(self.device)
        real, ever = part(tensors, "real"), part(tensors, "ever")
        for masks in (real, ever):
            check_fits(masks, {str(n): mask for n, mask in enumerate(self.last_real)}, path)
        self.last_real = [real[str(n)] for n in range(len(real))]
        self.ever_real = [ever[str(n)] for n in range(len(ever))]
        self.progress = read_progress(state, path)
        if self.progress.step > self.steps_per_epoch:
            raise CheckpointError(f"{path} is damaged: step {self.progress.step} of "
                                  f"{self.steps_per_epoch}.")

    # Training

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.data.num_train / self.recipe.batch_size)

    @property
    def is_finished(self) -> bool:
        return self.progress.epoch >= self.recipe.epochs

    def train(self, watcher: Watcher | None = None, check_ranks: bool = False) -> list[dict]:
        """Trains to the end and returns the metrics of all epochs.

        Args:
            watcher: hears of every step and epoch.
            check_ranks: compare the real edges of all processes after every step.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, once the current step is done and everything is saved.
            DataError: if an image on disk has changed or gone.
            RunError: if the folder cannot be written or another process is lost; the last checkpoint
                is intact.
        """
        watcher = watcher or Watcher()
        alone = alone_in(self.folder) if self.ranks.is_first else contextlib.nullcontext()
        with alone, _deferred_interrupt() as interrupted, _repeatable(), self.ranks.watched(), \
                lost_readers():
            if self.ranks.is_first:
                self.log.write(self.progress.rows)  # a kill may have come before it
            model = self.ranks.parallel(self.model, self.device)
            watcher.started(self)
            saved = time.monotonic()
            while not self.is_finished:
                self._since = time.perf_counter()
                for batch, images, labels in self._rest_of_epoch():
                    self._step(model, batch, images, labels, watcher, interrupted.is_set())
                    if check_ranks:
                        self.ranks.check_same({"the selection of real edges": self._hash_of_selection()})
                    if self.stopping or (self.ranks.size == 1 and interrupted.is_set()):
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

    def _rest_of_epoch(self):
        """(number of images in the step, own images, own labels) of the steps still to be done."""
        recipe, progress = self.recipe, self.progress
        order = training_order(self.data.num_train, recipe.seed, progress.epoch)
        batches = order.split(recipe.batch_size)[progress.step:]
        own = [self.ranks.share(batch) for batch in batches]
        # a process without a share computes an image that does not count, to keep in step
        own = [share if len(share) else batch[:1] for share, batch in zip(own, batches)]
        read = self.data.train_batches(own, self.augmentation, recipe.seed, progress.epoch)
        for batch, (images, labels) in zip(batches, read):
            yield batch, images, labels

    def _step(self, model: torch.nn.Module, batch: torch.Tensor, images: torch.Tensor,
              labels: torch.Tensor, watcher: Watcher, interrupted: bool) -> None:
        recipe, progress = self.recipe, self.progress
        images, labels = self.data.normalise(images.to(self.device)), labels.to(self.device)
        mine = len(self.ranks.share(batch))
        done = progress.epoch * self.steps_per_epoch + progress.step
        rate = recipe.learning_rate(done, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        with self._autocast():
            logits = model(images)
            loss = F.cross_entropy(logits.float(), labels)
        terms = [network.selector.penalty(network.weight) for network in self.model.networks]
        self.optimizer.zero_grad()
        # averaged over the processes, this is the mean over the whole batch
        share = loss * (mine * self.ranks.size / len(batch))
        sum((term for term in terms if term is not None), start=share).backward()
        self.optimizer.step()
        for network in self.model.networks:
            network.selector.advance(done + 1, recipe.epochs * self.steps_per_epoch, network.weight)
        right = int((logits.argmax(1) == labels).sum())
        loss, right, stop = self.ranks.sum(loss.item() * mine, right if mine else 0, interrupted)
        self.stopping = stop > 0
        progress.loss += loss
        progress.correct += int(right)
        progress.step += 1
        now = time.perf_counter()
        progress.seconds += now - self._since
        self._since = now
        seen = min(progress.step * recipe.batch_size, self.data.num_train)
        watcher.stepped(self, len(batch), progress.loss / seen, progress.correct / seen)

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, self.recipe.precision == "bfloat16")

    def _hash_of_selection(self) -> str:
        """A hash of the real edges in evaluation and of the selectors' own state."""
        real = {str(n): mask for n, mask in enumerate(self._real_edges())}
        for n, network in enumerate(self.model.networks):
            real |= {f"{n}.{name}": value for name, value in network.selector.state_dict().items()}
        return digest(real)

    def _finish_epoch(self) -> dict:
        progress, images = self.progress, self.data.num_train
        accuracy, top5, test_loss = self.evaluate()
        selections = [network.selection() for network in self.model.networks]
        real = [selection.real.cpu().clone() for selection in selections]
        self.ever_real = [ever | new for ever, new in zip(self.ever_real, real)]
        row = {
            "epoch": progress.epoch + 1,
            "train_loss": round(progress.loss / images, 6),
            "train_accuracy": round(100 * progress.correct / images, 3),
            "test_loss": round(test_loss, 6),
            "test_accuracy": round(accuracy, 3),
            "test_top5_accuracy": round(top5, 3),
            "threshold": min(selection.threshold() for selection in selections),
            "swapped_edges": sum(int((new & ~old).sum()) for new, old in zip(real, self.last_real)),
            "never_used_edges": sum(int((~ever).sum()) for ever in self.ever_real),
            "dead_nodes": sum(dead_nodes(network.wiring, mask.cpu()).count
                              for network, mask in zip(self.model.networks, real)),
            "multiply_adds": cost(self.model).multiply_adds,
            "images_per_second": round(images / progress.seconds, 1),
            "seconds": round(progress.seconds, 3),
        }
        self.last_real = real
        self.progress = Progress(epoch=progress.epoch + 1, rows=[*progress.rows, row])
        if self.ranks.is_first:
            self.write_wiring()
        self.save()
        return row

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float, float]:
        """Accuracy (top-1 and top-5, per cent) and mean loss on the test images, in evaluation mode."""
        self.ranks.spread_buffers(self.model)
        self.model.eval()
        correct, among_five, loss, count = 0, 0, 0.0, self.data.num_test
        small = max(self.data.size) <= 64
        batches = self.ranks.share(torch.arange(count)).split(
            EVALUATION_BATCH if small else min(EVALUATION_BATCH, self.recipe.batch_size))
        for images, labels in self.data.test_batches([batch for batch in batches if len(batch)]):
            labels = labels.to(self.device)
            with self._autocast():
                logits = self.model(self.data.normalise(images.to(self.device)))
                loss += F.cross_entropy(logits.float(), labels, reduction="sum").item()
            correct += int((logits.argmax(1) == labels).sum())
            five = logits.topk(min(5, logits.shape[1])).indices
            among_five += int((five == labels[:, None]).sum())
        correct, among_five, loss = self.ranks.sum(correct, among_five, loss)
        return 100 * correct / count, 100 * among_five / count, loss / count

    # Saving

    def save(self) -> None:
        """Writes the checkpoint, then the metrics that follow from it; the first process does."""
        if not self.ranks.is_first:
            return
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"momentum.{name}": value for name, value in self._momentum().items()}
        tensors |= {f"real.{number}": real for number, real in enumerate(self.last_real)}
        tensors |= {f"ever.{number}": ever for number, ever in enumerate(self.ever_real)}
        write_checkpoint(self.folder / CHECKPOINT, tensors, {"progress": vars(self.progress)})
        self.log.write(self.progress.rows)

    def write_recipe(self, recipe: Recipe) -> None:
        """The recipe, the images and what produced the run."""
        content = {"recipe": recipe.to_json(), "data": self.images,
                   "versions": {"neuralgraph": __version__, "torch": torch.__version__,
                                "python": platform.python_version()}}
        if self.changes:
            content["changes"] = self.changes
        write_json(self.folder / RECIPE, content)

    def write_wiring(self) -> None:
        """The real edges as they are now, as one file of the sequence."""
        write_wirings(self.folder / WIRINGS / f"epoch-{self.progress.epoch:04d}.npz", self.last_real,
                      [network.weight for network in self.model.networks])

    def _begin_wiring(self) -> None:
        """Takes the real edges as they are for those the run begins with."""
        self.last_real, self.ever_real = self._real_edges(), self._real_edges()

    def _real_edges(self) -> list[torch.Tensor]:
        """The real edges of each network in evaluation, where nothing is left to chance."""
        self.model.eval()
        return [network.selection().real.cpu().clone() for network in self.model.networks]

    def _momentum(self) -> dict[str, torch.Tensor]:
        return {name: self.optimizer.state[parameter]["momentum_buffer"]
                for name, parameter in self.model.named_parameters()
                if self.optimizer.state.get(parameter, {}).get("momentum_buffer") is not None}


def _load_images(recipe: Recipe, workers: int | None) -> Images:
    return load(recipe.data, recipe.image_size, recipe.resized_crop, workers)


@contextlib.contextmanager
def _repeatable():
    """cuDNN's algorithms that give the same result every time, for a while."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


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
    source = Run.open(recipe.source, run.data, device=str(run.device))
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
    """An event that the first Ctrl-C or SIGTERM sets, instead of an end in the middle of a step."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals reach the main thread only
        return

    def remember(signum, frame):
        if event.is_set() and signum == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        event.set()

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
