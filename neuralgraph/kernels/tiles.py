"""Maps of several samples as one, pixel by pixel, and back; the data's maps with zeros around them."""

from __future__ import annotations

from numba import carray

from .instructions import INSTRUCTION, PASS
from .lanes import transpose
from .one_map import affine_bordered, number
from .parts import called, inline
from .vector import at, fill, load_scalar, narrow, rolled, size_of, splat, store, store_scalar


@inline
def _move(like, maps, map_bytes, samples, step, tile, pixels, back):
    """Maps of ``samples`` samples to a tile, pixel by pixel, or back; of its ``step`` samples those that are missing are 0.

    ``like`` has ``step`` lanes; from one sample's map to the next are ``map_bytes``.
    """
    s, wide = size_of(narrow(like, 1)), size_of(like)
    done = 0
    if samples == step:
        done = pixels // step * step
        for i in range(0, done, step):
            rolled()
            if back:
                transpose(like, tile + i * wide, wide, maps + i * s, map_bytes)
            else:
                transpose(like, maps + i * s, map_bytes, tile + i * wide, wide)
    for i in range(done, pixels):
        rolled()
        if not back:
            store(fill(like, 0.0), tile + i * wide)
        for sample in range(samples):
            inside, outside = tile + i * wide + sample * s, maps + sample * map_bytes + i * s
            if back:
                store_scalar(like, outside, load_scalar(like, inside))
            else:
                store_scalar(like, inside, load_scalar(like, outside))


@called
def move(zero, maps, map_bytes, samples, step, tile, pixels, back):
    """As :func:`_move`, for any step."""
    like = splat(zero, 16)
    if step == 1:
        _move(narrow(like, 1), maps, map_bytes, samples, step, tile, pixels, back)
    elif step == 2:
        _move(narrow(like, 2), maps, map_bytes, samples, step, tile, pixels, back)
    elif step == 4:
        _move(narrow(like, 4), maps, map_bytes, samples, step, tile, pixels, back)
    else:
        _move(narrow(like, 8), maps, map_bytes, samples, step, tile, pixels, back)


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
            move(zero, line, x_sample, samples, step, row + border * step * s, p.width, False)
        else:
            move(zero, line, x_sample, samples, step, private, p.width, False)
            for i in range(p.width):
                rolled()
                place = (i + border) % p.stride * p.pitch + (i + border) // p.stride * step
                for sample in range(step):
                    store_scalar(like, row + (place + sample) * s, load_scalar(like, private + (i * step + sample) * s))
