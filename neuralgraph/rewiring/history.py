r"""Which candidates were real when, with what weights: a file that grows while a model trains.

The file ``*.history`` begins with ``neuralgraph history 1\n``. Then follow records, each

    length (uint32)  CRC-32 (uint32)  payload, ``length`` bytes

(little-endian, as everything here), whose payload is zlib's of a line of JSON, ``\n``, and arrays one after another.
A record that is cut off at the end of the file is not there: its writer is at it, or was killed.

The first record says what is observed: ``{"parts": [part, ...]}``, each part

    ==============  ==========================================================================
    ``name``        of the neural graph, or of the layer's parameter, in the model
    ``candidates``  their number E
    ``nodes``       number of nodes, of a graph; ``labels`` their names, where they have some
    ==============  ==========================================================================

and, of graphs, the arrays role (uint8), block (int32), src and dst of every candidate, the last two as differences from one to the
next (int32). All others are the wiring after a step, ``{"step": s, "parts": [[born, died, width], ...]}``, with the
arrays of every part:

    born    numbers of the candidates that were not real in the record before, ascending, as differences (uint32)
    died    of those that no longer are, likewise
    weight  of the real candidates in ascending order: of width 2 the bits of a float16 (float32 where that cannot
            hold one of them: width 4; 0: not recorded), minus those of the record before as far as the candidate
            was real there, modulo 2^16 (2^32); first all low bytes, then all next ones
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import CheckpointError, InputError, whole

MAGIC = b"neuralgraph history 1\n"
PREFIX = struct.Struct("<II")
LARGEST = 2**31  # bytes of a record before compression


@dataclass(frozen=True, eq=False)
class Observed:
    """What a history is of: one neural graph, or one choice among a layer's weights.

    Args:
        name: in the model.
        candidates: how many.
        role, block: of the nodes of a graph, int64 (V,); None of a layer.
        src, dst: the ends of its candidate edges, int64 (E,); None of a layer.
        labels: the names of the nodes, where they have some.
    """

    name: str
    candidates: int
    role: torch.Tensor | None = None
    block: torch.Tensor | None = None
    src: torch.Tensor | None = None
    dst: torch.Tensor | None = None
    labels: tuple | None = None


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
        self._changes: list[list[_Change]] = []  # of each record, each part
        self._ends: list[int] = []  # of each record, in bytes
        self._end = self._first_end = 0  # of the last whole record, and of the first
        self.refresh()

    def refresh(self) -> int:
        """Reads what was written since, and returns how many records that were.

        Raises:
            CheckpointError: for a file that is missing, damaged or no history.
        """
        number = 0
        for header, content, self._end in _records(self.path, self._end):
            try:
                if not self.parts:
                    self.parts, self._first_end = _read_parts(header, content), self._end
                else:
                    step, changes = _read_changes(header, content, self.parts, self._changes[-1:])
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

    def until(self, step: int) -> tuple[int, int, list]:
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


@dataclass(frozen=True, eq=False)
class _Change:
    """One part after a step: numbers of candidates, int64, and the bits of their weights."""

    born: np.ndarray
    died: np.ndarray
    real: np.ndarray
    bits: np.ndarray | None

    def values(self) -> np.ndarray:
        if self.bits is None:
            return np.full(len(self.real), np.nan, np.float32)
        return self.bits.view(np.float16 if self.bits.itemsize == 2 else np.float32).astype(np.float32)


# Writing

def first_record(parts: list[Observed]) -> bytes:
    """The beginning of a file, and its record of what is observed."""
    described, arrays = [], []
    for part in parts:
        one = {"name": part.name, "candidates": part.candidates}
        if part.role is not None:
            one["nodes"] = len(part.role)
            if part.labels is not None:
                one["labels"] = [label if isinstance(label, (int, str)) else repr(label) for label in part.labels]
            arrays += [part.role.numpy().astype("u1"), part.block.numpy().astype("<i4"),
                       _differences(part.src.numpy(), "<i4"), _differences(part.dst.numpy(), "<i4")]
        described.append(one)
    return MAGIC + _record({"parts": described}, arrays)


def step_record(step: int, parts: list[tuple[np.ndarray, np.ndarray | None]],
                before: list[_Change] | None) -> tuple[bytes, list[_Change]]:
    """A record of the real candidates and their weights, and what the next one is to be compared with.

    Args:
        step: how many are done.
        parts: of each, the numbers of the real candidates, ascending, and their weights, float32, or None.
        before: of the record before.
    """
    described, arrays, changes = [], [], []
    for number, (real, weight) in enumerate(parts):
        old = before[number] if before else _Change(*[np.zeros(0, np.int64)] * 3, None)
        change = _Change(np.setdiff1d(real, old.real, True), np.setdiff1d(old.real, real, True), real, _bits(weight))
        width = 0 if change.bits is None else change.bits.itemsize
        described.append([len(change.born), len(change.died), width])
        arrays += [_differences(change.born, "<u4"), _differences(change.died, "<u4")]
        if width:
            delta = change.bits - _bits_before(change.real, old, change.bits.dtype)
            arrays.append(delta.view("u1").reshape(-1, width).T.copy())
        changes.append(change)
    return _record({"step": step, "parts": described}, arrays), changes


def _record(header: dict, arrays: list[np.ndarray]) -> bytes:
    payload = zlib.compress(b"".join([json.dumps(header).encode(), b"\n", *(array.tobytes() for array in arrays)]))
    return PREFIX.pack(len(payload), zlib.crc32(payload)) + payload


def _differences(values: np.ndarray, kind: str) -> np.ndarray:
    return np.diff(values, prepend=0).astype(kind)


def _bits(weight: np.ndarray | None) -> np.ndarray | None:
    if weight is None:
        return None
    with np.errstate(over="ignore"):
        half = weight.astype("<f2")
    size = np.abs(weight)
    if np.isfinite(half).all() and ((size == 0) | (size >= np.finfo(np.float16).smallest_normal)).all():
        return half.view("<u2")
    return weight.astype("<f4").view("<u4")


def _bits_before(real: np.ndarray, old: _Change, kind: np.dtype) -> np.ndarray:
    """The bits that the same candidates had before, 0 for those that had none of this width."""
    bits = np.zeros(len(real), kind)
    if old.bits is not None and old.bits.dtype == kind and len(old.real):
        place = np.searchsorted(old.real, real).clip(max=len(old.real) - 1)
        had = old.real[place] == real
        bits[had] = old.bits[place[had]]
    return bits


# Reading

def _records(path: Path, position: int) -> Iterator[tuple[dict, bytes, int]]:
    """The whole records from a position on, and where each ends."""
    try:
        with path.open("rb") as file:
            if position == 0:
                start = file.read(len(MAGIC))
                if start != MAGIC:
                    newer = start.startswith(MAGIC[:20]) and start.endswith(b"\n")
                    raise CheckpointError(f"{path} is no history of neuralgraph" + (
                        f" that this version can read: it begins with {start!r}." if newer else "."))
                position = len(MAGIC)
            file.seek(position)
            while len(prefix := file.read(PREFIX.size)) == PREFIX.size:
                length, check = PREFIX.unpack(prefix)
                payload = file.read(length)
                if len(payload) < length:
                    return
                position += PREFIX.size + length
                yield *_opened(path, payload, check), position
    except FileNotFoundError:
        raise CheckpointError(f"there is no history {path}.") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}.") from error


def _opened(path: Path, payload: bytes, check: int) -> tuple[dict, bytes]:
    try:
        if zlib.crc32(payload) != check:
            raise ValueError("a record is not what was written")
        unpack = zlib.decompressobj()
        content = unpack.decompress(payload, LARGEST)
        if not unpack.eof:
            raise ValueError("a record is too large")
        header, _, arrays = content.partition(b"\n")
        return json.loads(header), arrays
    except (ValueError, zlib.error, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


class _Arrays:
    """Arrays one after another."""

    def __init__(self, content: bytes):
        self._content, self._place = content, 0

    def take(self, number: int, kind: str) -> np.ndarray:
        size = number * np.dtype(kind).itemsize
        if number < 0 or self._place + size > len(self._content):
            raise ValueError("a record is too short")
        self._place += size
        return np.frombuffer(self._content, kind, number, self._place - size)

    def summed(self, number: int, kind: str, below: int) -> np.ndarray:
        values = self.take(number, kind).astype(np.int64).cumsum()
        if len(values) and not 0 <= values.min() <= values.max() < below:
            raise ValueError(f"a number outside 0 to {below - 1}")
        return values

    def ascending(self, number: int, below: int) -> np.ndarray:
        values = self.summed(number, "<u4", below)
        if (values[1:] <= values[:-1]).any():
            raise ValueError("numbers of candidates that do not ascend")
        return values


def _read_parts(header: dict, content: bytes) -> list[Observed]:
    arrays, parts = _Arrays(content), []
    for one in header["parts"]:
        name, number = one["name"], one["candidates"]
        if not isinstance(name, str) or type(number) is not int or number < 0:
            raise ValueError(f"a part {one!r}")
        if "nodes" not in one:
            parts.append(Observed(name, number))
            continue
        nodes = one["nodes"]
        role, block = arrays.take(nodes, "u1"), arrays.take(nodes, "<i4")
        ends = [arrays.summed(number, "<i4", nodes) for _ in range(2)]
        role, block, src, dst = (torch.from_numpy(array.astype(np.int64)) for array in (role, block, *ends))
        labels = one.get("labels")
        if labels is not None and (not isinstance(labels, list) or len(labels) != nodes):
            raise ValueError("labels that are not one for each node")
        parts.append(Observed(name, number, role, block, src, dst, None if labels is None else tuple(labels)))
    return parts


def _read_changes(header: dict, content: bytes, parts: list[Observed],
                  before: list[list[_Change]]) -> tuple[int, list[_Change]]:
    arrays, changes = _Arrays(content), []
    step = header["step"]
    if type(step) is not int or step < 0 or len(header["parts"]) != len(parts):
        raise ValueError(f"a record {header!r}")
    for number, (part, (births, deaths, width)) in enumerate(zip(parts, header["parts"])):
        old = before[0][number] if before else _Change(*[np.zeros(0, np.int64)] * 3, None)
        born, died = arrays.ascending(births, part.candidates), arrays.ascending(deaths, part.candidates)
        if np.isin(born, old.real).any() or not np.isin(died, old.real).all():
            raise ValueError("candidates that are born twice or die twice")
        real = np.union1d(np.setdiff1d(old.real, died, True), born)
        bits = None
        if width:
            if width not in (2, 4):
                raise ValueError(f"weights of {width} bytes")
            delta = arrays.take(len(real) * width, "u1").reshape(width, -1).T.copy().view(f"<u{width}").ravel()
            bits = delta + _bits_before(real, old, delta.dtype)
        changes.append(_Change(born, died, real, bits))
    return step, changes
