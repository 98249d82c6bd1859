"""Sums over real edges, and dot products per edge.

Maps are rows: a tensor (B, n, H, W) is, for each sample, n rows of H W numbers. All rows have unit
stride inside; strides of samples and rows are free, in bytes. A row is cut into pieces of the
largest width out of 64, 32, 16, 8, 4, 2, 1 numbers that fits; the last piece ends where the row
ends and may overlap the one before, so that nothing outside a row is ever touched.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import carray

from .halves import bytes_of, load_as
from .launch import Kernel
from .one_map import activate, number
from .parts import inline
from .record import record
from .rows import channel_rows
from .vector import (
    add,
    at,
    fill,
    fma,
    lanes_of,
    load,
    load_index,
    load_scalar,
    mul,
    narrow,
    rolled,
    size_of,
    splat,
    store,
    store_scalar,
    take_number,
    total,
)

# addresses, and distances of samples and rows in bytes
SUMS = record("batch length rows x x_sample x_row out out_sample out_row first index weight onto chunks grabs")
DOTS = record("batch length edges x x_sample x_row y y_sample y_row src dst out scratch grabs")

TOGETHER = 8192  # edges whose products are added up at a time, a vector for each, in the second cache

# Weighted sums


@inline
def finished(like, value, bias, shift, slope):
    """activation(value + shift), without the shift if ``bias`` is 0."""
    if bias != 0:
        value = add(value, shift)
    return activate(like, value, slope)


@inline
def _number_of(like, numbers, place):
    """The number of a place at an address, or 0 where there is none."""
    if numbers == 0:
        return fill(like, 0.0)
    return fill(like, load_scalar(like, numbers + place * size_of(narrow(like, 1))))


@inline
def _sum4(like, stored, x, stride, first, index, weight, out, out_stride, begin, end, onto, bias, slope):
    """out[v] = activation(bias[v] + sum of weight[e] x[index[e]]) over the edges of rows begin..end, four vectors wide.

    With ``onto`` the sum is added to what stands there.
    """
    wide, step = size_of(like), lanes_of(like) * bytes_of(stored)
    scalar = size_of(narrow(like, 1))
    for v in range(begin, end):
        rolled()
        target = out + v * out_stride
        a = fill(like, 0.0)
        b, c, d = a, a, a
        if onto:
            a, b = load(like, target), load(like, target + wide)
            c, d = load(like, target + 2 * wide), load(like, target + 3 * wide)
        for e in range(load_index(first + 4 * v), load_index(first + 4 * v + 4)):
            w = fill(like, load_scalar(like, weight + e * scalar))
            row = x + load_index(index + 4 * e) * stride
            a = fma(w, load_as(like, stored, row), a)
            b = fma(w, load_as(like, stored, row + step), b)
            c = fma(w, load_as(like, stored, row + 2 * step), c)
            d = fma(w, load_as(like, stored, row + 3 * step), d)
        shift = _number_of(like, bias, v)
        store(finished(like, a, bias, shift, slope), target)
        store(finished(like, b, bias, shift, slope), target + wide)
        store(finished(like, c, bias, shift, slope), target + 2 * wide)
        store(finished(like, d, bias, shift, slope), target + 3 * wide)


@inline
def _sum2(like, stored, x, stride, first, index, weight, out, out_stride, begin, end, onto, bias, slope):
    """As :func:`_sum4`, two vectors wide, two edges at a time."""
    wide, step = size_of(like), lanes_of(like) * bytes_of(stored)
    scalar = size_of(narrow(like, 1))
    for v in range(begin, end):
        rolled()
        target = out + v * out_stride
        a = fill(like, 0.0)
        b, c, d = a, a, a
        if onto:
            a, b = load(like, target), load(like, target + wide)
        e = load_index(first + 4 * v)
        last = load_index(first + 4 * v + 4)
        while e + 1 < last:
            w = fill(like, load_scalar(like, weight + e * scalar))
            row = x + load_index(index + 4 * e) * stride
            a = fma(w, load_as(like, stored, row), a)
            b = fma(w, load_as(like, stored, row + step), b)
            w = fill(like, load_scalar(like, weight + e * scalar + scalar))
            row = x + load_index(index + 4 * e + 4) * stride
            c = fma(w, load_as(like, stored, row), c)
            d = fma(w, load_as(like, stored, row + step), d)
            e += 2
        if e < last:
            w = fill(like, load_scalar(like, weight + e * scalar))
            row = x + load_index(index + 4 * e) * stride
            a = fma(w, load_as(like, stored, row), a)
            b = fma(w, load_as(like, stored, row + step), b)
        shift = _number_of(like, bias, v)
        store(finished(like, add(a, c), bias, shift, slope), target)
        store(finished(like, add(b, d), bias, shift, slope), target + wide)


@inline
def _sum1(like, stored, x, stride, first, index, weight, out, out_stride, begin, end, onto, bias, slope):
    """As :func:`_sum4`, one vector wide, four edges at a time."""
    scalar = size_of(narrow(like, 1))
    for v in range(begin, end):
        rolled()
        target = out + v * out_stride
        a = fill(like, 0.0)
        b, c, d = a, a, a
        if onto:
            a = load(like, target)
        e = load_index(first + 4 * v)
        last = load_index(first + 4 * v + 4)
        while e + 3 < last:
            w = weight + e * scalar
            i = index + 4 * e
            a = fma(fill(like, load_scalar(like, w)), load_as(like, stored, x + load_index(i) * stride), a)
            b = fma(fill(like, load_scalar(like, w + scalar)),
                    load_as(like, stored, x + load_index(i + 4) * stride), b)
            c = fma(fill(like, load_scalar(like, w + 2 * scalar)),
                    load_as(like, stored, x + load_index(i + 8) * stride), c)
            d = fma(fill(like, load_scalar(like, w + 3 * scalar)),
                    load_as(like, stored, x + load_index(i + 12) * stride), d)
            e += 4
        while e < last:
            w = fill(like, load_scalar(like, weight + e * scalar))
            a = fma(w, load_as(like, stored, x + load_index(index + 4 * e) * stride), a)
            e += 1
        store(finished(like, add(add(a, b), add(c, d)), bias, _number_of(like, bias, v), slope), target)


@inline
def piece_width(length):
    """The width of the pieces that a row of ``length`` numbers is cut into."""
    width = 64
    while width > length:
        width //= 2
    return width


@inline
def sum_piece(like, stored, width, x, stride, first, index, weight, out, out_stride, begin, end, onto=False, bias=0,
              slope=1.0):
    """The sums of rows begin..end at one piece of ``width`` numbers; ``like`` has 16 lanes, and x is ``stored`` so.

    With ``onto`` they are added to what stands there. ``bias`` is the address of a number to add for each row, or 0; a
    sum below 0 is multiplied by ``slope``.
    """
    if width == 64:
        _sum4(like, stored, x, stride, first, index, weight, out, out_stride, begin, end, onto, bias, slope)
    elif width == 32:
        _sum2(like, stored, x, stride, first, index, weight, out, out_stride, begin, end, onto, bias, slope)
    elif width == 16:
        _sum1(like, stored, x, stride, first, index, weight, out, out_stride, begin, end, onto, bias, slope)
    elif width == 8:
        _sum1(narrow(like, 8), stored, x, stride, first, index, weight, out, out_stride, begin, end, onto, bias, slope)
    elif width == 4:
        _sum1(narrow(like, 4), stored, x, stride, first, index, weight, out, out_stride, begin, end, onto, bias, slope)
    elif width == 2:
        _sum1(narrow(like, 2), stored, x, stride, first, index, weight, out, out_stride, begin, end, onto, bias, slope)
    else:
        _sum1(narrow(like, 1), stored, x, stride, first, index, weight, out, out_stride, begin, end, onto, bias, slope)


@inline
def _sums(like, address):
    a = carray(at(address), 1, SUMS)[0]
    scalar = size_of(narrow(like, 1))
    length, rows, chunks, grabs = a.length, a.rows, a.chunks, a.grabs
    x, x_sample, x_row, out, out_sample, out_row = a.x, a.x_sample, a.x_row, a.out, a.out_sample, a.out_row
    first, index, weight, onto = a.first, a.index, a.weight, a.onto != 0
    width = piece_width(length)
    pieces = (length + width - 1) // width
    units = a.batch * chunks * pieces
    while True:
        rolled()
        grab = take_number(address)
        if grab >= grabs:
            return
        for unit in range(grab * units // grabs, (grab + 1) * units // grabs):
            rolled()
            piece = unit % pieces
            chunk = unit // pieces % chunks
            sample = unit // pieces // chunks
            offset = min(piece * width, length - width) * scalar
            sum_piece(like, number(like, 0.0), width, x + sample * x_sample + offset, x_row, first, index, weight,
                      out + sample * out_sample + offset, out_row,
                      chunk * rows // chunks, (chunk + 1) * rows // chunks, onto)


def _sums_float32(address):
    _sums(splat(np.float32(0), 16), address)


def _sums_float64(address):
    _sums(splat(np.float64(0), 16), address)


_run_sums = Kernel(SUMS, float32=_sums_float32, float64=_sums_float64)


def weighted_sums(x: torch.Tensor, first: torch.Tensor, index: torch.Tensor,
                  weight: torch.Tensor) -> torch.Tensor:
    """out[b, v] = sum over e from first[v] to first[v + 1] of weight[e] x[b, index[e]].

    Args:
        x: (B, n, L) with unit stride in L, float32 or float64.
        first, index: of an :class:`EdgeList`.
        weight: of each edge of the list, of the dtype of ``x``, contiguous.

    Returns:
        (B, rows, L), contiguous.
    """
    out = x.new_empty(x.shape[0], len(first) - 1, x.shape[2])
    weighted_sums_into(out, x, first, index, weight, False)
    return out


def weighted_sums_into(out: torch.Tensor, x: torch.Tensor, first: torch.Tensor, index: torch.Tensor,
                       weight: torch.Tensor, onto: bool) -> None:
    """As :func:`weighted_sums`, written to ``out``, (B, rows, L) with unit stride in L, or added ``onto`` it."""
    batch, rows, length = out.shape
    if not out.numel():
        return
    size, width = x.element_size(), piece_width.py_func(length)
    if onto and length % width:  # the last two pieces of a row overlap
        out += weighted_sums(x, first, index, weight)
        return
    pieces = -(-length // width)
    threads = torch.get_num_threads()
    chunks = min(rows, -(-4 * threads // (batch * pieces)))
    grabs = min(batch * pieces * chunks, 8 * threads)
    _run_sums(x.dtype, grabs, _run_sums.fields(
        batch=batch, length=length, rows=rows, chunks=chunks, grabs=grabs, onto=onto,
        x=x.data_ptr(), x_sample=x.stride(0) * size, x_row=x.stride(1) * size,
        out=out.data_ptr(), out_sample=out.stride(0) * size, out_row=out.stride(1) * size,
        first=first.data_ptr(), index=index.data_ptr(), weight=weight.data_ptr()), len(index) * batch * length + out.numel())


# Dot products


@inline
def _dots4(like, x, x_row, y, y_row, src, dst, begin, end, sums):
    """Adds x[src[e]] y[dst[e]], four vectors of each, to a vector for each edge at ``sums``."""
    wide = size_of(like)
    e = begin
    while e < end:
        rolled()
        v = load_index(dst + 4 * e)
        row = y + v * y_row
        p, q, r, t = load(like, row), load(like, row + wide), load(like, row + 2 * wide), load(like, row + 3 * wide)
        while e < end and load_index(dst + 4 * e) == v:
            row, place = x + load_index(src + 4 * e) * x_row, sums + (e - begin) * wide
            a = fma(load(like, row), p, load(like, place))
            b = mul(load(like, row + wide), q)
            a = fma(load(like, row + 2 * wide), r, a)
            b = fma(load(like, row + 3 * wide), t, b)
            store(add(a, b), place)
            e += 1


@inline
def _dots1(like, x, x_row, y, y_row, src, dst, begin, end, sums):
    """As :func:`_dots4`, one vector of each."""
    wide = size_of(like)
    for e in range(begin, end):
        place = sums + (e - begin) * wide
        a = load(like, x + load_index(src + 4 * e) * x_row)
        store(fma(a, load(like, y + load_index(dst + 4 * e) * y_row), load(like, place)), place)


@inline
def _dots_rest(like, x, x_row, y, y_row, src, dst, begin, end, sums, length):
    """As :func:`_dots4`, of less than a vector of each; to the first lane."""
    scalar, wide = size_of(narrow(like, 1)), size_of(like)
    for e in range(begin, end):
        rolled()
        left, right = x + load_index(src + 4 * e) * x_row, y + load_index(dst + 4 * e) * y_row
        place = sums + (e - begin) * wide
        value = load_scalar(like, place)
        for i in range(length):
            value += load_scalar(like, left + i * scalar) * load_scalar(like, right + i * scalar)
        store_scalar(like, place, value)


@inline
def _dots(like, address):
    a = carray(at(address), 1, DOTS)[0]
    scalar, wide = size_of(narrow(like, 1)), size_of(like)
    batch, length, edges, grabs = a.batch, a.length, a.edges, a.grabs
    x, x_sample, x_row, y, y_sample, y_row = a.x, a.x_sample, a.x_row, a.y, a.y_sample, a.y_row
    src, dst, out = a.src, a.dst, a.out
    sums = a.scratch + take_number(address + 8) * TOGETHER * wide
    lanes, body, vectors = lanes_of(like), length // 64 * 64, length // 16 * 16
    while True:
        rolled()
        grab = take_number(address)
        if grab >= grabs:
            return
        begin, end = grab * edges // grabs, (grab + 1) * edges // grabs
        for e in range(begin, end):
            store(fill(like, 0.0), sums + (e - begin) * wide)
        for sample in range(batch):
            rolled()
            xs, ys = x + sample * x_sample, y + sample * y_sample
            for i in range(0, body, 4 * lanes):
                rolled()
                _dots4(like, xs + i * scalar, x_row, ys + i * scalar, y_row, src, dst, begin, end, sums)
            for i in range(body, vectors, lanes):
                rolled()
                _dots1(like, xs + i * scalar, x_row, ys + i * scalar, y_row, src, dst, begin, end, sums)
            if vectors < length:
                _dots_rest(like, xs + vectors * scalar, x_row, ys + vectors * scalar, y_row, src, dst, begin, end, sums,
                           length - vectors)
        for e in range(begin, end):
            store_scalar(like, out + e * scalar, total(load(like, sums + (e - begin) * wide)))


def _dots_float32(address):
    _dots(splat(np.float32(0), 16), address)


def _dots_float64(address):
    _dots(splat(np.float64(0), 16), address)


_run_dots = Kernel(DOTS, float32=_dots_float32, float64=_dots_float64)


def edge_dots(x: torch.Tensor, y: torch.Tensor, src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
    """out[e] = sum over b and l of x[b, src[e], l] y[b, dst[e], l].

    Args:
        x: (B, n, L), unit stride in L.
        y: (B, m, L), the same dtype, unit stride in L.
        src, dst: (number of edges,) int32.
    """
    out = x.new_zeros(len(src))
    if not (len(src) and x.numel() and y.numel()):
        return out
    if x.shape[2] < 16:
        x, y = channel_rows(x)[None], channel_rows(y)[None]
    size, threads = x.element_size(), torch.get_num_threads()
    grabs = min(len(src), max(8 * threads, -(-len(src) // TOGETHER)))
    scratch = x.new_empty(threads, TOGETHER, 16)
    _run_dots(x.dtype, grabs, _run_dots.fields(
        batch=x.shape[0], length=x.shape[2], edges=len(src), grabs=grabs,
        x=x.data_ptr(), x_sample=x.stride(0) * size, x_row=x.stride(1) * size,
        y=y.data_ptr(), y_sample=y.stride(0) * size, y_row=y.stride(1) * size, src=src.data_ptr(), dst=dst.data_ptr(),
        out=out.data_ptr(), scratch=scratch.data_ptr()), len(src) * x.shape[0] * x.shape[2])
    return out
