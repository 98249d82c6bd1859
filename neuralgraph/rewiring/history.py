"""The wiring of a model over its training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .._html import beside, curve, facts, table
from ..errors import CheckpointError, InputError, whole
from .records import Change, Observed, read_changes, read_parts, records

MOST_CURVES = 4  # in a notebook


@dataclass(frozen=True, eq=False)
class Moment:
    """One part as it was after a step.

    Args:
        step: the number of optimizer steps that were done.
        real: which candidates were real, bool (E,).
        weight: their effective weights, float32 (E,), to a precision of 11 bits; 0 where not real, and nan where
            real but not recorded. Of kernels, their norms.
    """

    step: int
    real: torch.Tensor
    weight: torch.Tensor

    @property
    def threshold(self) -> float:
        """The smallest magnitude of a real candidate; nan without one."""
        kept = self.weight[self.real].abs()
        return kept.min().item() if len(kept) else float("nan")

    def _repr_html_(self) -> str:
        return facts({"real": int(self.real.sum()), "of candidates": len(self.real), "threshold": self.threshold},
                     f"after step {self.step:,}")


class History:
    """The wiring of a model after every recorded step, read from a file that may still be growing.

    >>> import tempfile, torch, neuralgraph as ng
    >>> net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 8, 2]), ng.TopK(k=20))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rewiring = ng.rewire(net, optimizer, total_steps=8, history=f"{folder}/net.history")
    ...     for step in range(8):
    ...         loss = net(torch.randn(4, 3, 8, 8)).square().mean()
    ...         optimizer.zero_grad()
    ...         loss.backward()
    ...         optimizer.step()
    ...     history = History(f"{folder}/net.history")
    >>> history.steps
    [0, 1, 2, 4, 8]
    >>> int(history.at(8).real.sum())
    20
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.parts: list[Observed] = []
        self.steps: list[int] = []
        self._changes: list[list[Change]] = []  # of each record, each part
        self._ends: list[int] = []  # of each record, in bytes
        self._end = self._first_end = 0  # of the last whole record, and of the first
        self.refresh()

    def refresh(self) -> int:
        """Reads what was written since, and returns how many records that were.

        Raises:
            CheckpointError: for a file that is missing, damaged or no history.
        """
        number = 0
        for header, content, end in records(self.path, self._end):
            self._end = end
            try:
                if not self.parts:
                    self.parts, self._first_end = read_parts(header, content), self._end
                else:
                    step, changes = read_changes(header, content, self.parts, self._changes[-1:])
                    if self.steps and step <= self.steps[-1]:
                        raise ValueError(f"step {step} after step {self.steps[-1]}")
                    self.steps.append(step)
                    self._changes.append(changes)
                    self._ends.append(self._end)
                    number += 1
            except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
                raise CheckpointError(f"{self.path} is damaged: {error}") from error
        return number

    # Looking at it

    def at(self, step: int | None = None, part: int = 0) -> Moment:
        """The wiring after the last record that is not later than ``step``; the last of all by default.

        Raises:
            InputError: for a step before the first record, or a part that does not exist.
        """
        number = self._number(step)
        change = self._changes[number][self._part(part)]
        real = torch.zeros(self.parts[part].candidates, dtype=torch.bool)
        real[change.real] = True
        weight = torch.zeros(len(real))
        weight[change.real] = torch.from_numpy(change.values())
        return Moment(self.steps[number], real, weight)

    def births(self, part: int = 0) -> torch.Tensor:
        """(candidate, step) of every beginning, int64 (N, 2): the start's at its step."""
        return self._events("born", part)

    def deaths(self, part: int = 0) -> torch.Tensor:
        """(candidate, step) of every end, int64 (N, 2): real in the record before, and no longer then."""
        return self._events("died", part)

    def until(self, step: int) -> tuple[int, int, list[Change] | None]:
        """Of a writer that goes on after ``step``: bytes of the file that stay, the last step there and its state."""
        number = int(np.searchsorted(self.steps, step, side="right")) - 1
        if number < 0:
            return self._first_end, -1, None
        return self._ends[number], self.steps[number], self._changes[number]

    def _events(self, which, part):
        part = self._part(part)
        rows = [torch.from_numpy(np.stack([edges, np.full_like(edges, step)], 1)) for step, changes in zip(
            self.steps, self._changes) for edges in [getattr(changes[part], which)]]
        return torch.cat(rows) if rows else torch.zeros(0, 2, dtype=torch.long)

    def ages(self, step: int | None = None, part: int = 0) -> torch.Tensor:
        """Steps since each candidate became real, int64 (E,); -1 where it is not."""
        number, part = self._number(step), self._part(part)
        since = torch.full((self.parts[part].candidates,), -1)
        for then, changes in zip(self.steps[:number + 1], self._changes):
            since[changes[part].born], since[changes[part].died] = then, -1
        return torch.where(since >= 0, self.steps[number] - since, -1)

    def turnover(self, part: int = 0) -> list[float]:
        """For each record but the first, the share of real candidates that were not real in the one before."""
        part = self._part(part)
        return [len(changes[part].born) / max(1, len(changes[part].real)) for changes in self._changes[1:]]

    def thresholds(self, part: int = 0) -> list[float]:
        """For each record the smallest magnitude of a real candidate."""
        return [self.at(step, part).threshold for step in self.steps]

    def _repr_html_(self) -> str:
        last = [self.at(part=part) for part in range(len(self.parts))] if self.steps else []
        rows = [(part.name, part.candidates, int(moment.real.sum()), moment.threshold)
                for part, moment in zip(self.parts, last)]
        turnover = {part.name: list(zip(self.steps[1:], self.turnover(number)))
                    for number, part in enumerate(self.parts[:MOST_CURVES])}
        when = "no record yet"
        if self.steps:
            when = f"{len(self.steps):,} records, of steps {self.steps[0]:,} to {self.steps[-1]:,}"
        return beside(table(("part", "candidates", "real", "threshold"), rows, self.path, [when]),
                      curve(turnover, "step", "turnover"))

    def _number(self, step: int | None) -> int:
        if not self.steps:
            raise InputError(f"{self.path} has no record yet.")
        if step is None:
            return len(self.steps) - 1
        if whole(step) is None or step < self.steps[0]:
            raise InputError(f"step must be an integer from {self.steps[0]}, the first recorded, got {step!r}.")
        return int(np.searchsorted(self.steps, step, side="right")) - 1

    def _part(self, part: int) -> int:
        if whole(part) is None or not 0 <= part < len(self.parts):
            raise InputError(f"part must be from 0 to {len(self.parts) - 1} ("
                             f"{', '.join(observed.name for observed in self.parts)}), got {part!r}.")
        return part
