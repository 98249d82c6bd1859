"""Where a training stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._html import table
from ..errors import CheckpointError

WARM_UP = 3  # steps in which kernels are compiled and memory is first touched


@dataclass
class Progress:
    """Where a training stands, saved with every checkpoint.

    Args:
        epoch: number of the current epoch, from 0.
        step: finished steps of this epoch.
        seen: samples of this epoch so far.
        loss: summed over them.
        sums: of each metric likewise; of a recipe's run "accuracy", the number of right answers.
        seconds: of training in this epoch so far.
        rows: the metrics of finished epochs.
        step_seconds: the median time of a step of each finished epoch in which one was measured; the first
            :data:`WARM_UP` steps after a start are not.
    """

    epoch: int = 0
    step: int = 0
    seen: int = 0
    loss: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)

    def add(self, count: int, loss: float, sums: dict[str, float]) -> None:
        """Counts one more step: its samples, and the sums of loss and metrics over them."""
        self.step += 1
        self.seen += count
        self.loss += loss
        self.sums = {name: self.sums.get(name, 0) + value for name, value in sums.items()}

    def mean(self, name: str) -> float | None:
        """The mean of a metric over the samples of this epoch so far; None where there is none."""
        return self.sums[name] / self.seen if name in self.sums and self.seen else None

    def _repr_html_(self) -> str:
        return metrics_table(self.rows, [f"in epoch {self.epoch + 1}, step {self.step}" if self.step else
                                         f"after epoch {self.epoch}"])

    @classmethod
    def from_json(cls, fields: dict) -> Progress:
        """The progress that a checkpoint holds.

        Raises:
            TypeError, ValueError: for fields that are missing, unknown, or of another kind.
        """
        progress = cls(**fields)
        for name in ("epoch", "step", "seen"):
            if type(getattr(progress, name)) is not int or getattr(progress, name) < 0:
                raise ValueError(f"{name} is {getattr(progress, name)!r}")
        for name in ("loss", "seconds"):
            if not _is_number(getattr(progress, name)):
                raise ValueError(f"{name} is {getattr(progress, name)!r}")
        if not isinstance(progress.sums, dict) or not all(map(_is_number, progress.sums.values())):
            raise ValueError(f"sums is {progress.sums!r}")
        if not isinstance(progress.rows, list) or len(progress.rows) != progress.epoch:
            raise ValueError(f"rows are not {progress.epoch} epochs of metrics")
        check_rows(progress.rows)
        if not isinstance(progress.step_seconds, list) or not all(map(_is_number, progress.step_seconds)):
            raise ValueError(f"step_seconds is {progress.step_seconds!r}")
        return progress


def metrics_table(rows: list[dict], notes: Sequence[str] = ()) -> str:
    """The metrics of epochs, for a notebook."""
    return table(list(rows[0]) if rows else (), [list(row.values()) for row in rows], notes=notes)


def check_rows(rows: list[dict]) -> None:
    """Refuses what are not the metrics of epochs 1, 2, ...: numbers, under the same names in each.

    Raises:
        ValueError: that says which row is wrong.
    """
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not all(map(_is_number, row.values())):
            raise ValueError(f"the metrics of epoch {number} are not numbers: {row!r}")
        if row.keys() != rows[0].keys() or not {"epoch", "train_loss", "seconds"} <= row.keys():
            raise ValueError(f"the metrics of epoch {number} have the names {', '.join(map(str, row))}")
        if type(row["epoch"]) is not int or row["epoch"] != number:
            raise ValueError(f"row {number} is of epoch {row['epoch']!r}")


def read_progress(state: dict, path: Path) -> Progress:
    """Where a checkpoint stands.

    Raises:
        CheckpointError: if it does not say so in the right words.
    """
    try:
        return Progress.from_json(state["progress"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _is_number(value: object) -> bool:
    return type(value) in (int, float)
