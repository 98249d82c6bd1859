"""Norm, activation and depthwise convolution of one map, as parts of kernels.

A map is ``height`` rows of ``width`` numbers without gaps, or the inside of a bordered map, whose rows are
``pitch`` numbers apart. One number after the other may belong to as many samples: a pixel is then ``step`` numbers, a
power of two up to 16, and a row is as many times as long. Small maps fill vectors in this way.
"""

from __future__ import annotations

import numpy as np

from .vector import (
    add,
    div,
    evens,
    fill,
    fma,
    inline,
    lane_numbers,
    lanes_of,
    load,
    load_scalar,
    mul,
    narrow,
    odds,
    repeated,
    rolled,
    rotated,
    size_of,
    square_root,
    store,
    store_scalar,
    sub,
    total,
    where_negative,
    where_positive,
)


@inline
def activate(like, u, slope):
    if slope == 1.0:
        return u
    if slope == 0.0:
        return where_negative(u, fill(like, 0.0), u)
    return where_negative(u, mul(u, fill(like, slope)), u)


@inline
def number(like, value):
    """A number of the dtype of ``like``."""
    return total(fill(narrow(like, 1), value))


@inline
def total_from(like, x, length, pivot):
    """The sum of x - pivot over ``length`` numbers."""
    s = size_of(narrow(like, 1))
    lanes = lanes_of(like)
    body = length // lanes * lanes
    sums = fill(like, 0.0)
    p = fill(like, pivot)
    for i in range(0, body, lanes):
        sums = add(sums, sub(load(like, x + i * s), p))
    value = total(sums)
    for i in range(body, length):
        value += load_scalar(like, x + i * s) - pivot
    return value


@inline
def squares_of(like, x, length, middle):
    """The sum of (x - middle)^2 over ``length`` numbers."""
    s = size_of(narrow(like, 1))
    lanes = lanes_of(like)
    body = length // lanes * lanes
    sums = fill(like, 0.0)
    m = fill(like, middle)
    for i in range(0, body, lanes):
        away = sub(load(like, x + i * s), m)
        sums = fma(away, away, sums)
    value = total(sums)
    for i in range(body, length):
        away1 = load_scalar(like, x + i * s) - middle
        value += away1 * away1
    return value


@inline
def moments(like, x, length, epsilon):
    """Mean and 1 / sqrt(var + epsilon) of ``length`` numbers.

    Sums are taken from a pivot, one of the numbers, so that rounding is relative to how far they spread and
    not to how far from 0 they lie (Chan, Golub and LeVeque, "Algorithms for computing the sample variance",
    1983, section 2).
    """
    n, pivot = number(like, length), load_scalar(like, x)
    shift = total_from(like, x, length, pivot) / n
    middle = pivot + shift
    rest = (pivot - middle) + shift  # what rounding left out of the mean: 0 where all numbers are equal
    variance = squares_of(like, x, length, middle) / n - rest * rest
    return middle, number(like, 1.0) / np.sqrt(variance + number(like, epsilon))


@inline
def _of_each(like, vector, step):
    """The sum over the lanes of each sample, in all of its lanes."""
    if step <= 8:
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
    if step == 8:
        return repeated(like, load(narrow(like, 8), x))
    return load(like, x)


@inline
def moments_of_each(like, x, length, step, epsilon):
    """As :func:`moments`, of each of ``step`` samples, in all of its lanes; 16 numbers may be read, however few there are."""
    s, lanes = size_of(narrow(like, 1)), lanes_of(like)
    n, pivot = fill(like, number(like, length // step)), _first_of_each(like, x, step)
    zero = fill(like, 0.0)
    sums, squares = zero, zero
    body = length // lanes * lanes
    last = max(0, length - lanes)  # some of the last 16 numbers are in no vector before
    begins = sub(lane_numbers(like), fill(like, number(like, body - last - 0.5)))
    ends = sub(fill(like, number(like, length - last - 0.5)), lane_numbers(like))
    for i in range(0, body, lanes):
        sums = add(sums, sub(load(like, x + i * s), pivot))
    if body < length:
        away = where_positive(begins, sub(load(like, x + last * s), pivot), zero)
        sums = add(sums, where_positive(ends, away, zero))
    shift = div(_of_each(like, sums, step), n)
    middle = add(pivot, shift)
    rest = add(sub(pivot, middle), shift)
    for i in range(0, body, lanes):
        away = sub(load(like, x + i * s), middle)
        squares = fma(away, away, squares)
    if body < length:
        away = where_positive(begins, sub(load(like, x + last * s), middle), zero)
        away = where_positive(ends, away, zero)
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
def _affine_rows(like, x, bordered, pitch, border, edge, height, width, scale, shift, slope):
    lanes, s = lanes_of(like), size_of(narrow(like, 1))
    a, b = repeated(like, scale), repeated(like, shift)
    for y in range(height):
        rolled()
        source = x + y * width * s
        target = bordered + ((y + border) * pitch + edge) * s
        for i in range(0, width, lanes):
            place = min(i, width - lanes) * s
            store(activate(like, fma(load(like, source + place), a, b), slope), target + place)


@inline
def affine_bordered(like, x, bordered, pitch, border, step, height, width, scale, shift, slope):
    """As :func:`affine`, into the inside of a bordered map, with ``border`` rows and pixels on each side.

    Args:
        width: numbers of a row, those of all samples.
    """
    edge = border * step
    if width >= 16:
        _affine_rows(like, x, bordered, pitch, border, edge, height, width, scale, shift, slope)
    elif width >= 8:
        _affine_rows(narrow(like, 8), x, bordered, pitch, border, edge, height, width, scale, shift, slope)
    elif width >= 4:
        _affine_rows(narrow(like, 4), x, bordered, pitch, border, edge, height, width, scale, shift, slope)
    elif width >= 2:
        _affine_rows(narrow(like, 2), x, bordered, pitch, border, edge, height, width, scale, shift, slope)
    else:
        _affine_rows(narrow(like, 1), x, bordered, pitch, border, edge, height, width, scale, shift, slope)


@inline
def _taps3(like, x, down, next, k0, k1, k2, k3, k4, k5, k6, k7, k8):
    """Nine weights times a vector and its neighbours; ``down`` and ``next`` are bytes from row to row, pixel to pixel."""
    a = mul(k0, load(like, x))
    b = mul(k3, load(like, x + down))
    c = mul(k6, load(like, x + 2 * down))
    a = fma(k1, load(like, x + next), a)
    b = fma(k4, load(like, x + down + next), b)
    c = fma(k7, load(like, x + 2 * down + next), c)
    a = fma(k2, load(like, x + 2 * next), a)
    b = fma(k5, load(like, x + down + 2 * next), b)
    c = fma(k8, load(like, x + 2 * down + 2 * next), c)
    return add(add(a, b), c)


@inline
def _convolve3(like, x, pitch, step, stride, kernel, out, height, width):
    """A 3x3 convolution with stride 1 or 2; ``like`` is no wider than a row of ``out``."""
    lanes = lanes_of(like)
    s = size_of(narrow(like, 1))
    k0 = fill(like, load_scalar(like, kernel))
    k1 = fill(like, load_scalar(like, kernel + s))
    k2 = fill(like, load_scalar(like, kernel + 2 * s))
    k3 = fill(like, load_scalar(like, kernel + 3 * s))
    k4 = fill(like, load_scalar(like, kernel + 4 * s))
    k5 = fill(like, load_scalar(like, kernel + 5 * s))
    k6 = fill(like, load_scalar(like, kernel + 6 * s))
    k7 = fill(like, load_scalar(like, kernel + 7 * s))
    k8 = fill(like, load_scalar(like, kernel + 8 * s))
    down, wide, next = pitch * s, width * s, step * s
    if stride == 2:
        for y in range(height):
            rolled()
            for i in range(0, width, lanes):
                place = min(i, width - lanes)
                row = x + 2 * y * down + 2 * place * s
                u = _taps3(like, row, down, next, k0, k1, k2, k3, k4, k5, k6, k7, k8)
                w = _taps3(like, row + lanes * s, down, next, k0, k1, k2, k3, k4, k5, k6, k7, k8)
                store(evens(like, u, w, step), out + y * wide + place * s)
        return
    first = height // 4 * 4
    for y in range(0, first, 4):  # four rows at a time, so that a row is read less than twice instead of three times
        rolled()
        for i in range(0, width, lanes):
            place = min(i, width - lanes) * s
            row = x + y * down + place
            left, middle, right = load(like, row), load(like, row + next), load(like, row + 2 * next)
            a = fma(k2, right, fma(k1, middle, mul(k0, left)))
            row += down
            left, middle, right = load(like, row), load(like, row + next), load(like, row + 2 * next)
            a = fma(k5, right, fma(k4, middle, fma(k3, left, a)))
            b = fma(k2, right, fma(k1, middle, mul(k0, left)))
            row += down
            left, middle, right = load(like, row), load(like, row + next), load(like, row + 2 * next)
            a = fma(k8, right, fma(k7, middle, fma(k6, left, a)))
            b = fma(k5, right, fma(k4, middle, fma(k3, left, b)))
            c = fma(k2, right, fma(k1, middle, mul(k0, left)))
            row += down
            left, middle, right = load(like, row), load(like, row + next), load(like, row + 2 * next)
            b = fma(k8, right, fma(k7, middle, fma(k6, left, b)))
            c = fma(k5, right, fma(k4, middle, fma(k3, left, c)))
            d = fma(k2, right, fma(k1, middle, mul(k0, left)))
            row += down
            left, middle, right = load(like, row), load(like, row + next), load(like, row + 2 * next)
            c = fma(k8, right, fma(k7, middle, fma(k6, left, c)))
            d = fma(k5, right, fma(k4, middle, fma(k3, left, d)))
            row += down
            left, middle, right = load(like, row), load(like, row + next), load(like, row + 2 * next)
            d = fma(k8, right, fma(k7, middle, fma(k6, left, d)))
            target = out + y * wide + place
            store(a, target)
            store(b, target + wide)
            store(c, target + 2 * wide)
            store(d, target + 3 * wide)
    for y in range(first, height):
        rolled()
        for i in range(0, width, lanes):
            place = min(i, width - lanes) * s
            sums = _taps3(like, x + y * down + place, down, next, k0, k1, k2, k3, k4, k5, k6, k7, k8)
            store(sums, out + y * wide + place)


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
def _convolve(like, x, pitch, side, step, stride, kernel, out, height, width):
    """A convolution of any side and stride 1 or 2; ``like`` is no wider than a row of ``out``."""
    lanes, s = lanes_of(like), size_of(narrow(like, 1))
    for y in range(height):
        rolled()
        for i in range(0, width, lanes):
            rolled()
            place = min(i, width - lanes)
            row = x + (y * stride * pitch + place * stride) * s
            a = _taps(like, row, pitch, side, step, kernel)
            if stride == 2:
                a = evens(like, a, _taps(like, row + lanes * s, pitch, side, step, kernel), step)
            store(a, out + (y * width + place) * s)


@inline
def _convolve_apart(like, x, pitch, side, step, stride, kernel, out, height, width):
    """A convolution of any side and stride, number by number; ``like`` has one lane."""
    s = size_of(like)
    for y in range(height):
        rolled()
        for i in range(width):
            rolled()
            place = y * stride * pitch + i // step * stride * step + i % step
            store(_taps(like, x + place * s, pitch, side, step, kernel), out + (y * width + i) * s)


@inline
def convolve(like, x, pitch, side, step, stride, kernel, out, height, width):
    """The convolution of a bordered map, by vectors as wide as a row allows; ``like`` has 16 lanes.

    Args:
        pitch: numbers from row to row of the bordered map; 16 more than it has of them for the last one.
        width: numbers of a row of the result, those of all samples.
    """
    if stride > 2:
        _convolve_apart(narrow(like, 1), x, pitch, side, step, stride, kernel, out, height, width)
    elif side == 3:
        if width >= 16:
            _convolve3(like, x, pitch, step, stride, kernel, out, height, width)
        elif width >= 8:
            _convolve3(narrow(like, 8), x, pitch, step, stride, kernel, out, height, width)
        elif width >= 4:
            _convolve3(narrow(like, 4), x, pitch, step, stride, kernel, out, height, width)
        elif width >= 2:
            _convolve3(narrow(like, 2), x, pitch, step, stride, kernel, out, height, width)
        else:
            _convolve3(narrow(like, 1), x, pitch, step, stride, kernel, out, height, width)
    elif width >= 16:
        _convolve(like, x, pitch, side, step, stride, kernel, out, height, width)
    elif width >= 4 and step <= 4:
        _convolve(narrow(like, 4), x, pitch, side, step, stride, kernel, out, height, width)
    elif width >= 8:
        _convolve(narrow(like, 8), x, pitch, side, step, stride, kernel, out, height, width)
    else:
        _convolve_apart(narrow(like, 1), x, pitch, side, step, stride, kernel, out, height, width)


@inline
def _swept(like, x, step, kernel, out, height, width):
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
    next, wide, zero = step * s, width * s, fill(like, 0.0)
    for i in range(0, width, lanes):
        rolled()
        place = min(i, width - lanes)
        has_left = sub(lane_numbers(like), fill(like, number(like, step - place - 0.5)))
        has_right = sub(fill(like, number(like, width - step - place - 0.5)), lane_numbers(like))
        row, target = x + place * s, out + place * s
        middle = load(like, row)
        left = where_positive(has_left, load(like, row - next), zero)
        right = where_positive(has_right, load(like, row + next), zero)
        a = fma(k5, right, fma(k4, middle, mul(k3, left)))  # of this row
        b = fma(k2, right, fma(k1, middle, mul(k0, left)))  # of the next
        for _ in range(1, height):
            row += wide
            middle = load(like, row)
            left = where_positive(has_left, load(like, row - next), zero)
            right = where_positive(has_right, load(like, row + next), zero)
            store(fma(k8, right, fma(k7, middle, fma(k6, left, a))), target)
            a = fma(k5, right, fma(k4, middle, fma(k3, left, b)))
            b = fma(k2, right, fma(k1, middle, mul(k0, left)))
            target += wide
        store(a, target)


@inline
def _swept2(like, x, step, kernel, out, height, width, out_height, out_width):
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
    next, wide, zero = step * s, width * s, fill(like, 0.0)
    inside = width // step // 2 * step  # results of which the right neighbour is inside
    for i in range(0, out_width, lanes):
        rolled()
        place = min(i, out_width - lanes)
        has_left = sub(lane_numbers(like), fill(like, number(like, step - place - 0.5)))
        has_right = sub(fill(like, number(like, inside - place - 0.5)), lane_numbers(like))
        row, target = x + 2 * place * s, out + place * s
        b = zero
        for y in range(out_height):
            rolled()
            u, w = load(like, row), load(like, row + lanes * s)
            left = evens(like, load(like, row - next), load(like, row + lanes * s - next), step)
            left = where_positive(has_left, left, zero)
            right = where_positive(has_right, odds(like, u, w, step), zero)
            middle = evens(like, u, w, step)
            a = fma(k5, right, fma(k4, middle, fma(k3, left, b)))
            if 2 * y + 1 < height:
                row += wide
                u, w = load(like, row), load(like, row + lanes * s)
                left = evens(like, load(like, row - next), load(like, row + lanes * s - next), step)
                left = where_positive(has_left, left, zero)
                right = where_positive(has_right, odds(like, u, w, step), zero)
                middle = evens(like, u, w, step)
                a = fma(k8, right, fma(k7, middle, fma(k6, left, a)))
                b = fma(k2, right, fma(k1, middle, mul(k0, left)))
            store(a, target)
            row += wide
            target += out_width * s


@inline
def sweep(like, x, step, stride, kernel, out, height, width, out_height, out_width):
    """A 3x3 convolution of a map without borders, of which 16 numbers before and after may be read; stride 1 or 2.

    Each row is read once for the three rows of the result that it is part of. ``width`` and ``out_width`` are numbers,
    those of all samples.
    """
    if stride == 1:
        if width >= 16:
            _swept(like, x, step, kernel, out, height, width)
        elif width >= 8:
            _swept(narrow(like, 8), x, step, kernel, out, height, width)
        elif width >= 4:
            _swept(narrow(like, 4), x, step, kernel, out, height, width)
        elif width >= 2:
            _swept(narrow(like, 2), x, step, kernel, out, height, width)
        else:
            _swept(narrow(like, 1), x, step, kernel, out, height, width)
    elif out_width >= 16:
        _swept2(like, x, step, kernel, out, height, width, out_height, out_width)
    elif out_width >= 8:
        _swept2(narrow(like, 8), x, step, kernel, out, height, width, out_height, out_width)
    elif out_width >= 4:
        _swept2(narrow(like, 4), x, step, kernel, out, height, width, out_height, out_width)
    elif out_width >= 2:
        _swept2(narrow(like, 2), x, step, kernel, out, height, width, out_height, out_width)
    else:
        _swept2(narrow(like, 1), x, step, kernel, out, height, width, out_height, out_width)


@inline
def clear(like, address, numbers):
    for i in range(numbers):
        store_scalar(like, address + i * size_of(narrow(like, 1)), 0.0)
