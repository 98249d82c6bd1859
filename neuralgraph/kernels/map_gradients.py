"""The gradients of what :mod:`one_map` computes, as parts of kernels."""

from __future__ import annotations

from .parts import inline
from .vector import (
    REGISTERS,
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
    where_positive,
)


@inline
def _gate(like, u, gradient, slope):
    """The gradient through the activation."""
    if slope == 1.0:
        return gradient
    if slope == 0.0:
        return where_positive(u, gradient, fill(like, 0.0))
    return where_positive(u, gradient, mul(gradient, fill(like, slope)))


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
def correlation_lanes(side, width):
    if side != 3 or width <= 4:
        return 4
    return 16 if width > 8 and REGISTERS >= 1024 else 8  # nine vectors are summed


@inline
def correlate(like, bordered, gradient, pitch, side, sums, height, width):
    """:func:`_correlate` by vectors of at most :func:`correlation_lanes`; ``like`` has 16 lanes."""
    if side != 3:
        _correlate(narrow(like, 4), bordered, gradient, pitch, side, sums, height, width)
    elif correlation_lanes(side, width) == 16:
        _correlate3(like, bordered, gradient, pitch, sums, height, width)
    elif width > 4:
        _correlate3(narrow(like, 8), bordered, gradient, pitch, sums, height, width)
    else:
        _correlate3(narrow(like, 4), bordered, gradient, pitch, sums, height, width)


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
