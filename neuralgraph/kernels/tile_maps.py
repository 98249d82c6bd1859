"""Norm, activation and depthwise convolution of the maps of a tile's samples, as parts of kernels.

A pixel of a map is ``step`` numbers, one of each sample, 1, 2, 4 or 8, and a row of ``width`` numbers is as
many times as long as a map is wide: small maps fill vectors in this way.
"""

from __future__ import annotations

from .lanes import evens, lane_numbers, odds, repeated, rotated
from .one_map import activate, number
from .parts import inline
from .vector import (
    add,
    div,
    fill,
    fma,
    lanes_of,
    load,
    load_scalar,
    mul,
    narrow,
    rolled,
    size_of,
    square_root,
    store,
    sub,
    where_positive,
)


@inline
def _of_each(like, vector, step):
    """The sum over the lanes of each sample, in all of its lanes."""
    vector = add(vector, rotated(vector, 8))
    if step <= 4:
        vector = add(vector, rotated(vector, 4))
    if step <= 2:
        vector = add(vector, rotated(vector, 2))
    if step == 1:
        vector = add(vector, rotated(vector, 1))
    return vector


@inline
def _first_of_each(like, x, step):
    if step == 1:
        return fill(like, load_scalar(like, x))
    if step == 2:
        return repeated(like, load(narrow(like, 2), x))
    if step == 4:
        return repeated(like, load(narrow(like, 4), x))
    return repeated(like, load(narrow(like, 8), x))


@inline
def _is_new(like, length):
    """Above 0 for those of the last 16 numbers that are in none of the vectors before, of which the first is number 0."""
    lanes = lanes_of(like)
    body, last = length // lanes * lanes, max(0, length - lanes)
    begins = sub(lane_numbers(like), fill(like, number(like, body - last - 0.5)))
    ends = sub(fill(like, number(like, length - last - 0.5)), lane_numbers(like))
    return where_positive(begins, ends, fill(like, -1.0))


@inline
def _shift_of_each(like, x, length, step, pivot):
    """The mean of x - pivot of each sample, in all of its lanes."""
    s, lanes = size_of(narrow(like, 1)), lanes_of(like)
    sums, zero = fill(like, 0.0), fill(like, 0.0)
    body = length // lanes * lanes
    for i in range(0, body, lanes):
        sums = add(sums, sub(load(like, x + i * s), pivot))
    if body < length:
        away = sub(load(like, x + max(0, length - lanes) * s), pivot)
        sums = add(sums, where_positive(_is_new(like, length), away, zero))
    return div(_of_each(like, sums, step), fill(like, number(like, length // step)))


@inline
def mean_of_each(like, x, length, step):
    """The mean of each of ``step`` samples, in all of its lanes; however few numbers there are, 16 may be read."""
    pivot = _first_of_each(like, x, step)
    return add(pivot, _shift_of_each(like, x, length, step, pivot))


@inline
def moments_of_each(like, x, length, step, epsilon):
    """As :func:`~.one_map.moments`, of each of ``step`` samples, in all of its lanes.

    However few numbers there are, 16 may be read.
    """
    s, lanes = size_of(narrow(like, 1)), lanes_of(like)
    n, pivot, zero = fill(like, number(like, length // step)), _first_of_each(like, x, step), fill(like, 0.0)
    squares = zero
    shift = _shift_of_each(like, x, length, step, pivot)
    middle = add(pivot, shift)
    rest = add(sub(pivot, middle), shift)
    body = length // lanes * lanes
    for i in range(0, body, lanes):
        away = sub(load(like, x + i * s), middle)
        squares = fma(away, away, squares)
    if body < length:
        away = where_positive(_is_new(like, length), sub(load(like, x + max(0, length - lanes) * s), middle), zero)
        squares = fma(away, away, squares)
    variance = sub(div(_of_each(like, squares, step), n), mul(rest, rest))
    return middle, div(fill(like, 1.0), square_root(add(variance, fill(like, number(like, epsilon)))))


@inline
def _affine(like, x, out, length, scale, shift, slope):
    """out = activation(scale x + shift), numbers one after the other, of which there are no fewer than lanes."""
    lanes, s = lanes_of(like), size_of(narrow(like, 1))
    a, b = repeated(like, scale), repeated(like, shift)
    for i in range(0, length, lanes):
        place = min(i, length - lanes) * s
        store(activate(like, fma(load(like, x + place), a, b), slope), out + place)


@inline
def affine(like, x, out, length, scale, shift, slope):
    """out = activation(scale x + shift), into other memory; ``scale`` and ``shift`` are vectors of 16 lanes, as ``like``."""
    if length >= 16:
        _affine(like, x, out, length, scale, shift, slope)
    elif length >= 8:
        _affine(narrow(like, 8), x, out, length, scale, shift, slope)
    elif length >= 4:
        _affine(narrow(like, 4), x, out, length, scale, shift, slope)
    elif length >= 2:
        _affine(narrow(like, 2), x, out, length, scale, shift, slope)
    else:
        _affine(narrow(like, 1), x, out, length, scale, shift, slope)


@inline
def _taps(like, x, pitch, side, step, kernel):
    """The weights of a kernel of any side times a vector and its neighbours."""
    s = size_of(narrow(like, 1))
    a = fill(like, 0.0)
    for dy in range(side):
        rolled()
        for dx in range(side):
            tap = load_scalar(like, kernel + (dy * side + dx) * s)
            a = fma(fill(like, tap), load(like, x + (dy * pitch + dx * step) * s), a)
    return a


@inline
def convolve_rows(like, x, buffer, step, side, stride, kernel, out, height, width, out_height, out_width, scale, shift, slope):
    """A convolution of any side and stride of activation(scale x + shift), as wide as a row allows.

    Args:
        buffer: for a bordered map, 0 at its borders, of which rows have 16 numbers more.
    """
    if out_width >= 16:
        _convolve_rows(like, x, buffer, step, side, stride, kernel, out, height, width, out_height, out_width, scale, shift,
                       slope)
    elif out_width >= 8:
        _convolve_rows(narrow(like, 8), x, buffer, step, side, stride, kernel, out, height, width, out_height, out_width,
                       scale, shift, slope)
    elif out_width >= 4:
        _convolve_rows(narrow(like, 4), x, buffer, step, side, stride, kernel, out, height, width, out_height, out_width,
                       scale, shift, slope)
    else:
        _convolve_rows(narrow(like, 2), x, buffer, step, side, stride, kernel, out, height, width, out_height, out_width,
                       scale, shift, slope)


@inline
def _convolve_rows(like, x, buffer, step, side, stride, kernel, out, height, width, out_height, out_width, scale, shift,
                   slope):
    lanes, s, border = lanes_of(like), size_of(narrow(like, 1)), side // 2
    pitch = width + 2 * border * step + 16
    for y in range(height):
        rolled()
        source = x + y * width * s
        target = buffer + ((y + border) * pitch + border * step) * s
        _affine(like, source, target, width, scale, shift, slope)
    for y in range(out_height):
        rolled()
        for i in range(0, out_width, lanes):
            rolled()
            place = min(i, out_width - lanes)
            row, target = buffer + (y * pitch + place) * stride * s, out + (y * out_width + place) * s
            if stride == 1:
                store(_taps(like, row, pitch, side, step, kernel), target)
            elif stride == 2:
                a = _taps(like, row, pitch, side, step, kernel)
                store(evens(like, a, _taps(like, row + lanes * s, pitch, side, step, kernel), step), target)
            else:  # pixel by pixel: what is between them is not read
                one = narrow(like, 1)
                for lane in range(lanes):
                    rolled()
                    number = place + lane
                    row = buffer + (y * stride * pitch + number // step * stride * step + number % step) * s
                    store(_taps(one, row, pitch, side, step, kernel), target + lane * s)


@inline
def _line(like, row, next, has_left, has_right):
    """A vector's left neighbours, itself and its right neighbours; 0 where there are none."""
    zero = fill(like, 0.0)
    return (where_positive(has_left, load(like, row - next), zero), load(like, row),
            where_positive(has_right, load(like, row + next), zero))


@inline
def _half_line(like, row, next, has_left, has_right, step):
    """As :func:`_line`, of every second pixel."""
    wide, zero = size_of(like), fill(like, 0.0)
    u, w = load(like, row), load(like, row + wide)
    left = evens(like, load(like, row - next), load(like, row + wide - next), step)
    return (where_positive(has_left, left, zero), evens(like, u, w, step),
            where_positive(has_right, odds(like, u, w, step), zero))


@inline
def _swept(like, x, step, kernel, out, height, width, begin, end):
    lanes, s = lanes_of(like), size_of(narrow(like, 1))
    k0 = fill(like, load_scalar(like, kernel))
    k1 = fill(like, load_scalar(like, kernel + s))
    k2 = fill(like, load_scalar(like, kernel + 2 * s))
    k3 = fill(like, load_scalar(like, kernel + 3 * s))
    k4 = fill(like, load_scalar(like, kernel + 4 * s))
    k5 = fill(like, load_scalar(like, kernel + 5 * s))
    k6 = fill(like, load_scalar(like, kernel + 6 * s))
    k7 = fill(like, load_scalar(like, kernel + 7 * s))
    k8 = fill(like, load_scalar(like, kernel + 8 * s))
    next, wide = step * s, width * s
    for i in range(0, width, lanes):
        rolled()
        place = max(0, min(i, width - lanes))
        has_left = sub(lane_numbers(like), fill(like, number(like, step - place - 0.5)))
        has_right = sub(fill(like, number(like, width - step - place - 0.5)), lane_numbers(like))
        row, target = x + (begin * width + place) * s, out + (begin * width + place) * s
        b = fill(like, 0.0)
        if begin > 0:
            left, middle, right = _line(like, row - wide, next, has_left, has_right)
            b = fma(k2, right, fma(k1, middle, mul(k0, left)))
        left, middle, right = _line(like, row, next, has_left, has_right)
        a = fma(k5, right, fma(k4, middle, fma(k3, left, b)))  # of this row
        b = fma(k2, right, fma(k1, middle, mul(k0, left)))  # of the next
        for _ in range(begin + 1, end):
            row += wide
            left, middle, right = _line(like, row, next, has_left, has_right)
            store(fma(k8, right, fma(k7, middle, fma(k6, left, a))), target)
            a = fma(k5, right, fma(k4, middle, fma(k3, left, b)))
            b = fma(k2, right, fma(k1, middle, mul(k0, left)))
            target += wide
        if end < height:
            left, middle, right = _line(like, row + wide, next, has_left, has_right)
            a = fma(k8, right, fma(k7, middle, fma(k6, left, a)))
        store(a, target)


@inline
def _swept2(like, x, step, kernel, out, height, width, out_width, begin, end):
    lanes, s = lanes_of(like), size_of(narrow(like, 1))
    k0 = fill(like, load_scalar(like, kernel))
    k1 = fill(like, load_scalar(like, kernel + s))
    k2 = fill(like, load_scalar(like, kernel + 2 * s))
    k3 = fill(like, load_scalar(like, kernel + 3 * s))
    k4 = fill(like, load_scalar(like, kernel + 4 * s))
    k5 = fill(like, load_scalar(like, kernel + 5 * s))
    k6 = fill(like, load_scalar(like, kernel + 6 * s))
    k7 = fill(like, load_scalar(like, kernel + 7 * s))
    k8 = fill(like, load_scalar(like, kernel + 8 * s))
    next, wide = step * s, width * s
    inside = width // step // 2 * step  # results of which the right neighbour is inside
    for i in range(0, out_width, lanes):
        rolled()
        place = max(0, min(i, out_width - lanes))
        has_left = sub(lane_numbers(like), fill(like, number(like, step - place - 0.5)))
        has_right = sub(fill(like, number(like, inside - place - 0.5)), lane_numbers(like))
        row, target = x + (2 * begin * width + 2 * place) * s, out + (begin * out_width + place) * s
        b = fill(like, 0.0)
        if begin > 0:
            left, middle, right = _half_line(like, row - wide, next, has_left, has_right, step)
            b = fma(k2, right, fma(k1, middle, mul(k0, left)))
        for y in range(begin, end):
            rolled()
            left, middle, right = _half_line(like, row, next, has_left, has_right, step)
            a = fma(k5, right, fma(k4, middle, fma(k3, left, b)))
            if 2 * y + 1 < height:
                row += wide
                left, middle, right = _half_line(like, row, next, has_left, has_right, step)
                a = fma(k8, right, fma(k7, middle, fma(k6, left, a)))
                b = fma(k2, right, fma(k1, middle, mul(k0, left)))
            store(a, target)
            row += wide
            target += out_width * s


@inline
def is_swept(side, stride):
    """Whether :func:`sweep` takes such a convolution."""
    return side == 3 and stride <= 2


@inline
def _sweep(like, x, step, stride, kernel, out, height, width, out_width, begin, end):
    if stride == 1:
        _swept(like, x, step, kernel, out, height, width, begin, end)
    else:
        _swept2(like, x, step, kernel, out, height, width, out_width, begin, end)


def too_many(out_width):
    """How many numbers :func:`sweep` may write after the end of a result with rows of so many."""
    return max(0, (16 if out_width > 8 else 8) - out_width)


@inline
def sweep(like, x, step, stride, kernel, out, height, width, out_width, begin, end):
    """Rows ``begin`` to ``end`` of the 3x3 convolution of a map without borders.

    Each row is read once for the three rows of the result that it is part of. ``width`` and ``out_width`` are numbers,
    those of all samples. Of the map 16 numbers before and after may be read, and of the result, if its rows are shorter
    than a vector, :func:`too_many` after its end be written.
    """
    if out_width > 8:
        _sweep(like, x, step, stride, kernel, out, height, width, out_width, begin, end)
    else:
        _sweep(narrow(like, 8), x, step, stride, kernel, out, height, width, out_width, begin, end)
