"""Runs compiled layers: a list of instructions, each a sparse convolution, a pooling or a sum of maps.

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

from .launch import Kernel
from .one_map import activate, number
from .record import record
from .sums import sum_piece
from .vector import (
    add,
    at,
    call,
    evens,
    fill,
    fma,
    inline,
    larger,
    load,
    load_index,
    load_scalar,
    narrow,
    rolled,
    size_of,
    splat,
    store,
    store_scalar,
    take_number,
    total,
    wait_for_all,
)

CONVOLVE, MAXIMUM, MEAN = range(3)
LANES = 16
SLACK = 256  # numbers that may be read after the last row of a scratch, and written after a row of sums

JOB = record("team code begin end private private_size barrier taken")
INSTRUCTION = np.dtype([(name, np.int64) for name in (
    "kind", "batch", "units", "x", "x_sample", "x_channel", "out", "out_sample", "out_channel", "other", "other_sample",
    "other_channel", "bias", "function", "samples", "bands", "band", "shares", "outputs", "height", "width",
    "out_height", "out_width", "stride_y", "stride_x", "top", "left", "phases", "phase", "lines", "pitch", "tail",
    "pixel", "sample", "row", "direct", "channels", "channel", "first", "index", "weight", "kernel_y", "kernel_x",
    "divisor", "sums", "blocks", "together", "order")]
    + [("slope", np.float64)])
INSTRUCTION_BYTES = INSTRUCTION.itemsize


@inline
def _zero(like, target, count):
    s = size_of(narrow(like, 1))
    for i in range(count):
        store_scalar(like, target + i * s, number(like, 0.0))


@inline
def _copy(like, source, step, target, count):
    """``count`` numbers, every ``step``-th of the source, one after the other."""
    s, done = size_of(narrow(like, 1)), 0
    if step == 1:
        done = count // LANES * LANES
        for i in range(0, done, LANES):
            store(load(like, source + i * s), target + i * s)
    elif step == 2:
        while done + LANES < count:  # never the last, whose neighbour may be outside
            left = source + 2 * done * s
            store(evens(load(like, left), load(like, left + LANES * s)), target + done * s)
            done += LANES
    for i in range(done, count):
        store_scalar(like, target + i * s, load_scalar(like, source + i * step * s))


@inline
def _bordered(like, c, source, target, row0, row1):
    """One phase of one channel of one sample: its lines with zeros around them; ``row0``, ``row1``: the phase."""
    s = size_of(narrow(like, 1))
    step = c.pixel * s
    low = max(0, (c.left - row1 + c.stride_x - 1) // c.stride_x)
    high = min(c.pitch, (c.width + c.left - row1 + c.stride_x - 1) // c.stride_x)
    for line in range(c.lines):
        rolled()
        y = line * c.stride_y + row0
        to = target + line * c.pitch * step
        if y < 0 or y >= c.height or high <= low:
            if c.pixel == 1:
                _zero(like, to, c.pitch)
            else:
                for i in range(c.pitch):
                    store_scalar(like, to + i * step, number(like, 0.0))
            continue
        start = source + (y * c.width + low * c.stride_x + row1 - c.left) * s
        if c.pixel == 1:
            _zero(like, to, low)
            _copy(like, start, c.stride_x, to + low * s, high - low)
            _zero(like, to + high * s, c.pitch - high)
        else:
            for i in range(low):
                store_scalar(like, to + i * step, number(like, 0.0))
            for i in range(high - low):
                store_scalar(like, to + (low + i) * step, load_scalar(like, start + i * c.stride_x * s))
            for i in range(high, c.pitch):
                store_scalar(like, to + i * step, number(like, 0.0))
    end = target + c.lines * c.pitch * step
    for i in range(c.tail):
        store_scalar(like, end + i * step, number(like, 0.0))


@inline
def _gather(like, c, tile, band, block, samples, scratch):
    """Copies the channels of a block, as far as a unit of work reads them, into the thread's own memory."""
    s = size_of(narrow(like, 1))
    begin, end = load_index(c.channels + 4 * block), load_index(c.channels + 4 * block + 4)
    for place in range(begin, end):
        rolled()
        channel = load_index(c.channel + 4 * place)
        for phase in range(c.phases):
            rolled()
            phase_y, phase_x = load_index(c.phase + 8 * phase), load_index(c.phase + 8 * phase + 4)
            row = scratch + ((place - begin) * c.phases + phase) * c.row * s
            y = band * c.band * c.stride_y + phase_y - c.top
            for sample in range(samples):
                rolled()
                source = c.x + (tile * c.samples + sample) * c.x_sample + channel * c.x_channel
                _bordered(like, c, source, row + sample * c.sample * s, y, phase_x)


@inline
def _gather_tokens(like, c, tile, block, samples, scratch):
    """As :func:`_gather`, for maps of one pixel that lie beside each other: tokens of a linear layer."""
    s = size_of(narrow(like, 1))
    begin, end = load_index(c.channels + 4 * block), load_index(c.channels + 4 * block + 4)
    for sample in range(samples):
        rolled()
        source = c.x + (tile * c.samples + sample) * c.x_sample
        for place in range(begin, end):
            store_scalar(like, scratch + ((place - begin) * c.row + sample) * s,
                         load_scalar(like, source + load_index(c.channel + 4 * place) * c.x_channel))


@inline
def _eight(like, x, first, last, index, weight, out):
    """Adds weighted rows to a row, eight vectors wide."""
    wide, s = size_of(like), size_of(narrow(like, 1))
    a, b, c, d = load(like, out), load(like, out + wide), load(like, out + 2 * wide), load(like, out + 3 * wide)
    e, f, g, h = (load(like, out + 4 * wide), load(like, out + 5 * wide), load(like, out + 6 * wide),
                  load(like, out + 7 * wide))
    for edge in range(first, last):
        w = fill(like, load_scalar(like, weight + edge * s))
        row = x + load_index(index + 4 * edge) * s
        a = fma(w, load(like, row), a)
        b = fma(w, load(like, row + wide), b)
        c = fma(w, load(like, row + 2 * wide), c)
        d = fma(w, load(like, row + 3 * wide), d)
        e = fma(w, load(like, row + 4 * wide), e)
        f = fma(w, load(like, row + 5 * wide), f)
        g = fma(w, load(like, row + 6 * wide), g)
        h = fma(w, load(like, row + 7 * wide), h)
    store(a, out)
    store(b, out + wide)
    store(c, out + 2 * wide)
    store(d, out + 3 * wide)
    store(e, out + 4 * wide)
    store(f, out + 5 * wide)
    store(g, out + 6 * wide)
    store(h, out + 7 * wide)


@inline
def _add_row(like, c, x, row, sums, length):
    """Adds the weighted sum of the edges of ``row`` to ``length`` numbers."""
    s = size_of(narrow(like, 1))
    first, last = load_index(c.first + 4 * row), load_index(c.first + 4 * row + 4)
    if first == last:
        return
    done = 0
    while length - done >= 128:
        rolled()
        _eight(like, x + done * s, first, last, c.index, c.weight, sums + done * s)
        done += 128
    while done < length:
        rolled()
        width = 64
        while width > length - done:
            width //= 2
        sum_piece(like, width, x + done * s, s, c.first, c.index, c.weight, sums + done * s, 0, row, row + 1, True)
        done += width


@inline
def _four_by_four(like, x, first, last, index, weight, out, out_row):
    """Adds rows to four rows, each weighted in four ways, four vectors wide."""
    wide, s = size_of(like), size_of(narrow(like, 1))
    two, three = out + 2 * out_row, out + 3 * out_row
    one = out + out_row
    a, b, c, d = load(like, out), load(like, out + wide), load(like, out + 2 * wide), load(like, out + 3 * wide)
    e, f, g, h = load(like, one), load(like, one + wide), load(like, one + 2 * wide), load(like, one + 3 * wide)
    i, j, k, m = load(like, two), load(like, two + wide), load(like, two + 2 * wide), load(like, two + 3 * wide)
    n, o, p, q = load(like, three), load(like, three + wide), load(like, three + 2 * wide), load(like, three + 3 * wide)
    for edge in range(first, last):
        row, place = x + load_index(index + 4 * edge) * s, weight + 4 * edge * s
        r, t, u, v = load(like, row), load(like, row + wide), load(like, row + 2 * wide), load(like, row + 3 * wide)
        w = fill(like, load_scalar(like, place))
        a, b, c, d = fma(w, r, a), fma(w, t, b), fma(w, u, c), fma(w, v, d)
        w = fill(like, load_scalar(like, place + s))
        e, f, g, h = fma(w, r, e), fma(w, t, f), fma(w, u, g), fma(w, v, h)
        w = fill(like, load_scalar(like, place + 2 * s))
        i, j, k, m = fma(w, r, i), fma(w, t, j), fma(w, u, k), fma(w, v, m)
        w = fill(like, load_scalar(like, place + 3 * s))
        n, o, p, q = fma(w, r, n), fma(w, t, o), fma(w, u, p), fma(w, v, q)
    _store4(a, b, c, d, out, wide)
    _store4(e, f, g, h, one, wide)
    _store4(i, j, k, m, two, wide)
    _store4(n, o, p, q, three, wide)


@inline
def _store4(a, b, c, d, target, wide):
    store(a, target)
    store(b, target + wide)
    store(c, target + 2 * wide)
    store(d, target + 3 * wide)


@inline
def _four_by_one(like, x, first, last, index, weight, out, out_row):
    """As :func:`_four_by_four`, one vector wide."""
    s = size_of(narrow(like, 1))
    a, b = load(like, out), load(like, out + out_row)
    c, d = load(like, out + 2 * out_row), load(like, out + 3 * out_row)
    for edge in range(first, last):
        value, place = load(like, x + load_index(index + 4 * edge) * s), weight + 4 * edge * s
        a = fma(fill(like, load_scalar(like, place)), value, a)
        b = fma(fill(like, load_scalar(like, place + s)), value, b)
        c = fma(fill(like, load_scalar(like, place + 2 * s)), value, c)
        d = fma(fill(like, load_scalar(like, place + 3 * s)), value, d)
    _store4(a, b, c, d, out, out_row)


@inline
def _add_four(like, c, x, row, sums, sums_row, length):
    """As :func:`_add_row`, to four rows that have the same edges, with four weights each."""
    s = size_of(narrow(like, 1))
    first, last = load_index(c.first + 4 * row), load_index(c.first + 4 * row + 4)
    if first == last:
        return
    done = 0
    while length - done >= 4 * LANES:
        rolled()
        _four_by_four(like, x + done * s, first, last, c.index, c.weight, sums + done * s, sums_row)
        done += 4 * LANES
    while done < length:
        rolled()
        if length - done >= LANES or c.direct == 0:  # in a scratch more may be read than is asked for
            _four_by_one(like, x + done * s, first, last, c.index, c.weight, sums + done * s, sums_row)
            done += LANES
        else:
            _four_by_one(narrow(like, 1), x + done * s, first, last, c.index, c.weight, sums + done * s, sums_row)
            done += 1


@inline
def _finish(like, source, step, other, target, count, slope):
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
            store(activate(like, u, slope), target + i * s)
    for i in range(body, count):
        u1 = load(one, source + i * step * s)
        if other != 0:
            u1 = add(u1, load(one, other + i * s))
        store(activate(one, u1, slope), target + i * s)


@inline
def _finish_tokens(like, c, source, other, target, samples, slope):
    """As :func:`_finish`, one number of each sample."""
    one = narrow(like, 1)
    s = size_of(one)
    for i in range(samples):
        u1 = load(one, source + i * s)
        if other != 0:
            u1 = add(u1, load(one, other + i * c.other_sample))
        store(activate(one, u1, slope), target + i * c.out_sample)


@inline
def _deliver(like, c, tile, band, lines, output, samples, sums, length):
    """One output channel: what is added, and the activation; from the row of sums to the maps of the result."""
    s = size_of(narrow(like, 1))
    slope = c.slope
    if c.function != 0:
        call(c.function, sums, sums, length, 0)
    target = c.out + tile * c.samples * c.out_sample + output * c.out_channel
    other = 0
    if c.other != 0:
        other = c.other + tile * c.samples * c.other_sample + output * c.other_channel
    if c.out_height * c.out_width == 1 and c.sample == 1:
        _finish_tokens(like, c, sums, other, target, samples, slope)
        return
    start = band * c.band * c.out_width * s
    count = c.out_width
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
            _finish(like, sums + (sample * c.sample + line * c.pitch * c.pixel) * s, c.pixel, added,
                    target + sample * c.out_sample + place, count, slope)


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
        elif c.height * c.width == 1 and c.sample == 1:
            _gather_tokens(like, c, tile, share * c.blocks + block, samples, x)
        else:
            _gather(like, c, tile, band, share * c.blocks + block, samples, x)
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
                _add_row(like, c, x, first + row, sums, length)
            else:
                _add_four(like, c, x, first + row, sums, wide * s, length)
            if block == c.blocks - 1:
                for output in range(together):
                    rolled()
                    number = row * together + output
                    if number < c.outputs:
                        _deliver(like, c, tile, band, lines, load_index(c.order + 4 * number), samples,
                                 sums + output * wide * s, length)


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
