"""Norm, activation and depthwise convolution of one map after the other, forward and backward.

Each step is optional: u = weight (x - mean) rstd + bias; a = u for u >= 0, slope u below; z = kernel * a
with zero borders. A map is read once, and what lies between the steps stays in the cache.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import carray, types

from .launch import Kernel
from .vector import (add, at, evens, fill, fma, inline, lanes_of, load, load_scalar, mul, narrow, odds,
                     rolled, size_of, splat, store, store_scalar, sub, take_number, total,
                     where_negative, where_positive)

NO_NORM, FIXED, INSTANCE, BATCH = range(4)  # where mean and rstd come from
_ARGUMENTS = 40

# ---------------------------------------------------------------------------------- one map


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
    """A convolution of any side and stride, of rows as :func:`_spread` makes them."""
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


# ---------------------------------------------------------------------------------- forward


@inline
def _clear(like, address, numbers):
    for i in range(numbers):
        store_scalar(like, address + i * size_of(narrow(like, 1)), 0.0)


@inline
def _forward(like, address):
    a = carray(at(address), _ARGUMENTS, types.int64)
    s = size_of(narrow(like, 1))
    batch, channels, height, width = a[2], a[3], a[4], a[5]
    out_height, out_width, side, stride = a[6], a[7], a[8], a[9]
    norm, slope, epsilon = a[10], a[11] * 1e-9, a[12] * 1e-9
    x, x_sample, x_row = a[13], a[14], a[15]
    out, out_sample, out_row = a[16], a[17], a[18]
    weight, bias, mean, rstd, kernel = a[19], a[20], a[21], a[22], a[23]
    scratch, scratch_size, pitch, grabs = a[24], a[25], a[26], a[27]
    units = batch * channels
    scratch += take_number(address + 8) * scratch_size * s
    _clear(like, scratch, scratch_size)
    while True:
        rolled()
        grab = take_number(address)
        if grab >= grabs:
            return
        for unit in range(grab * units // grabs, (grab + 1) * units // grabs):
            rolled()
            sample, v = unit // channels, unit % channels
            source = x + sample * x_sample + v * x_row
            target = out + sample * out_sample + v * out_row
            scale, shift = number(like, 1.0), number(like, 0.0)
            if norm != NO_NORM:
                place = v * s
                if norm == INSTANCE:
                    place = (sample * channels + v) * s
                    m, r = moments(like, source, height * width, epsilon)
                    store_scalar(like, mean + place, m)
                    store_scalar(like, rstd + place, r)
                scale = load_scalar(like, weight + v * s) * load_scalar(like, rstd + place)
                shift = load_scalar(like, bias + v * s) - load_scalar(like, mean + place) * scale
            if side == 0:
                affine(like, source, target, height * width, scale, shift, slope)
            else:
                affine_bordered(like, source, scratch, pitch, side // 2, height, width, stride,
                                scale, shift, slope)
                convolve(like, scratch, pitch, side, stride, kernel + v * side * side * s,
                         target, out_height, out_width)


def _forward_float32(address):
    _forward(splat(np.float32(0), 16), address)


def _forward_float64(address):
    _forward(splat(np.float64(0), 16), address)


_run_forward = Kernel(float32=_forward_float32, float64=_forward_float64)


@inline
def _moments_of_channels(like, address):
    """Mean and 1 / sqrt(var + epsilon) over samples and pixels."""
    a = carray(at(address), _ARGUMENTS, types.int64)
    s = size_of(narrow(like, 1))
    batch, channels, length, epsilon = a[2], a[3], a[4], a[5] * 1e-9
    x, x_sample, x_row, mean, rstd, variance = a[6], a[7], a[8], a[9], a[10], a[11]
    n = number(like, batch * length)
    while True:
        rolled()
        v = take_number(address)
        if v >= channels:
            return
        middle = number(like, 0.0)
        for sample in range(batch):
            rolled()
            middle += total_of(like, x + sample * x_sample + v * x_row, length)
        middle /= n
        spread = number(like, 0.0)
        for sample in range(batch):
            rolled()
            spread += squares_of(like, x + sample * x_sample + v * x_row, length, middle)
        spread /= n
        store_scalar(like, mean + v * s, middle)
        store_scalar(like, variance + v * s, spread)
        store_scalar(like, rstd + v * s, number(like, 1.0) / np.sqrt(spread + number(like, epsilon)))


def _moments_float32(address):
    _moments_of_channels(splat(np.float32(0), 16), address)


def _moments_float64(address):
    _moments_of_channels(splat(np.float64(0), 16), address)


_run_moments = Kernel(float32=_moments_float32, float64=_moments_float64)


# ---------------------------------------------------------------------------------- backward


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
def _through_activation(like, x, gradient, out, length, scale, shift, slope, middle, spread):
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
def _through_norm(like, x, gradient, length, scale, middle, spread, plain, normed):
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


@inline
def _backward(like, address):
    a = carray(at(address), _ARGUMENTS, types.int64)
    s = size_of(narrow(like, 1))
    batch, channels, height, width = a[2], a[3], a[4], a[5]
    out_height, out_width, side, stride = a[6], a[7], a[8], a[9]
    norm, slope = a[10], a[11] * 1e-9
    x, x_sample, x_row = a[13], a[14], a[15]
    gradient, gradient_sample, gradient_row = a[16], a[17], a[18]
    weight, bias, mean, rstd, kernel = a[19], a[20], a[21], a[22], a[23]
    scratch, scratch_size, pitch, grabs = a[24], a[25], a[26], a[27]
    to_x, to_weight, to_bias, to_kernel = a[28], a[29], a[30], a[31]  # to_x is (B, n, H W)
    border, length, taps = side // 2, height * width, side * side
    scratch += take_number(address + 8) * scratch_size * s
    _clear(like, scratch, scratch_size)
    area = ((height + 2 * border) * pitch + 16) * s
    bordered, spaced, between = scratch, scratch + area, scratch + 2 * area
    flipped = between + (length + 16) * s
    sums = flipped + taps * s
    lanes = correlation_lanes(side, width)
    small = narrow(like, 4)
    while True:
        rolled()
        grab = take_number(address)
        if grab >= grabs:
            return
        for v in range(grab * channels // grabs, (grab + 1) * channels // grabs):
            rolled()
            for tap in range(taps):
                store_scalar(like, flipped + tap * s,
                             load_scalar(like, kernel + (v * taps + taps - 1 - tap) * s))
            _clear(like, sums, taps * lanes)
            all_plain, all_normed = number(like, 0.0), number(like, 0.0)
            scale, shift = number(like, 1.0), number(like, 0.0)
            middle, spread = number(like, 0.0), number(like, 0.0)
            for sample in range(batch):
                rolled()
                source = x + sample * x_sample + v * x_row
                target = to_x + (sample * channels + v) * length * s
                if norm != NO_NORM:
                    place = v * s
                    if norm == INSTANCE:
                        place = (sample * channels + v) * s
                    middle, spread = load_scalar(like, mean + place), load_scalar(like, rstd + place)
                    scale = load_scalar(like, weight + v * s) * spread
                    shift = load_scalar(like, bias + v * s) - middle * scale
                arriving = gradient + sample * gradient_sample + v * gradient_row
                if side:
                    affine_bordered(like, source, bordered, pitch, border, height, width, 1, scale,
                                    shift, slope)
                    if stride == 1:
                        affine_bordered(like, arriving, spaced, pitch, border, height, width, 1,
                                        number(like, 1.0), number(like, 0.0), 1.0)
                    else:
                        for y in range(out_height):
                            rolled()
                            for i in range(out_width):
                                place = (y * stride + border) * pitch + i * stride + border
                                store_scalar(like, spaced + place * s, load_scalar(
                                    like, arriving + (y * out_width + i) * s))
                    correlate(like, bordered, spaced, pitch, side, sums, height, width)
                    convolve(like, spaced, pitch, side, 1, flipped, between, height, width)
                    arriving = between
                if length >= 16:
                    plain, normed = _through_activation(like, source, arriving, target, length, scale,
                                                        shift, slope, middle, spread)
                else:
                    plain, normed = _through_activation(small, source, arriving, target, length, scale,
                                                        shift, slope, middle, spread)
                all_plain += plain
                all_normed += normed
                if norm == INSTANCE:
                    n = number(like, length)
                    _through_norm(like, source, target, length, scale, middle, spread, plain / n,
                                  normed / n)
                elif norm == FIXED:
                    _through_norm(like, source, target, length, scale, middle, spread,
                                  number(like, 0.0), number(like, 0.0))
            if norm == BATCH:
                n = number(like, batch * length)
                for sample in range(batch):
                    rolled()
                    _through_norm(like, x + sample * x_sample + v * x_row,
                                  to_x + (sample * channels + v) * length * s, length, scale, middle,
                                  spread, all_plain / n, all_normed / n)
            if norm != NO_NORM:
                store_scalar(like, to_weight + v * s, all_normed)
                store_scalar(like, to_bias + v * s, all_plain)
            for tap in range(taps):
                rolled()
                value = number(like, 0.0)
                for lane in range(lanes):
                    value += load_scalar(like, sums + (tap * lanes + lane) * s)
                store_scalar(like, to_kernel + (v * taps + tap) * s, value)


def _backward_float32(address):
    _backward(splat(np.float32(0), 16), address)


def _backward_float64(address):
    _backward(splat(np.float64(0), 16), address)


_run_backward = Kernel(float32=_backward_float32, float64=_backward_float64)


# ---------------------------------------------------------------------------------- torch


def channel_moments(x: torch.Tensor, epsilon: float):
    """Mean, 1 / sqrt(var + epsilon) and var of each channel of x (B, n, H, W), three of (n,)."""
    batch, channels, height, width = x.shape
    mean, rstd, variance = (x.new_empty(channels) for _ in range(3))
    size = x.element_size()
    _run_moments(x.dtype, channels, batch, channels, height * width, _fixed(epsilon),
                 x.data_ptr(), x.stride(0) * size, x.stride(1) * size,
                 mean.data_ptr(), rstd.data_ptr(), variance.data_ptr())
    return mean, rstd, variance


def map_forward(out, x, weight, bias, mean, rstd, kernel, norm: int, slope: float, stride: int,
                epsilon: float):
    """The three steps for x (B, n, H, W), whose maps are contiguous, written to ``out``.

    Args:
        out: (B, n, H', W') with H' = ceil(H / stride), maps contiguous.
        weight, bias: of the norm, (n,), or None without one.
        mean, rstd: (n,), for FIXED and BATCH.
        kernel: (n, 1, side, side), or None without a convolution.
        norm: NO_NORM, FIXED, INSTANCE or BATCH.
        slope: of the activation below 0: 1 for none, 0 for ReLU.
        stride: of the convolution.
        epsilon: of INSTANCE.

    Returns:
        For INSTANCE the mean and rstd of each map, (B, n); otherwise empty tensors.
    """
    batch, channels, height, width = x.shape
    side = 0 if kernel is None else kernel.shape[-1]
    if not side:
        stride = 1
    out_height, out_width = out.shape[2:]
    own_mean, own_rstd = room_for_moments(x, norm)
    if norm == INSTANCE:
        mean, rstd = own_mean, own_rstd
    border = side // 2
    pitch = -(-(width + 2 * border) // stride) + 16
    room = ((height + 2 * border) * stride * pitch + 16) if side else 0
    threads = torch.get_num_threads()
    scratch = x.new_empty(threads * room)
    grabs = min(batch * channels, 8 * threads)
    size = x.element_size()
    _run_forward(x.dtype, grabs, batch, channels, height, width, out_height, out_width, side, stride,
                 norm, _fixed(slope), _fixed(epsilon),
                 x.data_ptr(), x.stride(0) * size, x.stride(1) * size,
                 out.data_ptr(), out.stride(0) * size, out.stride(1) * size,
                 *map(_address, (weight, bias, mean, rstd, kernel)),
                 scratch.data_ptr(), room, pitch, grabs)
    return own_mean, own_rstd


def map_backward(gradient, x, weight, bias, mean, rstd, kernel, norm: int, slope: float, stride: int):
    """Gradients of x, weight, bias and kernel from that of the result; empty where there is none."""
    batch, channels, height, width = x.shape
    side = 0 if kernel is None else kernel.shape[-1]
    if not side:
        stride = 1
    border = side // 2
    lanes = correlation_lanes.py_func(side, width)
    pitch = -(-width // lanes) * lanes + 2 * border
    area = (height + 2 * border) * pitch + 16
    room = 2 * area + height * width + 16 + side**2 * (1 + lanes)
    threads = torch.get_num_threads()
    scratch = x.new_empty(threads * room)
    results = room_for_gradients(x, kernel, norm)
    grabs = min(channels, 8 * threads)
    size = x.element_size()
    _run_backward(x.dtype, grabs, batch, channels, height, width, *gradient.shape[2:], side, stride,
                  norm, _fixed(slope), 0,
                  x.data_ptr(), x.stride(0) * size, x.stride(1) * size,
                  gradient.data_ptr(), gradient.stride(0) * size, gradient.stride(1) * size,
                  *map(_address, (weight, bias, mean, rstd, kernel)),
                  scratch.data_ptr(), room, pitch, grabs, *map(_address, results))
    return results


def room_for_moments(x, norm: int):
    """Empty tensors for the mean and rstd of each map, if INSTANCE wants them."""
    shape = x.shape[:2] if norm == INSTANCE else (0,)
    return x.new_empty(shape), x.new_empty(shape)


def room_for_gradients(x, kernel, norm: int):
    """Empty tensors for the gradients of x, weight, bias and kernel."""
    channels = 0 if norm == NO_NORM else x.shape[1]
    return (x.new_empty(x.shape), x.new_empty(channels), x.new_empty(channels),
            x.new_empty(0 if kernel is None else kernel.shape))


def _address(tensor) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _fixed(value: float) -> int:
    return round(value * 1e9)
