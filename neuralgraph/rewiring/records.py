r"""The file of a history: which candidates were real when, with what weights.

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

and, of graphs, the arrays role (uint8), block (int32), src and dst of every candidate, the last two as differences from one to
the next (int32). All others are the wiring after a step, ``{"step": s, "parts": [[born, died, width], ...]}``, with the
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

from ..errors import CheckpointError

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

    def graph(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """``role``, ``block``, ``src`` and ``dst`` of a graph."""
        assert self.role is not None and self.block is not None and self.src is not None and self.dst is not None
        return self.role, self.block, self.src, self.dst


@dataclass(frozen=True, eq=False)
class Change:
    """One part after a step: numbers of candidates, int64, and the bits of their weights."""

    born: np.ndarray
    died: np.ndarray
    real: np.ndarray
    bits: np.ndarray | None

    @classmethod
    def nothing(cls) -> Change:
        """What is there before the first."""
        none = np.zeros(0, np.int64)
        return cls(none, none, none, None)

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
            role, block, src, dst = (values.numpy() for values in part.graph())
            arrays += [role.astype("u1"), block.astype("<i4"), _differences(src, "<i4"), _differences(dst, "<i4")]
        described.append(one)
    return MAGIC + _record({"parts": described}, arrays)


def step_record(step: int, parts: list[tuple[np.ndarray, np.ndarray | None]],
                before: list[Change] | None) -> tuple[bytes, list[Change]]:
    """A record of the real candidates and their weights, and what the next one is to be compared with.

    Args:
        step: how many are done.
        parts: of each, the numbers of the real candidates, ascending, and their weights, float32, or None.
        before: of the record before.
    """
    described, arrays, changes = [], [], []
    for number, (real, weight) in enumerate(parts):
        old = before[number] if before else Change.nothing()
        change = Change(np.setdiff1d(real, old.real, True), np.setdiff1d(old.real, real, True), real, _bits(weight))
        width = 0 if change.bits is None else change.bits.itemsize
        described.append([len(change.born), len(change.died), width])
        arrays += [_differences(change.born, "<u4"), _differences(change.died, "<u4")]
        if change.bits is not None:
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


def _bits_before(real: np.ndarray, old: Change, kind: np.dtype) -> np.ndarray:
    """The bits that the same candidates had before, 0 for those that had none of this width."""
    bits = np.zeros(len(real), kind)
    if old.bits is not None and old.bits.dtype == kind and len(old.real):
        place = np.searchsorted(old.real, real).clip(max=len(old.real) - 1)
        had = old.real[place] == real
        bits[had] = old.bits[place[had]]
    return bits


# Reading

def records(path: Path, position: int) -> Iterator[tuple[dict, bytes, int]]:
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


def read_parts(header: dict, content: bytes) -> list[Observed]:
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


def read_changes(header: dict, content: bytes, parts: list[Observed],
                  before: list[list[Change]]) -> tuple[int, list[Change]]:
    arrays, changes = _Arrays(content), []
    step = header["step"]
    if type(step) is not int or step < 0 or len(header["parts"]) != len(parts):
        raise ValueError(f"a record {header!r}")
    for number, (part, (births, deaths, width)) in enumerate(zip(parts, header["parts"])):
        old = before[0][number] if before else Change.nothing()
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
        changes.append(Change(born, died, real, bits))
    return step, changes
