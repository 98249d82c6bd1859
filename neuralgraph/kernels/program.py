"""Runs a compiled network: a list of instructions, each for some nodes of one level.

A node's map is a row of one workspace; small maps of several samples, a tile, share a row, pixel by pixel. For each
node the weighted rows of its parents are summed, and what the sum goes through follows at once, while
it is in the cache. Either every thread takes whole tiles, or, where there are fewer tiles than threads,
all work on one and wait for each other after each level.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from .four_sums import four_narrow_sums, four_sums, four_wide_sums
from .lanes import first, transpose
from .launch import Kernel
from .one_map import affine_bordered, convolve, number
from .record import record
from .sums import sum_piece
from .tile_maps import affine, convolve_rows, is_swept, moments_of_each, sweep
from .vector import (
    at,
    call,
    fill,
    inline,
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
    sub,
    take_number,
    wait_for_all,
)

LANES = 16  # rows start and end at multiples of so many numbers

# One run; its units of work are tiles, or the threads of a team.
JOB = record("team tiles samples batch code length space space_size x x_sample x_row out out_sample private "
             "private_size barrier")
SUM, PRODUCT, INPUT, FOUR_SUMS = range(4)  # FOUR_SUMS: of four nodes over all parents that they have
PLAIN, AFFINE, INSTANCE = range(3)

INSTRUCTION = np.dtype([(name, np.int64) for name in (
    "kind", "first", "index", "weight", "pixels", "passes", "passes_at", "to_output", "targets", "out_pixels",
    "channels", "bounds", "waits")])
# One pass of what nodes compute: a norm, an activation, a convolution, each optional.
PASS = np.dtype(
    [(name, np.int64) for name in ("norm", "scale", "shift")] + [("epsilon", np.float64)]
    # the activation: x from 0 on and slope x below, or the function at an address, with values of each node
    + [("slope", np.float64)] + [(name, np.int64) for name in ("function", "values", "num_values")]
    + [(name, np.int64) for name in (
        "depth", "height", "width", "side", "depth_side", "stride", "kernel", "out_depth", "out_height",
        "out_width", "padded", "pitch")]
    # places in private memory: a bordered map, the argument of a convolution, its result, a term of it
    + [(name, np.int64) for name in ("scratch", "between", "small", "term")])
INSTRUCTION_BYTES, PASS_BYTES = INSTRUCTION.itemsize, PASS.itemsize


@inline
def _pass(like, address, node, source, target, private, samples):
    """norm, activation, convolution of the maps of one node, from ``source`` to ``target``, both contiguous."""
    p = carray(at(address), 1, PASS)[0]
    s = size_of(narrow(like, 1))
    length = p.depth * p.height * p.width * samples
    scale, shift = fill(like, 1.0), fill(like, 0.0)
    if p.norm != PLAIN:
        scale = fill(like, load_scalar(like, p.scale + node * s))
        shift = fill(like, load_scalar(like, p.shift + node * s))
        if p.norm == INSTANCE:
            mean, rstd = moments_of_each(like, source, length, samples, p.epsilon)
            scale = mul(scale, rstd)
            shift = sub(shift, mul(mean, scale))
    slope = p.slope
    if p.function != 0:
        between = target
        if p.side:
            between = private + p.between * s
        affine(like, source, between, length, scale, shift, 1.0)
        call(p.function, between, between, length, p.values + node * p.num_values * s)
        source = between
        scale, shift, slope = fill(like, 1.0), fill(like, 0.0), 1.0
    if p.side == 0:
        if p.function == 0:
            affine(like, source, target, length, scale, shift, slope)
        return
    result = target
    if p.padded:
        result = private + p.small * s
    if p.depth_side == 1:
        _slice(like, address, node, 0, source, result, private, samples, scale, shift, slope)
    else:
        _volume(like, address, node, source, result, private, samples, scale, shift, slope)
    if p.padded:
        _surrounded(like, address, result, target, samples)


@inline
def _slice(like, address, node, tap, source, target, private, samples, scale, shift, slope):
    """The convolution of one image with slice ``tap`` of the node's kernel."""
    p = carray(at(address), 1, PASS)[0]
    s = size_of(narrow(like, 1))
    buffer = private + p.scratch * s
    kernel = p.kernel + (node * p.depth_side + tap) * p.side * p.side * s
    width, out_width = p.width * samples, p.out_width * samples
    if is_swept(p.side, p.stride, out_width):
        buffer += LANES * s
        affine(like, source, buffer, p.height * width, scale, shift, slope)
        sweep(like, buffer, samples, p.stride, kernel, target, p.height, width, p.out_height, out_width)
    elif samples == 1:
        affine_bordered(like, source, buffer, p.pitch, p.side // 2, p.height, width, p.stride, first(scale), first(shift),
                        slope)
        convolve(like, buffer, p.pitch, p.side, p.stride, kernel, target, p.out_height, out_width)
    else:
        convolve_rows(like, source, buffer, samples, p.side, p.stride, kernel, target, p.height, width, p.out_height, out_width,
                      scale, shift, slope)


@inline
def _volume(like, address, node, source, target, private, samples, scale, shift, slope):
    """The convolution of a volume: a sum over slices of it and of the kernel."""
    p = carray(at(address), 1, PASS)[0]
    s = size_of(narrow(like, 1))
    area, out_area = p.height * p.width * samples, p.out_height * p.out_width * samples
    term = private + p.term * s
    for z in range(p.out_depth):
        rolled()
        out = target + z * out_area * s
        for i in range(out_area):
            store_scalar(like, out + i * s, number(like, 0.0))
        for tap in range(p.depth_side):
            rolled()
            place = z * p.stride + tap - p.depth_side // 2
            if 0 <= place < p.depth:
                _slice(like, address, node, tap, source + place * area * s, term, private, samples, scale, shift, slope)
                for i in range(out_area):
                    store_scalar(like, out + i * s, load_scalar(like, out + i * s) + load_scalar(like, term + i * s))


@inline
def _surrounded(like, address, source, target, samples):
    """A smaller map with zeros around it, the odd one out at the end."""
    p = carray(at(address), 1, PASS)[0]
    s = size_of(narrow(like, 1))
    front = (p.depth - p.out_depth) // 2
    top, left = (p.height - p.out_height) // 2, (p.width - p.out_width) // 2
    for i in range(p.depth * p.height * p.width * samples):
        store_scalar(like, target + i * s, number(like, 0.0))
    for z in range(p.out_depth):
        rolled()
        for y in range(p.out_height):
            rolled()
            row = (((z + front) * p.height + y + top) * p.width + left) * samples
            line = (z * p.out_height + y) * p.out_width * samples
            for i in range(p.out_width * samples):
                store_scalar(like, target + (row + i) * s, load_scalar(like, source + (line + i) * s))


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
        sum_piece(like, width, space + done * s, LANES * s, instruction.first, instruction.index,
                  instruction.weight, row + done * s, 0, node, node + 1)
        done += width


@inline
def _four_rows(like, space, instruction, four, row, length):
    """The weighted sums of four nodes over the same parents, each ``length`` numbers."""
    s = size_of(narrow(like, 1))
    begin = load_index(instruction.first + 4 * four)
    end = load_index(instruction.first + 4 * four + 4)
    done = 0
    while done < length:
        rolled()
        if length - done >= 4 * LANES:
            four_wide_sums(like, space + done * s, LANES * s, instruction.index, instruction.weight,
                           row + done * s, length * s, begin, end)
            done += 4 * LANES
        elif length - done >= 2 * LANES:
            four_sums(like, space + done * s, LANES * s, instruction.index, instruction.weight,
                      row + done * s, length * s, begin, end)
            done += 2 * LANES
        else:
            four_narrow_sums(like, space + done * s, LANES * s, instruction.index, instruction.weight,
                             row + done * s, length * s, begin, end)
            done += LANES


@inline
def _product_row(like, space, instruction, node, row, length):
    """The product of a node's weighted parents, ``length`` numbers, a multiple of the lanes."""
    s = size_of(narrow(like, 1))
    first = load_index(instruction.first + 4 * node)
    last = load_index(instruction.first + 4 * node + 4)
    for i in range(0, length, LANES):
        rolled()
        value = fill(like, 1.0)
        for e in range(first, last):
            weight = fill(like, load_scalar(like, instruction.weight + e * s))
            parent = space + (load_index(instruction.index + 4 * e) * LANES + i) * s
            value = mul(value, mul(weight, load(like, parent)))
        store(value, row + i * s)


@inline
def _gather(like, x, x_sample, samples, step, target, pixels):
    """Maps of ``samples`` samples as one, pixel by pixel; of ``step`` samples those that are missing are 0.

    ``like`` has ``step`` lanes.
    """
    s, wide = size_of(narrow(like, 1)), size_of(like)
    done = 0
    if samples == step:
        done = pixels // step * step
        for i in range(0, done, step):
            rolled()
            transpose(like, x + i * s, x_sample, target + i * wide, wide)
    for i in range(done, pixels):
        rolled()
        store(fill(like, 0.0), target + i * wide)
        for sample in range(samples):
            store_scalar(like, target + i * wide + sample * s, load_scalar(like, x + sample * x_sample + i * s))


@inline
def _scatter(like, source, out, out_sample, samples, step, pixels):
    """The other way round."""
    s, wide = size_of(narrow(like, 1)), size_of(like)
    done = 0
    if samples == step:
        done = pixels // step * step
        for i in range(0, done, step):
            rolled()
            transpose(like, source + i * wide, wide, out + i * s, out_sample)
    for i in range(done, pixels):
        rolled()
        for sample in range(samples):
            store_scalar(like, out + sample * out_sample + i * s, load_scalar(like, source + i * wide + sample * s))


@inline
def _gathered(like, x, x_sample, samples, step, target, pixels):
    if step == 1:
        _gather(narrow(like, 1), x, x_sample, samples, step, target, pixels)
    elif step == 2:
        _gather(narrow(like, 2), x, x_sample, samples, step, target, pixels)
    elif step == 4:
        _gather(narrow(like, 4), x, x_sample, samples, step, target, pixels)
    else:
        _gather(narrow(like, 8), x, x_sample, samples, step, target, pixels)


@inline
def _scattered(like, source, out, out_sample, samples, step, pixels):
    if step == 2:
        _scatter(narrow(like, 2), source, out, out_sample, samples, step, pixels)
    elif step == 4:
        _scatter(narrow(like, 4), source, out, out_sample, samples, step, pixels)
    else:
        _scatter(narrow(like, 8), source, out, out_sample, samples, step, pixels)


@inline
def _instruction(like, job, code, me, space, private, tile):
    """One instruction for this thread's share of its nodes."""
    c = carray(at(code), 1, INSTRUCTION)[0]
    s = size_of(narrow(like, 1))
    step = job.samples
    samples = min(step, job.batch - tile * step)
    pixels, passes = c.pixels, c.passes
    length = (step * pixels + LANES - 1) // LANES * LANES
    other = private + 4 * length * s
    x = job.x + tile * step * job.x_sample
    out = job.out + tile * step * job.out_sample
    for node in range(load_index(c.bounds + 4 * me), load_index(c.bounds + 4 * me + 4)):
        rolled()
        source = private
        if c.kind == SUM:
            _sum_row(like, space, c, node, source, length)
        elif c.kind == PRODUCT:
            _product_row(like, space, c, node, source, length)
        elif c.kind == FOUR_SUMS:
            if node % 4 == 0:
                _four_rows(like, space, c, node // 4, source, length)
            source += node % 4 * length * s
        else:
            channel = x + load_index(c.channels + 4 * node) * job.x_row
            if step == 1 and pixels >= LANES:
                source = channel
            else:
                _gathered(like, channel, job.x_sample, samples, step, source, pixels)
        place = load_index(c.targets + 4 * node)
        target = space + place * LANES * s
        if c.to_output:
            target = out + place * c.out_pixels * s
            if step > 1:
                target = other + 2 * length * s
        if passes == 0:
            affine(like, source, target, pixels * step, fill(like, 1.0), fill(like, 0.0), 1.0)
        # passes before the last go from one private map to the other and back
        for index in range(passes):
            rolled()
            to = target
            if index < passes - 1:
                to = other + index % 2 * length * s
            _pass(like, c.passes_at + index * PASS_BYTES, node, source, to, private, step)
            source = to
        if c.to_output and step > 1:
            _scattered(like, target, out + place * c.out_pixels * s, job.out_sample, samples, step, c.out_pixels)


@inline
def _run(like, address):
    job = carray(at(address), 1, JOB)[0]
    s = size_of(narrow(like, 1))
    me = take_number(address + 8)
    private = job.private + me * job.private_size * s
    team, tiles = job.team, job.tiles
    space = job.space
    share, tile = me, 0
    if team == 1:
        space += me * job.space_size * s
        share = 0
    while True:
        rolled()
        if team == 1:
            tile = take_number(address)
        if tile >= tiles:
            return
        for i in range(job.length):
            rolled()
            code = job.code + i * INSTRUCTION_BYTES
            _instruction(like, job, code, share, space, private, tile)
            if team > 1 and carray(at(code), 1, INSTRUCTION)[0].waits:
                wait_for_all(job.barrier, team)
        if team > 1:
            tile += 1


def _run_float32(address):
    _run(splat(np.float32(0), 16), address)


def _run_float64(address):
    _run(splat(np.float64(0), 16), address)


run = Kernel(JOB, float32=_run_float32, float64=_run_float64)
