"""What follows the sum of a compiled network's node: norm, activation and convolution of a map, as functions of addresses."""

from __future__ import annotations

from numba import carray

from .instructions import INSTANCE, LANES, PASS, PLAIN
from .lanes import first
from .one_map import affine_bordered, convolve, number
from .parts import called, inline
from .tile_maps import affine, convolve_rows, is_swept, moments_of_each, sweep
from .vector import at, call, fill, load_scalar, mul, narrow, rolled, size_of, splat, store_scalar, sub


@called
def sweep_rows(zero, x, step, stride, kernel, out, height, width, out_width, begin, end):
    """As :func:`~.tile_maps.sweep`."""
    sweep(splat(zero, 16), x, step, stride, kernel, out, height, width, out_width, begin, end)


@called
def map_pass(zero, address, node, source, target, private, samples, ours):
    """norm, activation, convolution of the maps of one node, from ``source`` to ``target``, both contiguous.

    Args:
        ours: whether 16 numbers before and after the source may be read.
    """
    like = splat(zero, 16)
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
        source, ours = between, 1
        scale, shift, slope = fill(like, 1.0), fill(like, 0.0), 1.0
    if p.side == 0:
        if p.function == 0:
            affine(like, source, target, length, scale, shift, slope)
        return
    result = target
    if p.padded:
        result = private + p.small * s
    ready = ours and slope == 1.0 and (p.norm == PLAIN or p.function != 0)
    _convolved(like, address, node, source, result, private, samples, scale, shift, slope, ready)
    if p.padded:
        _surrounded(like, address, result, target, samples)


@inline
def _slice(like, address, node, tap, source, target, private, samples, scale, shift, slope, ready):
    """The convolution of one image with slice ``tap`` of the node's kernel; if ``ready``, scale and so on change nothing."""
    p = carray(at(address), 1, PASS)[0]
    s = size_of(narrow(like, 1))
    buffer = private + p.scratch * s
    kernel = p.kernel + (node * p.depth_side + tap) * p.side * p.side * s
    width, out_width = p.width * samples, p.out_width * samples
    if is_swept(p.side, p.stride):
        if ready:
            buffer = source
        else:
            buffer += LANES * s
            affine(like, source, buffer, p.height * width, scale, shift, slope)
        sweep(like, buffer, samples, p.stride, kernel, target, p.height, width, out_width, 0, p.out_height)
    elif samples == 1:
        affine_bordered(like, source, buffer, p.pitch, p.side // 2, p.height, width, p.stride, first(scale), first(shift),
                        slope)
        convolve(like, buffer, p.pitch, p.side, p.stride, kernel, target, p.out_height, out_width)
    else:
        convolve_rows(like, source, buffer, samples, p.side, p.stride, kernel, target, p.height, width, p.out_height, out_width,
                      scale, shift, slope)


@inline
def _convolved(like, address, node, source, target, private, samples, scale, shift, slope, ready):
    """The convolution of an image, or of a volume: a sum over slices of it and of the kernel."""
    p = carray(at(address), 1, PASS)[0]
    s = size_of(narrow(like, 1))
    area, out_area = p.height * p.width * samples, p.out_height * p.out_width * samples
    for z in range(p.out_depth):
        rolled()
        out = target + z * out_area * s
        term = out
        if p.depth_side > 1:
            term = private + p.term * s
            for i in range(out_area):
                store_scalar(like, out + i * s, number(like, 0.0))
        for tap in range(p.depth_side):
            rolled()
            place = z * p.stride + tap - p.depth_side // 2
            if 0 <= place < p.depth:
                _slice(like, address, node, tap, source + place * area * s, term, private, samples, scale, shift, slope,
                       ready)
                if p.depth_side > 1:
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
