"""Maps of several samples as one, pixel by pixel, and back; the data's maps with zeros around them."""

from __future__ import annotations

from numba import carray

from .instructions import INSTRUCTION, PASS
from .lanes import transpose
from .one_map import affine_bordered, number
from .vector import at, called, fill, inline, load_scalar, narrow, rolled, size_of, splat, store, store_scalar


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


@called
def gathered(zero, x, x_sample, samples, step, target, pixels):
    """As :func:`_gather`, for any step."""
    like = splat(zero, 16)
    if step == 1:
        _gather(narrow(like, 1), x, x_sample, samples, step, target, pixels)
    elif step == 2:
        _gather(narrow(like, 2), x, x_sample, samples, step, target, pixels)
    elif step == 4:
        _gather(narrow(like, 4), x, x_sample, samples, step, target, pixels)
    else:
        _gather(narrow(like, 8), x, x_sample, samples, step, target, pixels)


@called
def scattered(zero, source, out, out_sample, samples, step, pixels):
    """As :func:`_scatter`, for any step but 1."""
    like = splat(zero, 16)
    if step == 2:
        _scatter(narrow(like, 2), source, out, out_sample, samples, step, pixels)
    elif step == 4:
        _scatter(narrow(like, 4), source, out, out_sample, samples, step, pixels)
    else:
        _scatter(narrow(like, 8), source, out, out_sample, samples, step, pixels)


@called
def bordered(zero, code, channel, x, x_sample, samples, step, space, private):
    """A channel of the data with zeros around it, every row as ``stride`` rows of every such pixel."""
    like = splat(zero, 16)
    s = size_of(narrow(like, 1))
    p = carray(at(carray(at(code), 1, INSTRUCTION)[0].frame), 1, PASS)[0]
    border = p.side // 2
    target = space + (p.scratch + channel * (p.height + 2 * border) * p.stride * p.pitch) * s
    if step == 1:
        affine_bordered(like, x, target, p.pitch, border, p.height, p.width, p.stride, number(like, 1.0), number(like, 0.0),
                        1.0)
        return
    for y in range(p.height):
        rolled()
        row = target + (y + border) * p.stride * p.pitch * s
        line = x + y * p.width * s
        if p.stride == 1:
            gathered(zero, line, x_sample, samples, step, row + border * step * s, p.width)
        else:
            gathered(zero, line, x_sample, samples, step, private, p.width)
            for i in range(p.width):
                rolled()
                place = (i + border) % p.stride * p.pitch + (i + border) // p.stride * step
                for sample in range(step):
                    store_scalar(like, row + (place + sample) * s, load_scalar(like, private + (i * step + sample) * s))
