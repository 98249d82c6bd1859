"""The folder of a run: found, made and kept to one process."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..errors import RunError
from .checkpoint import CHECKPOINT, RECIPE

INITIAL, HISTORY = "initial.safetensors", "wiring.history"
WIRINGS = "wiring"  # where runs kept the wiring of each epoch before they had histories
UNFINISHED = ".unfinished"  # in a folder whose making was cut off: it may be made again
RUNS = Path("runs")  # where runs are kept that were given no folder


def numbered(name: str, number: int) -> Path:
    """runs/NAME, runs/NAME-2, runs/NAME-3, ..."""
    return RUNS / (name if number == 1 else f"{name}-{number}")


def latest_folder(name: str) -> Path:
    """The last of :func:`numbered` in a row that are there.

    Raises:
        RunError: if there is none.
    """
    number = next(number for number in itertools.count(1) if not numbered(name, number).exists())
    if number == 1:
        raise RunError(f"there is no run to resume in {numbered(name, 1)}; name its folder with --out.")
    return numbered(name, number - 1)


def round_folder(folder: Path, number: int) -> Path:
    """Where a run that grows keeps one of its rounds, from 0."""
    return folder / f"round-{number}"


def rounds(folder: Path) -> list[Path]:
    """The runs inside the folder of one that grows, ``round-0``, ``round-1``, ...; none inside any other."""
    every = map(partial(round_folder, folder), itertools.count())
    return list(itertools.takewhile(lambda inside: (inside / RECIPE).exists(), every))


def last_round(folder: Path) -> Path:
    """The last of :func:`rounds`, or the folder itself."""
    return (rounds(folder) or [folder])[-1]


@contextlib.contextmanager
def free_folder(name: str) -> Iterator[Path]:
    """Makes the first of :func:`numbered` that is not there, so that nobody else gets it too.

    If what follows fails and has put nothing into it, it is removed again.
    """
    made_runs = not RUNS.exists()
    folder = RUNS
    try:
        folder.mkdir(exist_ok=True)
        for number in itertools.count(1):
            with contextlib.suppress(FileExistsError):
                folder = numbered(name, number)
                folder.mkdir()
                break
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror}.") from error
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):  # it holds something
            folder.rmdir()
            if made_runs:
                RUNS.rmdir()
        raise


def check_free(folder: Path) -> None:
    """Refuses a folder that holds something, unless it is a run whose making was cut off."""
    mark = folder / UNFINISHED
    if mark.is_file() and not mark.is_symlink() and not (folder / RECIPE).exists():
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "holds another run" if (folder / RECIPE).exists() else "exists and is not empty"
        raise RunError(f"{folder} {what}: continue that one (--resume, in Python resume=True), or choose "
                       "another folder (--out, folder=).")


@contextlib.contextmanager
def making(folder: Path) -> Iterator[None]:
    """A new folder, locked while its first files are written; a kill leaves it to be made again.

    Raises:
        RunError: if it holds a run, another process is at it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror}.") from error
    with alone_in(folder):
        check_free(folder)
        try:
            if not (folder / UNFINISHED).exists():
                os.close(os.open(folder / UNFINISHED, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            (folder / INITIAL).unlink(missing_ok=True)  # of a making that was cut off
        except OSError as error:
            raise RunError(f"cannot make the folder {folder}: {error.strerror}.") from error
        yield
        (folder / UNFINISHED).unlink()


class Seen:
    """What the files of a run were when they were last read or written here.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.remember()

    def remember(self) -> None:
        self._files = self._now()

    def check(self) -> None:
        """Raises RunError if another process has written to the run since."""
        if self._now() != self._files:
            raise RunError(f"another process has gone on with the run in {self.folder} since it was opened "
                           "here: open it again (neuralgraph train --resume does).")

    def _now(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for name in (CHECKPOINT, RECIPE):
            try:
                status = (self.folder / name).stat()
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
            except OSError:
                found.append(None)
        return found


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps a second process from training the same run; a killed one leaves nothing behind."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise RunError(f"cannot open the folder {folder}: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RunError(f"{folder} is being trained by another process; wait for it or stop it.") from None
    except OSError:
        pass  # a file system without locks
    _LOCKS.add(descriptor)
    try:
        yield
    finally:
        _LOCKS.discard(descriptor)
        os.close(descriptor)


_LOCKS: set[int] = set()


def _drop_locks() -> None:
    """A process forked to read images must not keep the lock of a parent that was killed."""
    while _LOCKS:
        os.close(_LOCKS.pop())


os.register_at_fork(after_in_child=_drop_locks)
