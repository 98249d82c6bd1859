"""The arguments of a kernel: named numbers at fixed offsets in memory, which both sides read by name."""

from __future__ import annotations

import ctypes
import struct
from collections import namedtuple
from collections.abc import Callable

import numpy as np

COUNTERS = ("unit", "thread")  # int64 before the fields, 0 at first: the next unit of work, the next thread
FORMATS = {"i8": "q", "f8": "d"}


def record(integers: str, numbers: str = "") -> np.dtype:
    """The layout of a kernel's arguments: first its counters, then int64 (sizes, addresses), then float64.

    Args:
        integers: names, with spaces between.
        numbers: names of real numbers.
    """
    return np.dtype([*((name, np.int64) for name in (*COUNTERS, *integers.split())),
                     *((name, np.float64) for name in numbers.split())], align=True)


class Packer:
    """Makes arguments of one layout.

    >>> packer = Packer(record("batch x", "slope"))
    >>> block = packer.block(packer.fields(x=7, batch=2, slope=0.5))
    >>> np.frombuffer(block, packer.layout)["slope"]
    array([0.5])
    """

    def __init__(self, layout: np.dtype):
        self.layout = layout
        names = layout.names or ()
        own = names[len(COUNTERS):]
        kind = namedtuple("Fields", own)  # type: ignore[misc]  # mypy reads literal names only
        # takes each by name, and refuses what is missing or unknown
        self.fields: Callable[..., tuple] = kind
        self._pack = struct.Struct("=" + "".join(FORMATS[layout[name].str[1:]] for name in names)).pack_into
        self._block = ctypes.c_int64 * len(names)

    def block(self, fields: tuple) -> ctypes.Array:
        """The memory that a kernel reads, aligned; it may be written, and belongs to one run."""
        block = self._block()
        self._pack(block, 0, 0, 0, *fields)
        return block
