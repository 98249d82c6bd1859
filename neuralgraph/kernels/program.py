"""Runs a compiled network: a list of instructions, each for some nodes of one level.

A node's map is a row of one workspace; small maps of several samples, a tile, share a row, pixel by pixel. For each
node the weighted rows of its parents are summed, and what the sum goes through follows at once, while
it is in the cache. Either every thread takes whole tiles, or, where there are fewer tiles than threads,
all work on one and wait for each other after each level.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from .halves import bytes_of, keep
from .instructions import BORDER, INPUT, INSTRUCTION, INSTRUCTION_BYTES, JOB, LANES, PASS, PASS_BYTES, PRODUCT, STEM, SUM
from .launch import Kernel
from .node_maps import map_pass, sweep_rows
from .node_sums import four_rows, product_row, stem_rows, sum_row
from .parts import inline
from .tile_maps import mean_of_each
from .tiles import bordered, move
from .vector import at, load_index, load_scalar, narrow, rolled, size_of, splat, store, store_scalar, take_number, wait_for_all


@inline
def _banded(like, zero, stored, space, code, node, count, rows, next_row, samples, too_large):
    """Sums of ``count`` nodes and their convolutions, some rows at a time, so that they are still in the first cache."""
    s, t = size_of(narrow(like, 1)), bytes_of(stored)
    c = carray(at(code), 1, INSTRUCTION)[0]
    p = carray(at(c.passes_at), 1, PASS)[0]
    width, done = p.width * samples, 0
    for begin in range(0, p.out_height, c.band):
        rolled()
        end = min(begin + c.band, p.out_height)
        needed = p.height
        if end < p.out_height:
            needed = min(p.height, p.stride * end + 2 - p.stride)  # a result needs a row after its own
        place, to = done * width * t, rows + done * width * s
        if c.kind == SUM:
            sum_row(zero, stored, space + place, code, node, to, (needed - done) * width)
        elif c.kind == STEM:
            stem_rows(zero, space, code, node // 4, rows, next_row, samples, done, needed)
        else:
            four_rows(zero, stored, space + place, LANES * t, code, node // 4, to, next_row, (needed - done) * width)
        for lane in range(count):
            rolled()
            target = space + load_index(c.targets + 4 * (node + lane)) * LANES * t
            result, out_width = target, p.out_width * samples
            if t < s:
                result = rows + 4 * next_row
            sweep_rows(zero, rows + lane * next_row, samples, p.stride, p.kernel + 9 * (node + lane) * s, result, p.height,
                       width, out_width, begin, end)
            if result != target:
                place = begin * out_width
                keep(like, stored, result + place * s, target + place * t, (end - begin) * out_width, too_large)
        done = needed


@inline
def _instruction(like, zero, stored, job, code, me, space, private, tile):
    """One instruction for this thread's share of its nodes."""
    c = carray(at(code), 1, INSTRUCTION)[0]
    s, t = size_of(narrow(like, 1)), bytes_of(stored)
    step = job.samples
    samples = min(step, job.batch - tile * step)
    pixels, passes = c.pixels, c.passes
    length = (step * pixels + LANES - 1) // LANES * LANES
    next_row = (length + 2 * LANES) * s  # rows of which 16 numbers before and after may be read
    rows = private + LANES * s
    other = rows + 4 * next_row
    x = job.x + tile * step * job.x_sample
    out = job.out + tile * step * job.out_sample
    first, last = load_index(c.bounds + 4 * me), load_index(c.bounds + 4 * me + 4)
    if c.band:
        together = 1 if c.kind == SUM else 4
        for node in range(first, last, together):
            rolled()
            _banded(like, zero, stored, space, code, node, min(together, last - node), rows, next_row, step, job.too_large)
        return
    for node in range(first, last):
        rolled()
        channel = x + load_index(c.channels + 4 * node) * job.x_row
        if c.kind == BORDER:
            bordered(zero, code, node, channel, job.x_sample, samples, step, space, private)
            continue
        place = load_index(c.targets + 4 * node)
        own = space + place * LANES * t  # where those that read the node find its map
        target = own
        if c.to_output or t < s:
            target = other + 2 * next_row
        source, ours = rows, 1
        if c.kind == SUM:
            if passes == 0:
                source = target
            sum_row(zero, stored, space, code, node, source, length)
        elif c.kind == PRODUCT:
            product_row(zero, stored, space, code, node, source, length)
        elif c.kind == INPUT:
            if step == 1 and pixels >= LANES:
                source, ours = channel, 0
            else:
                move(zero, channel, job.x_sample, samples, step, source, pixels, False)
        else:
            if node % 4 == 0:
                if c.kind == STEM:
                    height = carray(at(c.frame), 1, PASS)[0].out_height
                    stem_rows(zero, space, code, node // 4, source, next_row, step, 0, height)
                else:
                    four_rows(zero, stored, space, LANES * t, code, node // 4, source, next_row, length)
            source += node % 4 * next_row
        if passes == 0:
            target = source
        # passes before the last go from one private map to the other and back
        for index in range(passes):
            rolled()
            to = target
            if index < passes - 1:
                to = other + index % 2 * next_row
            map_pass(zero, c.passes_at + index * PASS_BYTES, node, source, to, private, step, ours)
            source, ours = to, 1
        if c.pooled:
            store(mean_of_each(like, target, c.out_pixels * step, step), rows)
            for sample in range(samples):
                store_scalar(like, out + sample * job.out_sample + place * s, load_scalar(like, rows + sample * s))
        elif c.to_output:
            result = out + place * c.out_pixels * s
            if step == 1:
                keep(like, zero, target, result, c.out_pixels, job.too_large)
            else:
                move(zero, result, job.out_sample, samples, step, target, c.out_pixels, True)
        elif target != own:
            keep(like, stored, target, own, c.out_pixels * step, job.too_large)


@inline
def _run(zero, stored, address):
    like = splat(zero, 16)
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
            _instruction(like, zero, stored, job, code, share, space, private, tile)
            if team > 1 and carray(at(code), 1, INSTRUCTION)[0].waits:
                wait_for_all(job.barrier, team)
        if team > 1:
            tile += 1


def _run_float32(address):
    _run(np.float32(0), np.float32(0), address)


def _run_float64(address):
    _run(np.float64(0), np.float64(0), address)


def _run_float16(address):
    _run(np.float32(0), np.int16(0), address)


def _run_bfloat16(address):
    _run(np.float32(0), np.uint16(0), address)


# by the numbers that are computed with, and by those of 16 bits that maps are stored in
run = Kernel(JOB, float32=_run_float32, float64=_run_float64, float16=_run_float16, bfloat16=_run_bfloat16)
