"""Writing the history of a wiring while a model trains."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..errors import InputError, RunError, whole
from ..layers import choices_of
from ..layers.choice import Choice
from ..networks import NeuralGraph
from .history import History
from .records import Change, Observed, first_record, step_record

MOST_WEIGHTS = 2**18  # real candidates of a part, up to which their weights are recorded


class Recorder:
    """Writes which candidates of a model are real, and their weights, into a file as training goes.

    There is a record of the start, of the steps 1, 2, 4, 8, ... below ``every``, and of every so many steps. Each is
    written at once, so that the file can be read while it grows, and a kill costs the record it falls into. A part with
    more than 2^18 real candidates is recorded without weights. Of several processes the first one writes.

    Args:
        path: of the file, by custom ``*.history``; :class:`~neuralgraph.rewiring.History` reads it. What is there
            already is gone on with.
        every: steps between records.
    """

    def __init__(self, path: str | Path, every: int = 100):
        number = whole(every)
        if number is None or number < 1:
            raise InputError(f"every, the steps between records, must be an integer of at least 1, got {every!r}.")
        self.path, self.every = Path(path), number
        self._last = -1
        self._changes: list[Change] | None = None
        self._parts: list[tuple[Observed, NeuralGraph | Choice]] = []

    def begin(self, model: nn.Module, step: int) -> None:
        """Called before the first step of a training or of its continuation: what comes after ``step`` is taken back.

        Raises:
            InputError: if the file is the history of another model.
            CheckpointError: if it is damaged or something else.
            RunError: if it cannot be written.
        """
        self._parts = list(observed_in(model))
        if not _is_first():
            return
        first = first_record([observed for observed, _ in self._parts])
        self._last, self._changes = -1, None
        keep = self._take_over(first, step) if self.path.exists() else 0
        try:
            with open(self.path, "r+b" if keep else "wb", opener=_no_link) as file:
                file.truncate(keep)
                if not keep:
                    file.write(first)
        except OSError as error:
            raise self._failed(error) from error
        if self._changes is None:
            self._record(step)

    def stepped(self, step: int, always: bool = False) -> None:
        """Called after each step, of which so many are done now: records it if it is its turn, or ``always``."""
        is_early = step < self.every and step & (step - 1) == 0
        if _is_first() and step > self._last and (is_early or always or step % self.every == 0):
            self._record(step)

    def _take_over(self, first: bytes, step: int) -> int:
        """Bytes of the file that stay."""
        history = History(self.path)
        if not history.parts:  # its making was cut off
            return 0
        if self.path.open("rb").read(len(first)) != first:
            raise InputError(f"{self.path} is the history of another model, of {', '.join(p.name for p in history.parts)}: "
                             "choose another path.")
        keep, self._last, self._changes = history.until(step)
        return keep

    def _record(self, step: int) -> None:
        states = [(real, weight if len(real) <= MOST_WEIGHTS else None)
                  for real, weight in (state_of(owner) for _, owner in self._parts)]
        content, self._changes = step_record(step, states, self._changes)
        try:
            with open(self.path, "ab", opener=_no_link) as file:
                file.write(content)
        except OSError as error:
            raise self._failed(error) from error
        self._last = step

    def _failed(self, error: OSError) -> RunError:
        is_gone = not self.path.parent.is_dir()
        return RunError(f"cannot write {self.path}: {'the folder is gone' if is_gone else error.strerror or error}.")


def _is_first() -> bool:
    """Whether this is the first of the processes that train together, or the only one."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def observed_in(model: nn.Module) -> Iterator[tuple[Observed, NeuralGraph | Choice]]:
    """What there is to observe, in order, and whose it is."""
    for name, module in model.named_modules():
        if isinstance(module, NeuralGraph):
            wiring = module.wiring
            yield Observed(name or "network", wiring.num_edges, wiring.role, wiring.block, wiring.src, wiring.dst,
                           wiring.labels), module
    for name, choice in choices_of(model):
        yield Observed(name, choice.selector.candidates.num), choice


@torch.no_grad()
def state_of(owner: NeuralGraph | Choice) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the real candidates and their effective weights, as evaluation has them."""
    if isinstance(owner, NeuralGraph):
        selection = owner.selection()
        real, weight = selection.real, selection.weight
    else:
        real, weight = owner.evaluated()
    real = real.nonzero().flatten()
    return real.cpu().numpy(), weight[real].float().cpu().numpy()
