"""The loop: every training of this library, a recipe's run or anybody's model, goes through it."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.optim import Optimizer

from ..errors import CheckpointError, RunError
from ..rewiring import Recorder, rewire
from ..selectors import Selector
from .checkpoint import CHECKPOINT, digest, load_model, part, write_checkpoint
from .distributed import Ranks
from .folder import HISTORY, Seen, alone_in
from .interrupts import deferred_interrupt
from .log import Log
from .optimizers import load_state, state_of
from .progress import WARM_UP, Progress, read_progress
from .task import Task
from .turnover import Turnover

if TYPE_CHECKING:
    from .schedules import Schedule
    from .watching import Watched, Watcher

SAVE_EVERY = 300  # seconds between checkpoints inside an epoch
SMALL = 5000  # real edges


class Interrupted(RunError):
    """Somebody asked the training to stop; everything is saved."""


class Loop:
    """Epochs of steps that are saved as they go and continued where they stopped.

    One step: the loss of a batch, its gradient and the optimizer's step at the schedule's rate, beside which
    the selectors inside the model do what they do in any loop (:func:`neuralgraph.rewire`).

    Args:
        model: on its device.
        task: what it is trained on.
        optimizer: of the model's parameters; its learning rates are the schedule's 1.
        folder: where ``checkpoint.safetensors``, ``metrics.csv`` and ``wiring.history`` are kept.
        epochs: how many.
        schedule: the factor of the learning rates by step and number of all steps.
        ranks: the processes that train together.
        device: of the model.
        notes: what else a checkpoint holds, as JSON.
        compiled: the mode of :func:`torch.compile` to train with, if any.
    """

    def __init__(self, model: nn.Module, task: Task, optimizer: Optimizer, folder: Path, *, epochs: int,
                 schedule: Schedule, ranks: Ranks, device: torch.device, notes: dict,
                 compiled: str | None = None):
        self.model, self.task, self.optimizer, self.folder = model, task, optimizer, folder
        self.epochs, self.schedule, self.notes = epochs, schedule, notes
        self.ranks, self.device, self.compiled = ranks, device, compiled
        self.rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.progress = Progress()
        self.turnover = Turnover(model)
        self.log = Log(folder)
        self.seen = Seen(folder)
        self._recorder: Recorder | None = None  # as long as it trains
        self._since = 0.0  # when the step began, on the clock of time.perf_counter
        self._steps = 0  # made here
        self._took: list[float] = []  # seconds of the steps of this epoch that are measured

    @property
    def steps_per_epoch(self) -> int:
        return self.task.steps_per_epoch

    @property
    def is_finished(self) -> bool:
        return self.progress.epoch >= self.epochs

    @property
    def columns(self) -> list[str]:
        """The names of the metrics of an epoch."""
        return ["epoch", *self.task.columns, *self.turnover.columns, f"{self.task.unit}_per_second", "seconds"]

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other processes from the folder, which must be as it was when it was opened here.

        Raises:
            RunError: if it is being trained, or has been since.
        """
        with alone_in(self.folder) if self.ranks.is_first else contextlib.nullcontext():
            if self.ranks.is_first:
                self.seen.check()
            yield

    def train(self, trained: Watched, watcher: Watcher, check_ranks: bool = False) -> list[dict]:
        """Trains to the end, inside :meth:`alone`, and returns the metrics of all epochs.

        Args:
            trained: what the watcher is told of.
            watcher: hears of every step and epoch.
            check_ranks: compare the real edges of all processes after every step.

        Raises:
            Interrupted: after Ctrl-C, SIGTERM or SIGHUP, once the current step is done and all is saved.
        """
        with deferred_interrupt() as interrupted, _repeatable(), self.ranks.watched(), self._rewired(), \
                torch.random.fork_rng([self.device] if self.device.type == "cuda" else []), \
                self.ranks.parallel(self.model, self.device) as model:
            if self.ranks.is_first:
                self.log.write(self.progress.rows)  # a kill may have come before it
            if self.compiled is not None:  # the last batch of an epoch may have a size of its own
                model = cast(nn.Module, torch.compile(model, mode=self.compiled, dynamic=False))
            watcher.started(trained)
            saved = time.monotonic()
            while not self.is_finished:
                self._since = time.perf_counter()
                for batch in self.task.batches(self.progress.epoch, self.progress.step):
                    count, stopping = self._step(model, batch, interrupted.is_set())
                    if not stopping:
                        with _unless_hung_up(interrupted):
                            watcher.stepped(trained, count, self.progress.loss / self.progress.seen,
                                            self.progress.mean("accuracy"))
                    if check_ranks:
                        self.ranks.check_same({"the selection of real edges": self._hash_of_selection()})
                    if stopping or (self.ranks.size == 1 and interrupted.is_set()):
                        self.save()
                        raise Interrupted(f"stopped in epoch {self.progress.epoch + 1} after step "
                                          f"{self.progress.step} of {self.steps_per_epoch}; "
                                          f"everything is saved in {self.folder}.")
                    if time.monotonic() - saved > SAVE_EVERY:
                        self.save()
                        saved = time.monotonic()
                row = self._finish_epoch()
                saved = time.monotonic()
                with _unless_hung_up(interrupted):
                    watcher.finished_epoch(trained, row)
        return self.progress.rows

    def _step(self, model: nn.Module, batch: object, interrupted: bool) -> tuple[int, bool]:
        """The samples of one step, and whether any process was asked to stop."""
        progress = self.progress
        factor = self.schedule(self._done, self.steps_per_epoch, self.epochs)
        for group, rate in zip(self.optimizer.param_groups, self.rates):
            group["lr"] = rate * factor
        self.model.train()
        learned = self.task.learn(model, batch)
        self.optimizer.zero_grad()
        # averaged over the processes, this is the mean over the whole batch
        (learned.loss * (learned.own * self.ranks.size / learned.count)).backward()
        self.optimizer.step()
        loss, *sums, stop = self.ranks.sum(learned.loss.item() * learned.own, *map(float, learned.sums.values()),
                                           interrupted)
        progress.add(learned.count, loss, dict(zip(learned.sums, sums)))
        now = time.perf_counter()
        progress.seconds += now - self._since
        self._steps += 1
        if self._steps > WARM_UP:
            self._took.append(now - self._since)
        self._since = now
        return learned.count, stop > 0

    @property
    def _done(self) -> int:
        """The number of steps that are done."""
        return self.progress.epoch * self.steps_per_epoch + self.progress.step

    @contextlib.contextmanager
    def _rewired(self):
        """Selectors take part in the training as long as it lasts."""
        if self.is_finished or not any(isinstance(module, Selector) for module in self.model.modules()):
            yield
            return
        self._recorder = Recorder(self.folder / HISTORY, self._record_every())
        rewiring = rewire(self.model, self.optimizer, self.epochs * self.steps_per_epoch, done=self._done,
                          history=self._recorder)
        try:
            yield
        finally:
            rewiring.remove()
            self._recorder = None

    def _record_every(self) -> int:
        """Steps between records of the history: small ones are recorded more often."""
        is_small = sum(int(real.sum()) for real in self.turnover.last) <= SMALL
        return -(-self.steps_per_epoch // (8 if is_small else 1))

    def _hash_of_selection(self) -> str:
        """A hash of the real edges in evaluation and of the selectors' own state."""
        state = {str(n): mask for n, mask in enumerate(self.turnover.real())}
        for name, module in self.model.named_modules():
            if isinstance(module, Selector):
                state |= {f"{name}.{own}": value for own, value in module.state_dict().items()}
        return digest(state)

    def _finish_epoch(self) -> dict:
        progress = self.progress
        if self._recorder is not None:
            self._recorder.stepped(self._done, always=True)
        self.ranks.spread_buffers(self.model)
        tested = self.task.test_row(self.model.eval(), progress.epoch)
        row = {"epoch": progress.epoch + 1, **self.task.training_row(progress), **tested,
               **self.turnover.finish_epoch(),
               f"{self.task.unit}_per_second": round(progress.seen / progress.seconds, 1),
               "seconds": round(progress.seconds, 3)}
        measured = [statistics.median(self._took)] if self._took else []
        self._took = []
        self.progress = Progress(epoch=progress.epoch + 1, rows=[*progress.rows, row],
                                 step_seconds=[*progress.step_seconds, *measured])
        self.save()
        return row

    # Saving

    def save(self) -> None:
        """Writes the checkpoint, then the metrics that follow from it; the first process does."""
        if not self.ranks.is_first:
            return
        states, numbers = state_of(self.optimizer, self.model)
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in states.items()}
        write_checkpoint(self.folder / CHECKPOINT, tensors | self.turnover.tensors(),
                         {"progress": vars(self.progress), "optimizer": numbers, **self.notes})
        self.seen.remember()
        self.log.write(self.progress.rows)

    def load(self, tensors: dict[str, torch.Tensor], state: dict, path: Path) -> None:
        """Takes over model, optimizer, real edges and progress from the checkpoint ``path``.

        Raises:
            CheckpointError: for values of another model or training.
        """
        for name in tensors:
            if name.partition(".")[0] not in ("model", "optimizer", "real", "ever"):
                raise CheckpointError(f"{path} does not fit the run's model: {name!r} is in it, expected no "
                                      "such tensor.")
        load_model(self.model, tensors, path)
        load_state(self.optimizer, self.model, part(tensors, "optimizer"), state.get("optimizer", {}), path)
        self.turnover.load(tensors, path)
        self.progress = read_progress(state, path)
        rows, step = self.progress.rows, self.progress.step
        if step > self.steps_per_epoch:
            raise CheckpointError(f"{path} is damaged: step {step} of {self.steps_per_epoch}.")
        if rows and sorted(rows[0]) != sorted(self.columns):
            raise CheckpointError(f"{path} has the metrics {', '.join(rows[0])}, but this training makes "
                                  f"{', '.join(self.columns)}.")


@contextlib.contextmanager
def _unless_hung_up(interrupted):
    """A terminal that closed has already asked for an end; that it cannot be written to must not hurt."""
    try:
        yield
    except OSError:
        if not interrupted.is_set():
            raise


@contextlib.contextmanager
def _repeatable():
    """cuDNN's algorithms that give the same result every time, for a while."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before
