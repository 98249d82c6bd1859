"""Norm, activation and depthwise convolution of one map, as parts of kernels.

A map is ``height`` rows of ``width`` numbers without gaps, or the inside of a bordered map, whose rows are
``pitch`` numbers apart.
"""

from __future__ import annotations

import numpy as np

from .lanes import evens, odds
from .parts import inline
from .vector import (
    add,
    fill,
    fma,
    lanes_of,
    load,
    load_scalar,
    mul,
    narrow,
    rolled,
    size_of,
    store,
    store_scalar,
    sub,
    total,
    where_negative,
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
def _affine(like, x, out, length, scale, shift, slope):
    """out = activation(scale x + shift), numbers one after the other."""
    lanes = lanes_of(like)
    scalar = size_of(narrow(like, 1))
    body = length // lanes * lanes
    a, b = fill(like, scale), fill(like, shift)
    for i in range(0, body, lanes):
        u = fma(load(like, x + i * scalar), a, b)
        store(activate(like, u, slope), out + i * scalar)
    one = narrow(like, 1)
    a1, b1 = fill(one, scale), fill(one, shift)
    for i in range(body, length):
        u1 = fma(load(one, x + i * scalar), a1, b1)
        store(activate(one, u1, slope), out + i * scalar)


@inline
def _affine_rows(like, x, bordered, pitch, border, height, width, scale, shift, slope):
    """As :func:`_affine`, into the inside of a bordered map; ``like`` is no wider than a row."""
    lanes = lanes_of(like)
    scalar = size_of(narrow(like, 1))
    a, b = fill(like, scale), fill(like, shift)
    for y in range(height):
        rolled()
        source = x + y * width * scalar
        target = bordered + ((y + border) * pitch + border) * scalar
        for i in range(0, width, lanes):
            place = min(i, width - lanes) * scalar
            u = fma(load(like, source + place), a, b)
            store(activate(like, u, slope), target + place)


@inline
def _affine_split(like, x, bordered, pitch, border, height, width, stride, scale, shift, slope):
    """As :func:`_affine_rows`, each row as ``stride`` rows of every stride-th number."""
    one = narrow(like, 1)
    s = size_of(one)
    lanes = lanes_of(like)
    a, b = fill(like, scale), fill(like, shift)
    a1, b1 = fill(one, scale), fill(one, shift)
    body = width // 2 * 2 if stride == 2 and width >= 2 * lanes else 0
    for y in range(height):
        rolled()
        source = x + y * width * s
        row = bordered + (y + border) * stride * pitch * s
        even = row + (border % 2 * pitch + border // 2) * s
        odd = row + ((border + 1) % 2 * pitch + (border + 1) // 2) * s
        for i in range(0, body, 2 * lanes):
            place = min(i, body - 2 * lanes)
            u = fma(load(like, source + place * s), a, b)
            w = fma(load(like, source + (place + lanes) * s), a, b)
            u, w = activate(like, u, slope), activate(like, w, slope)
            store(evens(like, u, w, 1), even + place // 2 * s)
            store(odds(like, u, w, 1), odd + place // 2 * s)
        for i in range(body, width):
            u1 = fma(load(one, source + i * s), a1, b1)
            place = (i + border) % stride * pitch + (i + border) // stride
            store(activate(one, u1, slope), row + place * s)


@inline
def _convolve3(like, x, pitch, stride, kernel, out, height, width):
    """A 3x3 convolution of rows with borders; ``like`` is no wider than a row of ``out``."""
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
    down, wide = pitch * s, width * s
    first = 0
    if stride == 1:  # four rows at a time, so that a row is read twice instead of three times
        first = height // 4 * 4
        for y in range(0, first, 4):
            rolled()
            for i in range(0, width, lanes):
                place = min(i, width - lanes) * s
                row = x + y * down + place
                left, middle, right = load(like, row), load(like, row + s), load(like, row + 2 * s)
                a = fma(k2, right, fma(k1, middle, mul(k0, left)))
                row += down
                left, middle, right = load(like, row), load(like, row + s), load(like, row + 2 * s)
                a = fma(k5, right, fma(k4, middle, fma(k3, left, a)))
                b = fma(k2, right, fma(k1, middle, mul(k0, left)))
                row += down
                left, middle, right = load(like, row), load(like, row + s), load(like, row + 2 * s)
                a = fma(k8, right, fma(k7, middle, fma(k6, left, a)))
                b = fma(k5, right, fma(k4, middle, fma(k3, left, b)))
                c = fma(k2, right, fma(k1, middle, mul(k0, left)))
                row += down
                left, middle, right = load(like, row), load(like, row + s), load(like, row + 2 * s)
                b = fma(k8, right, fma(k7, middle, fma(k6, left, b)))
                c = fma(k5, right, fma(k4, middle, fma(k3, left, c)))
                d = fma(k2, right, fma(k1, middle, mul(k0, left)))
                row += down
                left, middle, right = load(like, row), load(like, row + s), load(like, row + 2 * s)
                c = fma(k8, right, fma(k7, middle, fma(k6, left, c)))
                d = fma(k5, right, fma(k4, middle, fma(k3, left, d)))
                row += down
                left, middle, right = load(like, row), load(like, row + s), load(like, row + 2 * s)
                d = fma(k8, right, fma(k7, middle, fma(k6, left, d)))
                target = out + y * wide + place
                store(a, target)
                store(b, target + wide)
                store(c, target + 2 * wide)
                store(d, target + 3 * wide)
    # where the second and third column of a row, the next row and the next row of ``out`` are
    second, third = (pitch * s, 2 * pitch * s) if stride > 2 else (s, 2 * s)
    if stride == 2:
        second, third = pitch * s, s
    down = stride * pitch * s
    for y in range(first, height):
        rolled()
        for i in range(0, width, lanes):
            place = min(i, width - lanes) * s
            row = x + y * stride * down + place
            a = mul(k0, load(like, row))
            a = fma(k1, load(like, row + second), a)
            a = fma(k2, load(like, row + third), a)
            row += down
            b = mul(k3, load(like, row))
            b = fma(k4, load(like, row + second), b)
            b = fma(k5, load(like, row + third), b)
            row += down
            a = fma(k6, load(like, row), a)
            b = fma(k7, load(like, row + second), b)
            a = fma(k8, load(like, row + third), a)
            store(add(a, b), out + y * wide + place)


@inline
def _convolve(like, x, pitch, side, stride, kernel, out, height, width):
    """A convolution of any side and stride, of a map as :func:`affine_bordered` lays it out."""
    lanes = lanes_of(like)
    s = size_of(narrow(like, 1))
    for y in range(height):
        rolled()
        for i in range(0, width, lanes):
            rolled()
            place = min(i, width - lanes)
            a = fill(like, 0.0)
            for dy in range(side):
                rolled()
                for dx in range(side):
                    row = ((y * stride + dy) * stride + dx % stride) * pitch + dx // stride + place
                    tap = load_scalar(like, kernel + (dy * side + dx) * s)
                    a = fma(fill(like, tap), load(like, x + row * s), a)
            store(a, out + (y * width + place) * s)


@inline
def convolve(like, x, pitch, side, stride, kernel, out, height, width):
    """The convolution by vectors as wide as a row allows; ``like`` has 16 lanes."""
    if side == 3:
        if width >= 16:
            _convolve3(like, x, pitch, stride, kernel, out, height, width)
        elif width >= 8:
            _convolve3(narrow(like, 8), x, pitch, stride, kernel, out, height, width)
        elif width >= 4:
            _convolve3(narrow(like, 4), x, pitch, stride, kernel, out, height, width)
        elif width >= 2:
            _convolve3(narrow(like, 2), x, pitch, stride, kernel, out, height, width)
        else:
            _convolve3(narrow(like, 1), x, pitch, stride, kernel, out, height, width)
    elif width >= 16:
        _convolve(like, x, pitch, side, stride, kernel, out, height, width)
    elif width >= 4:
        _convolve(narrow(like, 4), x, pitch, side, stride, kernel, out, height, width)
    else:
        _convolve(narrow(like, 1), x, pitch, side, stride, kernel, out, height, width)


@inline
def affine(like, x, out, length, scale, shift, slope):
    """:func:`_affine` by vectors as wide as ``length`` allows; ``like`` has 16 lanes."""
    if length >= 16:
        _affine(like, x, out, length, scale, shift, slope)
    else:
        _affine(narrow(like, 4), x, out, length, scale, shift, slope)


@inline
def affine_bordered(like, x, bordered, pitch, border, height, width, stride, scale, shift, slope):
    """activation(scale x + shift) inside a bordered map, laid out for :func:`convolve`."""
    if stride > 1 and width >= 32:
        _affine_split(like, x, bordered, pitch, border, height, width, stride, scale, shift, slope)
    elif stride > 1 and width >= 16:
        _affine_split(narrow(like, 8), x, bordered, pitch, border, height, width, stride, scale, shift,
                      slope)
    elif stride > 1:
        _affine_split(narrow(like, 4), x, bordered, pitch, border, height, width, stride, scale, shift,
                      slope)
    elif width >= 16:
        _affine_rows(like, x, bordered, pitch, border, height, width, scale, shift, slope)
    elif width >= 8:
        _affine_rows(narrow(like, 8), x, bordered, pitch, border, height, width, scale, shift, slope)
    elif width >= 4:
        _affine_rows(narrow(like, 4), x, bordered, pitch, border, height, width, scale, shift, slope)
    elif width >= 2:
        _affine_rows(narrow(like, 2), x, bordered, pitch, border, height, width, scale, shift, slope)
    else:
        _affine_rows(narrow(like, 1), x, bordered, pitch, border, height, width, scale, shift, slope)


@inline
def clear(like, address, numbers):
    for i in range(numbers):
        store_scalar(like, address + i * size_of(narrow(like, 1)), 0.0)
