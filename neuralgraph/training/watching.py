"""Those who hear of a training as it goes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tqdm import tqdm

from .notebook import NotebookBar, in_notebook

if TYPE_CHECKING:
    from torch import nn

    from ..growing import SplitReport
    from .progress import Progress


class Watched(Protocol):
    """A training that a :class:`Watcher` is told of."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def folder(self) -> Path: ...

    @property
    def progress(self) -> Progress: ...

    @property
    def epochs(self) -> int: ...

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def is_finished(self) -> bool: ...


class Watcher:
    """Hears of a training as it goes; the command line draws it. Every method may be left as it is.

    What it is told of, ``run``, is a :class:`~neuralgraph.training.Run`, or, by
    :func:`~neuralgraph.training.fit`, an object that likewise has ``model``, ``folder``, ``progress``,
    ``epochs``, ``steps_per_epoch`` and ``is_finished``.
    """

    def started(self, run: Watched) -> None: ...

    def stepped(self, run: Watched, images: int, loss: float, accuracy: float | None) -> None:
        """After a step of so many images (or other samples).

        Loss and accuracy are means over the epoch so far, accuracy None where there is no such metric.
        """

    def finished_epoch(self, run: Watched, row: dict) -> None: ...

    def grew(self, run: Watched, report: SplitReport) -> None:
        """After a round of growing, before the next: a :class:`~neuralgraph.growing.SplitReport`."""

    def waited(self, epochs: int, total: int) -> None:
        """While several runs are made in other processes: of all their epochs so many are done."""


class ProgressBar(Watcher):
    """A bar of steps on a terminal, and a line with the metrics of every epoch.

    In a notebook it is one output that is brought up to date: the bar and the metrics of the last epochs.
    """

    def __init__(self):
        self.bar = None

    def started(self, run: Watched) -> None:
        self.close()
        if not run.is_finished:
            done = run.progress.epoch * run.steps_per_epoch + run.progress.step
            self.bar = _bar(run.epochs * run.steps_per_epoch, done, "step")

    def stepped(self, run: Watched, images: int, loss: float, accuracy: float | None) -> None:
        if self.bar is not None:
            self.bar.set_description(f"epoch {run.progress.epoch + 1}/{run.epochs}", refresh=False)
            right = "" if accuracy is None else f", {100 * accuracy:.1f} % right"
            self.bar.set_postfix_str(f"loss {loss:.4g}{right}", refresh=False)
            self.bar.update()

    def finished_epoch(self, run: Watched, row: dict[str, Any]) -> None:
        if isinstance(self.bar, NotebookBar):
            self.bar.add_row(row)
        else:
            self.say(", ".join(f"{name} {value:.4g}" for name, value in row.items()))
        if run.is_finished:
            self.close()

    def waited(self, epochs: int, total: int) -> None:
        if self.bar is None:
            self.bar = _bar(total, 0, "epoch")
        if self.bar is not None:
            self.bar.update(epochs - self.bar.n)
            if epochs == total:
                self.close()

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        tqdm.write(line) if isinstance(self.bar, tqdm) else print(line)

    def close(self) -> None:
        """Removes the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _bar(total: int, done: int, unit: str) -> tqdm | NotebookBar | None:
    """A bar where one can be seen."""
    if in_notebook():
        return NotebookBar(total, done, unit)
    if not sys.stderr.isatty():
        return None
    return tqdm(total=total, initial=done, unit=unit, leave=False, dynamic_ncols=True)
