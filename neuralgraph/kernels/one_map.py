"""Norm, activation and depthwise convolution of one map, and their gradients, as parts of kernels.

A map is ``height`` rows of ``width`` numbers without gaps, or the inside of a bordered map, whose rows are
``pitch`` numbers apart.
"""

from __future__ import annotations

import numpy as np

from .vector import (add, evens, fill, fma, inline, lanes_of, load, load_scalar, mul, narrow, odds, rolled,
                     size_of, store, store_scalar, sub, total, where_negative, where_positive)


@inline
def _activate(like, u, slope):
    if slope == 1.0:
        return u
    if slope == 0.0:
        return where_negative(u, fill(like, 0.0), u)
    return where_negative(u, mul(u, fill(like, slope)), u)


@inline
def _gate(like, u, gradient, slope):
    """The gradient through the activation."""
    if slope == 1.0:
        return gradient
    if slope == 0.0:
        return where_positive(u, gradient, fill(like, 0.0))
    return where_positive(u, gradient, mul(gradient, fill(like, slope)))


@inline
def number(like, value):
    """A number of the dtype of ``like``."""
    return total(fill(narrow(like, 1), value))


@inline
def total_of(like, x, length):
    """The sum of ``length`` numbers."""
    s = size_of(narrow(like, 1))
    lanes = lanes_of(like)
    body = length // lanes * lanes
    sums = fill(like, 0.0)
    for i in range(0, body, lanes):
        sums = add(sums, load(like, x + i * s))
    value = total(sums)
    for i in range(body, length):
        value += load_scalar(like, x + i * s)
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
    """Mean and 1 / sqrt(var + epsilon) of ``length`` numbers."""
    n = number(like, length)
    middle = total_of(like, x, length) / n
    variance = squares_of(like, x, length, middle) / n
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
        store(_activate(like, u, slope), out + i * scalar)
    one = narrow(like, 1)
    a1, b1 = fill(one, scale), fill(one, shift)
    for i in range(body, length):
        u1 = fma(load(one, x + i * scalar), a1, b1)
        store(_activate(one, u1, slope), out + i * scalar)


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
            store(_activate(like, u, slope), target + place)


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
            u, w = _activate(like, u, slope), _activate(like, w, slope)
            store(evens(u, w), even + place // 2 * s)
            store(odds(u, w), odd + place // 2 * s)
        for i in range(body, width):
            u1 = fma(load(one, source + i * s), a1, b1)
            place = (i + border) % stride * pitch + (i + border) // stride
            store(_activate(one, u1, slope), row + place * s)


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


# ---------------------------------------------------------------------------------- gradients


@inline
def _correlate3(like, bordered, gradient, pitch, sums, height, width):
    """Adds to nine vectors at ``sums`` the products of a map's neighbours with the gradient.

    Both are bordered maps; beyond the width the gradient is zero.
    """
    s = size_of(narrow(like, 1))
    wide = size_of(like)
    a0 = load(like, sums)
    a1 = load(like, sums + wide)
    a2 = load(like, sums + 2 * wide)
    a3 = load(like, sums + 3 * wide)
    a4 = load(like, sums + 4 * wide)
    a5 = load(like, sums + 5 * wide)
    a6 = load(like, sums + 6 * wide)
    a7 = load(like, sums + 7 * wide)
    a8 = load(like, sums + 8 * wide)
    for y in range(height):
        rolled()
        for i in range(0, width, lanes_of(like)):
            g = load(like, gradient + ((y + 1) * pitch + 1 + i) * s)
            row = bordered + (y * pitch + i) * s
            a0 = fma(g, load(like, row), a0)
            a1 = fma(g, load(like, row + s), a1)
            a2 = fma(g, load(like, row + 2 * s), a2)
            row += pitch * s
            a3 = fma(g, load(like, row), a3)
            a4 = fma(g, load(like, row + s), a4)
            a5 = fma(g, load(like, row + 2 * s), a5)
            row += pitch * s
            a6 = fma(g, load(like, row), a6)
            a7 = fma(g, load(like, row + s), a7)
            a8 = fma(g, load(like, row + 2 * s), a8)
    store(a0, sums)
    store(a1, sums + wide)
    store(a2, sums + 2 * wide)
    store(a3, sums + 3 * wide)
    store(a4, sums + 4 * wide)
    store(a5, sums + 5 * wide)
    store(a6, sums + 6 * wide)
    store(a7, sums + 7 * wide)
    store(a8, sums + 8 * wide)


@inline
def _correlate(like, bordered, gradient, pitch, side, sums, height, width):
    """As :func:`_correlate3` for any odd side."""
    s = size_of(narrow(like, 1))
    wide = size_of(like)
    border = side // 2
    for dy in range(side):
        rolled()
        for dx in range(side):
            rolled()
            place = sums + (dy * side + dx) * wide
            a = load(like, place)
            for y in range(height):
                rolled()
                for i in range(0, width, lanes_of(like)):
                    g = load(like, gradient + ((y + border) * pitch + border + i) * s)
                    a = fma(g, load(like, bordered + ((y + dy) * pitch + dx + i) * s), a)
            store(a, place)


@inline
def correlate(like, bordered, gradient, pitch, side, sums, height, width):
    """:func:`_correlate` by vectors of at most :func:`correlation_lanes`; ``like`` has 16 lanes."""
    if side != 3:
        _correlate(narrow(like, 4), bordered, gradient, pitch, side, sums, height, width)
    elif width > 8:
        _correlate3(like, bordered, gradient, pitch, sums, height, width)
    elif width > 4:
        _correlate3(narrow(like, 8), bordered, gradient, pitch, sums, height, width)
    else:
        _correlate3(narrow(like, 4), bordered, gradient, pitch, sums, height, width)


@inline
def correlation_lanes(side, width):
    if side != 3 or width <= 4:
        return 4
    return 16 if width > 8 else 8


@inline
def through_activation(like, x, gradient, out, length, scale, shift, slope, middle, spread):
    """out = gradient of u = scale x + shift; returns the sums of it and of it times (x - middle) spread."""
    one = narrow(like, 1)
    s = size_of(one)
    lanes = lanes_of(like)
    body = length // lanes * lanes
    a, b, m, r = fill(like, scale), fill(like, shift), fill(like, middle), fill(like, spread)
    plain = fill(like, 0.0)
    normed = plain
    for i in range(0, body, lanes):
        value = load(like, x + i * s)
        g = _gate(like, fma(value, a, b), load(like, gradient + i * s), slope)
        plain = add(plain, g)
        normed = fma(g, mul(sub(value, m), r), normed)
        store(g, out + i * s)
    first, second = total(plain), total(normed)
    a1, b1 = fill(one, scale), fill(one, shift)
    for i in range(body, length):
        value1 = load(one, x + i * s)
        g1 = _gate(one, fma(value1, a1, b1), load(one, gradient + i * s), slope)
        first += total(g1)
        second += total(g1) * (total(value1) - middle) * spread
        store(g1, out + i * s)
    return first, second


@inline
def through_norm(like, x, gradient, length, scale, middle, spread, plain, normed):
    """gradient = scale (gradient - plain - (x - middle) spread normed), in place."""
    one = narrow(like, 1)
    s = size_of(one)
    lanes = lanes_of(like)
    body = length // lanes * lanes
    # scale g - scale normed spread x + (scale normed spread middle - scale plain)
    factor = scale * normed * spread
    a, b, c = fill(like, scale), fill(like, -factor), fill(like, factor * middle - scale * plain)
    for i in range(0, body, lanes):
        g = fma(load(like, x + i * s), b, c)
        store(fma(load(like, gradient + i * s), a, g), gradient + i * s)
    for i in range(body, length):
        g1 = load_scalar(like, x + i * s) * -factor + (factor * middle - scale * plain)
        store_scalar(like, gradient + i * s, load_scalar(like, gradient + i * s) * scale + g1)
