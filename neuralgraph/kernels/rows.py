"""Maps of a batch as one row of numbers for each channel."""

from __future__ import annotations

import numpy as np
import torch
from numba import carray

from .launch import Kernel
from .parts import inline
from .record import record
from .vector import at, lanes_of, load, load_scalar, narrow, rolled, size_of, splat, store, store_scalar, take_number

TOGETHER = 16  # rows that are copied side by side
ROWS = record("batch length rows x x_sample x_row out out_row")


@inline
def _copy(like, source, target, length):
    """Copies ``length`` numbers."""
    s = size_of(narrow(like, 1))
    lanes = lanes_of(like)
    body = length // lanes * lanes
    for i in range(0, body, lanes):
        store(load(like, source + i * s), target + i * s)
    for i in range(body, length):
        store_scalar(like, target + i * s, load_scalar(like, source + i * s))


@inline
def _rows(like, address):
    a = carray(at(address), 1, ROWS)[0]
    s = size_of(narrow(like, 1))
    batch, length, rows = a.batch, a.length, a.rows
    x, x_sample, x_row, out, out_row = a.x, a.x_sample, a.x_row, a.out, a.out_row
    small = narrow(like, 4)
    while True:
        rolled()
        first = take_number(address) * TOGETHER
        if first >= rows:
            return
        for sample in range(batch):
            rolled()
            for v in range(first, min(first + TOGETHER, rows)):
                rolled()
                source = x + sample * x_sample + v * x_row
                target = out + v * out_row + sample * length * s
                if length >= 16:
                    _copy(like, source, target, length)
                else:
                    _copy(small, source, target, length)


def _rows_float32(address):
    _rows(splat(np.float32(0), 16), address)


def _rows_float64(address):
    _rows(splat(np.float64(0), 16), address)


_run_copy = Kernel(ROWS, float32=_rows_float32, float64=_rows_float64)


def channel_rows(x: torch.Tensor) -> torch.Tensor:
    """(B, n, L), unit stride in L, as (n, B L) with a few numbers of padding after each row.

    Rows a power of two apart would share the same few sets of the cache.
    """
    batch, rows, length = x.shape
    size = x.element_size()
    out = x.new_empty(rows, batch * length + 64 // size)
    _run_copy(x.dtype, -(-rows // TOGETHER), _run_copy.fields(
        batch=batch, length=length, rows=rows, x=x.data_ptr(), x_sample=x.stride(0) * size,
        x_row=x.stride(1) * size, out=out.data_ptr(), out_row=out.stride(0) * size), x.numel())
    return out[:, :batch * length]
