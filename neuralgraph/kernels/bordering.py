"""Sources of a sparse layer as a thread keeps them: lines with zeros around them, phases of strided maps, several samples."""

from __future__ import annotations

from .lanes import evens, transpose
from .one_map import number
from .parts import inline
from .vector import fill, load, load_index, load_scalar, narrow, rolled, size_of, store, store_scalar

LANES = 16


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
            store(evens(like, load(like, left), load(like, left + LANES * s), 1), target + done * s)
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
def turned(like, source, source_row, target, count):
    """``count`` numbers, at least a register of them, of each of as many maps, turned to one register for each place."""
    s = size_of(narrow(like, 1))
    done = 0
    while done < count:
        rolled()
        if count - done < LANES:  # overlaps what is done
            done = count - LANES
        transpose(like, source + done * s, source_row, target + done * LANES * s, LANES * s)
        done += LANES


@inline
def _bordered_sixteen(like, c, source, target, row0, row1, top):
    """As :func:`_bordered`, of sixteen samples number by number, from such maps without borders, from line ``top`` on."""
    step = size_of(like)
    zero = fill(like, 0.0)
    for line in range(c.lines):
        rolled()
        y = line * c.stride_y + row0
        to = target + line * c.pitch * step
        for i in range(c.pitch):
            x = i * c.stride_x + row1 - c.left
            value = zero
            if 0 <= y < c.height and 0 <= x < c.width:
                value = load(like, source + ((y - top) * c.width + x) * step)
            store(value, to + i * step)
    for i in range(c.tail):
        store(zero, target + (c.lines * c.pitch + i) * step)


@inline
def gather(like, c, tile, band, block, samples, scratch, buffer):
    """Copies the channels of a block, as far as a unit of work reads them, into the thread's own memory."""
    s = size_of(narrow(like, 1))
    begin, end = load_index(c.channels + 4 * block), load_index(c.channels + 4 * block + 4)
    for place in range(begin, end):
        rolled()
        source = c.x + tile * c.samples * c.x_sample + load_index(c.channel + 4 * place) * c.x_channel
        top = max(0, band * c.band * c.stride_y - c.top)
        bottom = min(c.height, band * c.band * c.stride_y - c.top + c.lines * c.stride_y)
        is_turned = c.pixel == LANES and samples == LANES and (bottom - top) * c.width >= LANES
        if is_turned:
            turned(like, source + top * c.width * s, c.x_sample, buffer, (bottom - top) * c.width)
        for phase in range(c.phases):
            rolled()
            phase_y, phase_x = load_index(c.phase + 8 * phase), load_index(c.phase + 8 * phase + 4)
            row = scratch + ((place - begin) * c.phases + phase) * c.row * s
            y = band * c.band * c.stride_y + phase_y - c.top
            if is_turned:
                _bordered_sixteen(like, c, buffer, row, y, phase_x, top)
            else:
                for sample in range(samples):
                    rolled()
                    _bordered(like, c, source + sample * c.x_sample, row + sample * c.sample * s, y, phase_x)


@inline
def gather_tokens(like, c, tile, block, samples, scratch):
    """As :func:`gather`, for maps of one pixel that lie beside each other: tokens of a linear layer."""
    s = size_of(narrow(like, 1))
    begin, end = load_index(c.channels + 4 * block), load_index(c.channels + 4 * block + 4)
    x = c.x + tile * c.samples * c.x_sample
    place = begin
    while place < end:
        rolled()
        channel, done = load_index(c.channel + 4 * place), 0
        target = scratch + (place - begin) * c.row * s
        together = 1
        if end - place >= LANES and c.x_channel == s and load_index(c.channel + 4 * (place + LANES - 1)) == channel + LANES - 1:
            together = LANES
            while samples - done >= LANES:
                rolled()
                transpose(like, x + done * c.x_sample + channel * s, c.x_sample, target + done * s, c.row * s)
                done += LANES
        for sample in range(done, samples):
            rolled()
            for i in range(together):
                store_scalar(like, target + (i * c.row + sample) * s,
                             load_scalar(like, x + sample * c.x_sample + (channel + i) * c.x_channel))
        place += together
