"""The metrics of a run as files: CSV always, TensorBoard's events where it is installed."""

from __future__ import annotations

import csv
import io
import itertools
import os
import time
from pathlib import Path

from ..errors import CheckpointError, RunError
from .checkpoint import check_readable, write_atomically, write_csv
from .progress import check_rows

METRICS, EVENTS = "metrics.csv", "events.out.tfevents.neuralgraph"


class Log:
    """Writes one line per finished epoch; both files say what the checkpoint says.

    ======================  ========================================================================
    ``epoch``               from 1
    ``train_loss``,         means over the images of the epoch as they were trained on; accuracies are
    ``train_accuracy``      in per cent
    ``test_loss``,          of the test images after the epoch; right is the first guess, or one of the
    ``test_accuracy``,      first five
    ``test_top5_accuracy``
    ``threshold``           smallest magnitude of a real edge
    ``swapped_edges``       real edges that were not real after the epoch before
    ``never_used_edges``    candidates that were real neither at the start nor after any epoch so far
    ``dead_nodes``          nodes without real in-edge or out-edge
    ``multiply_adds``       per image, kernels of nodes that nobody reads left out
    ``images_per_second``,  of training, without evaluation
    ``seconds``
    ======================  ========================================================================

    The CSV is written anew each time. Events are appended, because TensorBoard may be reading, except
    for the first time after a start: an epoch that a killed run wrote twice would be drawn twice.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._written: int | None = None  # rows in the events file

    def write(self, rows: list[dict]) -> None:
        """Brings the files to these rows.

        Raises:
            RunError: if the disk is full or the folder gone.
        """
        write_csv(self.folder / METRICS, rows)
        path = self.folder / EVENTS
        written, anew = self._written, self._written is None or self._written > len(rows)
        if written == len(rows):
            return
        content = _events(rows, first=0 if written is None or anew else written)
        if content is None:
            return
        if anew:
            write_atomically(path, content)  # which replaces a link instead of what it leads to
            self._written = len(rows)
            return
        try:
            with open(path, "ab", opener=_no_link) as file:
                file.write(content)
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}. The checkpoint is "
                           "untouched; make room, then continue with --resume.") from error
        self._written = len(rows)


def read_metrics(folder: Path) -> list[dict]:
    """The rows of a run's ``metrics.csv``, as numbers.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    path = folder / METRICS
    check_readable(path, "file", f"; is {folder} the folder of a run?")
    try:
        with path.open(newline="") as file:
            rows = [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(file)]
        check_rows(rows)
        return rows
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _events(rows: list[dict], first: int) -> bytes | None:
    """TensorBoard records of the rows from ``first`` on, or None if it is not installed.

    Each is dated back by the training time that followed it.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError:
        return None
    content = io.BytesIO()
    writer = RecordWriter(content)
    spent = list(itertools.accumulate(row["seconds"] for row in rows))
    began = time.time() - (spent[-1] if spent else 0.0)
    if first == 0:
        writer.write(Event(wall_time=began, file_version="brain.Event:2").SerializeToString())
    for row, seconds in list(zip(rows, spent))[first:]:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items()
                  if name not in ("epoch", "seconds")]
        writer.write(Event(wall_time=began + seconds, step=row["epoch"],
                           summary=Summary(value=values)).SerializeToString())
    return content.getvalue()
