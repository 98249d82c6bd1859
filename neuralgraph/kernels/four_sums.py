"""Sums of four rows over the same sources: each number that is read is multiplied four times."""

from __future__ import annotations

from .halves import bytes_of, load_as
from .parts import inline
from .sums import finished
from .vector import fill, fma, lanes_of, load_index, load_scalar, narrow, size_of, store


@inline
def four_sums(like, stored, x, stride, index, weight, out, out_stride, begin, end, bias, slope):
    """Four sums over the same rows, which are ``stored`` so, two vectors wide; edge e has four weights, one after the other.

    ``bias`` is the address of a number to add to each; a sum below 0 is multiplied by ``slope``.
    """
    step = lanes_of(like) * bytes_of(stored)
    scalar = size_of(narrow(like, 1))
    a = fill(like, 0.0)
    b, c, d, e, f, g, h = a, a, a, a, a, a, a
    for edge in range(begin, end):
        row = x + load_index(index + 4 * edge) * stride
        left, right = load_as(like, stored, row), load_as(like, stored, row + step)
        place = weight + 4 * edge * scalar
        w = fill(like, load_scalar(like, place))
        a, b = fma(w, left, a), fma(w, right, b)
        w = fill(like, load_scalar(like, place + scalar))
        c, d = fma(w, left, c), fma(w, right, d)
        w = fill(like, load_scalar(like, place + 2 * scalar))
        e, f = fma(w, left, e), fma(w, right, f)
        w = fill(like, load_scalar(like, place + 3 * scalar))
        g, h = fma(w, left, g), fma(w, right, h)
    _store2(like, a, b, out, bias, slope)
    _store2(like, c, d, out + out_stride, bias + scalar, slope)
    _store2(like, e, f, out + 2 * out_stride, bias + 2 * scalar, slope)
    _store2(like, g, h, out + 3 * out_stride, bias + 3 * scalar, slope)


@inline
def four_wide_sums(like, stored, x, stride, index, weight, out, out_stride, begin, end, bias, slope):
    """As :func:`four_sums`, four vectors wide."""
    wide, step = size_of(like), lanes_of(like) * bytes_of(stored)
    scalar = size_of(narrow(like, 1))
    a0 = fill(like, 0.0)
    a1, a2, a3 = a0, a0, a0
    b0, b1, b2, b3 = a0, a0, a0, a0
    c0, c1, c2, c3 = a0, a0, a0, a0
    d0, d1, d2, d3 = a0, a0, a0, a0
    for edge in range(begin, end):
        row = x + load_index(index + 4 * edge) * stride
        x0, x1 = load_as(like, stored, row), load_as(like, stored, row + step)
        x2, x3 = load_as(like, stored, row + 2 * step), load_as(like, stored, row + 3 * step)
        place = weight + 4 * edge * scalar
        w = fill(like, load_scalar(like, place))
        a0, a1, a2, a3 = fma(w, x0, a0), fma(w, x1, a1), fma(w, x2, a2), fma(w, x3, a3)
        w = fill(like, load_scalar(like, place + scalar))
        b0, b1, b2, b3 = fma(w, x0, b0), fma(w, x1, b1), fma(w, x2, b2), fma(w, x3, b3)
        w = fill(like, load_scalar(like, place + 2 * scalar))
        c0, c1, c2, c3 = fma(w, x0, c0), fma(w, x1, c1), fma(w, x2, c2), fma(w, x3, c3)
        w = fill(like, load_scalar(like, place + 3 * scalar))
        d0, d1, d2, d3 = fma(w, x0, d0), fma(w, x1, d1), fma(w, x2, d2), fma(w, x3, d3)
    two = 2 * wide
    _store2(like, a0, a1, out, bias, slope)
    _store2(like, a2, a3, out + two, bias, slope)
    _store2(like, b0, b1, out + out_stride, bias + scalar, slope)
    _store2(like, b2, b3, out + out_stride + two, bias + scalar, slope)
    _store2(like, c0, c1, out + 2 * out_stride, bias + 2 * scalar, slope)
    _store2(like, c2, c3, out + 2 * out_stride + two, bias + 2 * scalar, slope)
    _store2(like, d0, d1, out + 3 * out_stride, bias + 3 * scalar, slope)
    _store2(like, d2, d3, out + 3 * out_stride + two, bias + 3 * scalar, slope)


@inline
def _store2(like, a, b, target, bias, slope):
    _store1(like, a, target, bias, slope)
    _store1(like, b, target + size_of(like), bias, slope)


@inline
def _store1(like, a, target, bias, slope):
    store(finished(like, a, bias, fill(like, load_scalar(like, bias)), slope), target)


@inline
def four_narrow_sums(like, stored, x, stride, index, weight, out, out_stride, begin, end, bias, slope):
    """As :func:`four_sums`, one vector wide."""
    scalar = size_of(narrow(like, 1))
    a = fill(like, 0.0)
    b, c, d = a, a, a
    for edge in range(begin, end):
        value = load_as(like, stored, x + load_index(index + 4 * edge) * stride)
        place = weight + 4 * edge * scalar
        a = fma(fill(like, load_scalar(like, place)), value, a)
        b = fma(fill(like, load_scalar(like, place + scalar)), value, b)
        c = fma(fill(like, load_scalar(like, place + 2 * scalar)), value, c)
        d = fma(fill(like, load_scalar(like, place + 3 * scalar)), value, d)
    _store1(like, a, out, bias, slope)
    _store1(like, b, out + out_stride, bias + scalar, slope)
    _store1(like, c, out + 2 * out_stride, bias + 2 * scalar, slope)
    _store1(like, d, out + 3 * out_stride, bias + 3 * scalar, slope)
