"""Runs a compiled network: a list of instructions, each for some nodes of one level.

A sample's maps are rows of one workspace; small maps of several samples, a tile, share a row. For each
node the weighted rows of its parents are summed, and what the sum goes through follows at once, while
it is in the cache. Either every thread takes whole tiles, or, where there are fewer tiles than threads,
all work on one and wait for each other after each level.
"""

from __future__ import annotations

import math

import numpy as np
from numba import carray, types

from .launch import Kernel
from .record import record
from .one_map import affine, affine_bordered, convolve, moments, number
from .sums import four_narrow_sums, four_sums, sum_piece
from .vector import (at, fill, inline, load, load_index, load_scalar, mul, narrow, rolled, size_of, splat,
                     store, store_scalar, take_number, wait_for_all)

LANES = 16  # rows start and end at multiples of so many numbers

# ------------------------------------------------------------------------------- words of a program
# a call:
(TILE, THREAD, TEAM, TILES, SAMPLES, BATCH, CODE, LENGTH, SPACE, SPACE_SIZE, X, X_SAMPLE, X_ROW, OUT,
 OUT_SAMPLE, PRIVATE, PRIVATE_SIZE, BARRIER) = range(18)
# an instruction:
(KIND, FIRST, INDEX, WEIGHT, PIXELS, PARTS, PARTS_AT, TO_OUTPUT, TARGETS, OUT_PIXELS, CHANNELS, BOUNDS,
 WAITS) = range(13)
INSTRUCTION = 13
SUM, PRODUCT, INPUT, FOUR_SUMS = range(4)  # FOUR_SUMS: of four nodes over all parents that they have
# one part of what nodes compute:
(NORM, SCALE, SHIFT, SLOPE, CODE_OF, SIDE, STRIDE, KERNEL, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH, PITCH,
 SCRATCH, PADDED, BETWEEN, EPSILON) = range(17)  # SLOPE and EPSILON in units of 1e-9
PART = 17
PLAIN, AFFINE, INSTANCE = range(3)
ACTIVATION_CODES = {"elu": 1, "gelu": 2, "silu": 3, "softplus": 4, "sigmoid": 5, "tanh": 6}


@inline
def _special(code, x):
    """An activation by its formula."""
    if code == 1:
        return math.expm1(x) if x < 0 else x
    if code == 2:
        return 0.5 * x * (1.0 + math.erf(x * 0.7071067811865476))
    if code == 3:
        return x / (1.0 + math.exp(-x))
    if code == 4:
        return x if x > 20.0 else math.log1p(math.exp(x))
    if code == 5:
        return 1.0 / (1.0 + math.exp(-x))
    return math.tanh(x)


@inline
def _part(like, part, node, source, target, private):
    """norm, activation, convolution of one map, from ``source`` to ``target``, both contiguous."""
    p = carray(at(part), PART, types.int64)
    s = size_of(narrow(like, 1))
    height, width, side = p[HEIGHT], p[WIDTH], p[SIDE]
    length = height * width
    scale, shift = number(like, 1.0), number(like, 0.0)
    if p[NORM] != PLAIN:
        scale = load_scalar(like, p[SCALE] + node * s)
        shift = load_scalar(like, p[SHIFT] + node * s)
        if p[NORM] == INSTANCE:
            mean, rstd = moments(like, source, length, p[EPSILON] * 1e-9)
            scale *= rstd
            shift -= mean * scale
    slope = p[SLOPE] * 1e-9
    if p[CODE_OF] != 0:
        slope = 1.0
        between = target
        if side:
            between = private + p[BETWEEN] * s
        affine(like, source, between, length, scale, shift, slope)
        for i in range(length):
            value = load_scalar(like, between + i * s)
            store_scalar(like, between + i * s, _special(p[CODE_OF], value))
        source = between
        scale, shift = number(like, 1.0), number(like, 0.0)
    if side == 0:
        if p[CODE_OF] == 0:
            affine(like, source, target, length, scale, shift, slope)
        return
    bordered = private + p[SCRATCH] * s
    affine_bordered(like, source, bordered, p[PITCH], side // 2, height, width, p[STRIDE], scale, shift,
                    slope)
    kernel = p[KERNEL] + node * side * side * s
    if p[PADDED] == 0:
        convolve(like, bordered, p[PITCH], side, p[STRIDE], kernel, target, p[OUT_HEIGHT], p[OUT_WIDTH])
        return
    small = private + p[BETWEEN] * s
    convolve(like, bordered, p[PITCH], side, p[STRIDE], kernel, small, p[OUT_HEIGHT], p[OUT_WIDTH])
    top, left = (height - p[OUT_HEIGHT]) // 2, (width - p[OUT_WIDTH]) // 2
    for i in range(length):
        store_scalar(like, target + i * s, 0.0)
    for y in range(p[OUT_HEIGHT]):
        rolled()
        for i in range(p[OUT_WIDTH]):
            store_scalar(like, target + ((y + top) * width + left + i) * s,
                         load_scalar(like, small + (y * p[OUT_WIDTH] + i) * s))


@inline
def _sum_row(like, space, instruction, node, row, length):
    """The weighted sum of a node's parents, ``length`` numbers, a multiple of the lanes."""
    s = size_of(narrow(like, 1))
    done = 0
    while done < length:
        rolled()
        width = 64
        while width > length - done:
            width //= 2
        # rows are named in units of 16 numbers
        sum_piece(like, width, space + done * s, LANES * s, instruction[FIRST], instruction[INDEX],
                  instruction[WEIGHT], row + done * s, 0, node, node + 1)
        done += width


@inline
def _four_rows(like, space, instruction, four, row, length):
    """The weighted sums of four nodes over the same parents, each ``length`` numbers."""
    s = size_of(narrow(like, 1))
    begin = load_index(instruction[FIRST] + 4 * four)
    end = load_index(instruction[FIRST] + 4 * four + 4)
    done = 0
    while done < length:
        rolled()
        if length - done >= 2 * LANES:
            four_sums(like, space + done * s, LANES * s, instruction[INDEX], instruction[WEIGHT],
                      row + done * s, length * s, begin, end)
            done += 2 * LANES
        else:
            four_narrow_sums(like, space + done * s, LANES * s, instruction[INDEX], instruction[WEIGHT],
                             row + done * s, length * s, begin, end)
            done += LANES


@inline
def _product_row(like, space, instruction, node, row, length):
    """The product of a node's weighted parents, ``length`` numbers, a multiple of the lanes."""
    s = size_of(narrow(like, 1))
    first = load_index(instruction[FIRST] + 4 * node)
    last = load_index(instruction[FIRST] + 4 * node + 4)
    for i in range(0, length, LANES):
        rolled()
        value = fill(like, 1.0)
        for e in range(first, last):
            weight = fill(like, load_scalar(like, instruction[WEIGHT] + e * s))
            parent = space + (load_index(instruction[INDEX] + 4 * e) * LANES + i) * s
            value = mul(value, mul(weight, load(like, parent)))
        store(value, row + i * s)


@inline
def _instruction(like, call, code, me, space, private, tile):
    """One instruction for this thread's share of its nodes."""
    c = carray(at(code), INSTRUCTION, types.int64)
    s = size_of(narrow(like, 1))
    samples = min(call[SAMPLES], call[BATCH] - tile * call[SAMPLES])
    pixels, parts = c[PIXELS], c[PARTS]
    length = (call[SAMPLES] * pixels + LANES - 1) // LANES * LANES
    other = private + 4 * length * s
    for node in range(load_index(c[BOUNDS] + 4 * me), load_index(c[BOUNDS] + 4 * me + 4)):
        rolled()
        row = private
        if c[KIND] == SUM:
            _sum_row(like, space, c, node, row, length)
        elif c[KIND] == PRODUCT:
            _product_row(like, space, c, node, row, length)
        elif c[KIND] == FOUR_SUMS:
            if node % 4 == 0:
                _four_rows(like, space, c, node // 4, row, length)
            row += node % 4 * length * s
        place = load_index(c[TARGETS] + 4 * node)
        for sample in range(samples):
            rolled()
            if c[TO_OUTPUT]:
                target = call[OUT] + (tile * call[SAMPLES] + sample) * call[OUT_SAMPLE] \
                    + place * c[OUT_PIXELS] * s
            else:
                target = space + (place * LANES + sample * c[OUT_PIXELS]) * s
            source = row + sample * pixels * s
            if c[KIND] == INPUT:
                source = call[X] + (tile * call[SAMPLES] + sample) * call[X_SAMPLE] \
                    + load_index(c[CHANNELS] + 4 * node) * call[X_ROW]
            if parts == 0:
                affine(like, source, target, pixels, number(like, 1.0), number(like, 0.0), 1.0)
            # parts before the last go from one private map to the other and back
            for part in range(parts):
                rolled()
                to = target
                if part < parts - 1:
                    to = other
                    if part % 2:
                        to = other + length * s
                _part(like, c[PARTS_AT] + part * PART * 8, node, source, to, private)
                source = to


@inline
def _run(like, address):
    call = carray(at(address), 32, types.int64)
    s = size_of(narrow(like, 1))
    me = take_number(address + 8 * THREAD)
    private = call[PRIVATE] + me * call[PRIVATE_SIZE] * s
    team, tiles = call[TEAM], call[TILES]
    space = call[SPACE]
    share, tile = me, 0
    if team == 1:
        space += me * call[SPACE_SIZE] * s
        share = 0
    while True:
        rolled()
        if team == 1:
            tile = take_number(address + 8 * TILE)
        if tile >= tiles:
            return
        for i in range(call[LENGTH]):
            rolled()
            code = call[CODE] + i * INSTRUCTION * 8
            _instruction(like, call, code, share, space, private, tile)
            if team > 1 and carray(at(code), INSTRUCTION, types.int64)[WAITS]:
                wait_for_all(call[BARRIER], team)
        if team > 1:
            tile += 1


def _run_float32(address):
    _run(splat(np.float32(0), 16), address)


def _run_float64(address):
    _run(splat(np.float64(0), 16), address)


run = Kernel(record("team tiles samples batch code length space space_size x x_sample x_row out out_sample private "
                    "private_size barrier"), float32=_run_float32, float64=_run_float64)
