"""Runs compiled layers: a list of instructions, each a sparse convolution or a pooling.

A sparse convolution has one edge for each weight that is not 0: a source channel, shifted by the weight's place in
the kernel. So that a shift is no more than an address, a thread first copies the lines that it needs, with zeros
around them, into memory of its own (``scratch``), and of strided convolutions every ``stride``-th line and column
into a copy of its own (a phase). Then an output channel is a weighted sum of rows of that memory, over all columns
of the copy at once; what was summed across a border is never written to the result (Park et al., "Faster CNNs with
direct sparse convolutions and guided pruning", ICLR 2017).

A row holds the lines of one sample, of several samples one after the other, or, for maps that are smaller than a
register, of several samples number by number. A linear layer is the convolution of maps of one pixel.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from .bordering import LANES, gather, gather_tokens, turned
from .lanes import transpose
from .launch import Kernel
from .one_map import activate, number
from .parts import inline
from .record import record
from .shifting import add_four, add_row
from .vector import (
    add,
    at,
    fill,
    larger,
    load,
    load_index,
    load_scalar,
    narrow,
    rolled,
    size_of,
    smaller,
    splat,
    store,
    take_number,
    total,
    wait_for_all,
)

CONVOLVE, MAXIMUM, MEAN = range(3)
SLACK = 256  # numbers that may be read after the last row of a scratch, and written after a row of sums

JOB = record("team code begin end private private_size barrier taken")
# Of a sparse convolution, whose work is units of some samples (a tile), some lines of their results (a band) and some
# outputs (a share):
#   samples, band       samples of a tile, lines of a band
#   direct              1: x is read where it stands; otherwise channels are copied to a scratch, some (a block) at a time
#   channels, channel   where the channels of each block of each share begin; which they are
#   phase, phases       first line and column of each phase that is read
#   lines, pitch, tail  of a phase in the scratch: its lines, their distance, and the columns after the last one
#   pixel, sample, row  distances in the scratch: of columns, of samples, of phases; all in numbers
#   together, order     1, or 4 outputs that read the same; the channels of the outputs in the order of their rows
#   first, index, weight  where the edges of each row of each block of each share begin; their sources, their weights
#   sums, buffer          where the scratch, and memory for turning maps, begin in the memory of a thread
#   tokens              1: all maps that are read and made are of one pixel, and no border is
#   sixteen             1: sixteen outputs at a time are turned from rows to lines of tokens
INSTRUCTION = np.dtype([(name, np.int64) for name in (
    "kind", "batch", "units", "x", "x_sample", "x_channel", "out", "out_sample", "out_channel", "other", "other_sample",
    "other_channel", "bias", "samples", "bands", "band", "shares", "outputs", "height", "width",
    "out_height", "out_width", "stride_y", "stride_x", "top", "left", "phases", "phase", "lines", "pitch", "tail",
    "pixel", "sample", "row", "direct", "channels", "channel", "first", "index", "weight", "kernel_y", "kernel_x",
    "divisor", "sums", "blocks", "together", "order", "sixteen", "buffer", "tokens")]
    + [("slope", np.float64), ("limit", np.float64)])
INSTRUCTION_BYTES = INSTRUCTION.itemsize


@inline
def _activated(like, c, u):
    u = activate(like, u, c.slope)
    if c.limit < np.inf:
        u = smaller(u, fill(like, c.limit))
    return u


@inline
def _finish(like, c, source, step, other, target, count):
    """target = activation(source (+ other)) for ``count`` numbers, of ``source`` every ``step``-th."""
    one = narrow(like, 1)
    s = size_of(one)
    body = 0
    if step == 1:
        body = count // LANES * LANES
        for i in range(0, body, LANES):
            u = load(like, source + i * s)
            if other != 0:
                u = add(u, load(like, other + i * s))
            store(_activated(like, c, u), target + i * s)
    for i in range(body, count):
        u1 = load(one, source + i * step * s)
        if other != 0:
            u1 = add(u1, load(one, other + i * s))
        store(_activated(one, c, u1), target + i * s)


@inline
def _finish_tokens(like, c, source, other, target, samples):
    """As :func:`_finish`, one number of each sample."""
    one = narrow(like, 1)
    s = size_of(one)
    for i in range(samples):
        u1 = load(one, source + i * s)
        if other != 0:
            u1 = add(u1, load(one, other + i * c.other_sample))
        store(_activated(one, c, u1), target + i * c.out_sample)


@inline
def _deliver_tokens(like, c, tile, row, samples, sums, sums_row, buffer):
    """Sixteen neighbouring outputs of maps of one pixel that lie beside each other."""
    s = size_of(narrow(like, 1))
    number = tile * c.samples
    channel = load_index(c.order + 4 * row)
    for done in range(0, samples, LANES):
        rolled()
        transpose(like, sums + done * s, sums_row, buffer, LANES * s)
        for i in range(min(LANES, samples - done)):
            u = load(like, buffer + i * LANES * s)
            if c.other != 0:
                u = add(u, load(like, c.other + (number + done + i) * c.other_sample + channel * s))
            store(_activated(like, c, u), c.out + (number + done + i) * c.out_sample + channel * s)


@inline
def _deliver_sixteen(like, c, target, other, lines, sums, buffer):
    """The maps of sixteen samples that stand number by number, one after the other."""
    s, step = size_of(narrow(like, 1)), size_of(like)
    count = lines * c.out_width
    added = buffer + count * step
    if other != 0:
        turned(like, other, c.other_sample, added, count)
    for line in range(lines):
        rolled()
        for i in range(c.out_width):
            place = (line * c.out_width + i) * step
            u = load(like, sums + (line * c.pitch + i) * step)
            if other != 0:
                u = add(u, load(like, added + place))
            store(_activated(like, c, u), buffer + place)
    done = 0
    while done < count:
        rolled()
        if count - done < LANES:
            done = count - LANES
        transpose(like, buffer + done * step, step, target + done * s, c.out_sample)
        done += LANES


@inline
def _deliver(like, c, tile, band, lines, output, samples, sums, length, buffer):
    """One output channel: what is added, and the activation; from the row of sums to the maps of the result."""
    s = size_of(narrow(like, 1))
    target = c.out + tile * c.samples * c.out_sample + output * c.out_channel
    other = 0
    if c.other != 0:
        other = c.other + tile * c.samples * c.other_sample + output * c.other_channel
    if c.out_height * c.out_width == 1 and c.sample == 1:
        _finish_tokens(like, c, sums, other, target, samples)
        return
    start = band * c.band * c.out_width * s
    count = c.out_width
    if c.pixel == LANES and samples == LANES and lines * count >= LANES:
        if other != 0:
            other += start
        _deliver_sixteen(like, c, target + start, other, lines, sums, buffer)
        return
    if c.pitch == count:  # lines without gaps
        count, lines = count * lines, 1
    for sample in range(samples):
        rolled()
        for line in range(lines):
            rolled()
            place = start + line * count * s
            added = 0
            if other != 0:
                added = other + sample * c.other_sample + place
            _finish(like, c, sums + (sample * c.sample + line * c.pitch * c.pixel) * s, c.pixel, added,
                    target + sample * c.out_sample + place, count)


@inline
def _convolve(like, c, unit, private):
    """One unit of work: some samples, some lines of their results, some outputs."""
    s = size_of(narrow(like, 1))
    share, band, tile = unit % c.shares, unit // c.shares % c.bands, unit // c.shares // c.bands
    samples = min(c.samples, c.batch - tile * c.samples)
    lines = min(c.band, c.out_height - band * c.band)
    length = lines * c.pitch * c.pixel
    if c.pixel == 1:
        length += (samples - 1) * c.sample
    wide = (length + LANES - 1) // LANES * LANES
    together, rows = c.together, (c.outputs + c.together - 1) // c.together
    begin, end = rows * share // c.shares, rows * (share + 1) // c.shares
    x = private + c.sums * s
    for block in range(c.blocks):
        rolled()
        if c.direct:
            x = c.x + tile * c.x_sample + band * c.band * c.width * s
        elif c.tokens:
            gather_tokens(like, c, tile, share * c.blocks + block, samples, x)
        else:
            gather(like, c, tile, band, share * c.blocks + block, samples, x, private + c.buffer * s)
        first = begin * c.blocks + block * (end - begin) - begin
        for row in range(begin, end):
            rolled()
            sums = private + (row - begin) * together * wide * s
            if block == 0:
                for output in range(together):
                    rolled()
                    bias = fill(like, load_scalar(like, c.bias + (row * together + output) * s))
                    for i in range(0, wide, LANES):
                        store(bias, sums + (output * wide + i) * s)
            if together == 1:
                add_row(like, c, x, first + row, sums, length)
            else:
                add_four(like, c, x, first + row, sums, wide * s, length)
            if block == c.blocks - 1 and c.sixteen:
                if (row - begin) % LANES == LANES - 1 and samples >= LANES // 2:
                    _deliver_tokens(like, c, tile, row - LANES + 1, samples, sums - (LANES - 1) * wide * s, wide * s,
                                    private + c.buffer * s)
                elif row - begin >= (end - begin) // LANES * LANES or samples < LANES // 2:
                    _deliver(like, c, tile, band, lines, load_index(c.order + 4 * row), samples, sums, length,
                             private + c.buffer * s)
            elif block == c.blocks - 1:
                for output in range(together):
                    rolled()
                    number = row * together + output
                    if number < c.outputs:
                        _deliver(like, c, tile, band, lines, load_index(c.order + 4 * number), samples,
                                 sums + output * wide * s, length, private + c.buffer * s)


@inline
def _pool(like, c, unit, private):
    """Windows of all maps of a sample's share of channels: lines first, then columns."""
    s = size_of(narrow(like, 1))
    share, sample = unit % c.shares, unit // c.shares
    wide = (c.left + c.width + c.kernel_x + LANES) // LANES * LANES
    start = fill(like, 0.0)
    if c.kind == MAXIMUM:
        start = fill(like, -np.inf)
    for i in range(0, wide + LANES, LANES):
        store(start, private + i * s)
    for channel in range(c.outputs * share // c.shares, c.outputs * (share + 1) // c.shares):
        rolled()
        source = c.x + sample * c.x_sample + channel * c.x_channel
        target = c.out + sample * c.out_sample + channel * c.out_channel
        for y in range(c.out_height):
            rolled()
            first = max(0, y * c.stride_y - c.top)
            last = min(c.height, y * c.stride_y - c.top + c.kernel_y)
            _lines(like, c, source, first, last, private + c.left * s)
            for x in range(c.out_width):
                rolled()
                window = private + x * c.stride_x * s
                value = load(narrow(like, 1), window)
                for i in range(1, c.kernel_x):
                    other = load(narrow(like, 1), window + i * s)
                    if c.kind == MAXIMUM:
                        value = larger(other, value)
                    else:
                        value = add(value, other)
                if c.kind == MEAN:
                    divisor = c.divisor
                    if divisor == 0:
                        left = x * c.stride_x - c.left
                        divisor = (last - first) * (min(c.width, left + c.kernel_x) - max(0, left))
                    value = fill(narrow(like, 1), total(value) / number(like, divisor))
                store(value, target + (y * c.out_width + x) * s)


@inline
def _lines(like, c, source, first, last, target):
    """The largest or the sum of some lines, in each column."""
    s = size_of(narrow(like, 1))
    done = 0
    while done < c.width:
        rolled()
        if c.width - done >= LANES:
            value = load(like, source + (first * c.width + done) * s)
            for y in range(first + 1, last):
                other = load(like, source + (y * c.width + done) * s)
                if c.kind == MAXIMUM:
                    value = larger(other, value)
                else:
                    value = add(value, other)
            store(value, target + done * s)
            done += LANES
        else:
            one = load(narrow(like, 1), source + (first * c.width + done) * s)
            for y in range(first + 1, last):
                more = load(narrow(like, 1), source + (y * c.width + done) * s)
                if c.kind == MAXIMUM:
                    one = larger(more, one)
                else:
                    one = add(one, more)
            store(one, target + done * s)
            done += 1


@inline
def _run(like, address):
    job = carray(at(address), 1, JOB)[0]
    s = size_of(narrow(like, 1))
    me = take_number(address + 8)
    private = job.private + me * job.private_size * s
    for i in range(job.begin, job.end):
        rolled()
        c = carray(at(job.code + i * INSTRUCTION_BYTES), 1, INSTRUCTION)[0]
        while True:
            rolled()
            unit = take_number(job.taken + 8 * i)
            if unit >= c.units:
                break
            if c.kind == CONVOLVE:
                _convolve(like, c, unit, private)
            else:
                _pool(like, c, unit, private)
        if job.team > 1 and i + 1 < job.end:
            wait_for_all(job.barrier, job.team)


def _run_float32(address):
    _run(splat(np.float32(0), 16), address)


def _run_float64(address):
    _run(splat(np.float64(0), 16), address)


run = Kernel(JOB, float32=_run_float32, float64=_run_float64)
