"""Sums and products of the parents of a compiled network's nodes, as functions of addresses."""

from __future__ import annotations

from numba import carray

from .four_sums import four_narrow_sums, four_sums, four_wide_sums
from .halves import bytes_of, load_as
from .instructions import INSTRUCTION, LANES, PASS
from .parts import called
from .sums import sum_piece
from .vector import at, fill, load_index, load_scalar, mul, narrow, rolled, room_of, size_of, splat, store


@called
def sum_row(zero, stored, space, code, node, row, length):
    """The weighted sum of the parents of a node of the instruction at ``code``, ``length`` numbers.

    Args:
        stored: how the rows of the parents are stored, see :mod:`~.halves`.
    """
    like, instruction = splat(zero, 16), carray(at(code), 1, INSTRUCTION)[0]
    s, t = size_of(narrow(like, 1)), bytes_of(stored)
    done = 0
    while done < length:
        rolled()
        width = 64
        while width > length - done:
            width //= 2
        # rows are named in units of 16 numbers
        sum_piece(like, stored, width, space + done * t, LANES * t, instruction.first, instruction.index,
                  instruction.weight, row + done * s, 0, node, node + 1, False, instruction.bias, instruction.slope)
        done += width


@called
def four_rows(zero, stored, x, stride, code, four, row, next_row, length):
    """The weighted sums of four nodes over the same rows at ``x``, each ``length`` numbers, or up to 15 more.

    Args:
        stored: how the rows at x are stored, see :mod:`~.halves`.
        stride: bytes that an index stands for.
        row, next_row: where the first sum goes, and bytes from one to the next.
    """
    like, instruction = splat(zero, 16), carray(at(code), 1, INSTRUCTION)[0]
    s, t = size_of(narrow(like, 1)), bytes_of(stored)
    begin = load_index(instruction.first + 4 * four)
    end = load_index(instruction.first + 4 * four + 4)
    index, weight, bias, slope = instruction.index, instruction.weight, instruction.bias + 4 * four * s, instruction.slope
    room = room_of(like)  # for sums, the weight and what is read, as many numbers as possible at a time
    done = 0
    while done < length:
        rolled()
        if room >= 512 and length - done >= 4 * LANES:
            four_wide_sums(like, stored, x + done * t, stride, index, weight, row + done * s, next_row, begin, end, bias, slope)
            done += 4 * LANES
        elif room >= 256 and length - done >= 2 * LANES:
            four_sums(like, stored, x + done * t, stride, index, weight, row + done * s, next_row, begin, end, bias, slope)
            done += 2 * LANES
        elif room >= 128:
            four_narrow_sums(like, stored, x + done * t, stride, index, weight, row + done * s, next_row, begin, end, bias,
                             slope)
            done += LANES
        else:
            four_narrow_sums(narrow(like, 8), stored, x + done * t, stride, index, weight, row + done * s, next_row, begin, end,
                             bias, slope)
            done += 8


@called
def product_row(zero, stored, space, code, node, row, length):
    """The product of a node's weighted parents, ``length`` numbers, a multiple of the lanes."""
    like, instruction = splat(zero, 16), carray(at(code), 1, INSTRUCTION)[0]
    s = size_of(narrow(like, 1))
    first = load_index(instruction.first + 4 * node)
    last = load_index(instruction.first + 4 * node + 4)
    for i in range(0, length, LANES):
        rolled()
        value = fill(like, 1.0)
        for e in range(first, last):
            weight = fill(like, load_scalar(like, instruction.weight + e * s))
            parent = space + (load_index(instruction.index + 4 * e) * LANES + i) * bytes_of(stored)
            value = mul(value, mul(weight, load_as(like, stored, parent)))
        store(value, row + i * s)


@called
def stem_rows(zero, space, code, four, row, next_row, samples, begin, end):
    """Four filters of the bordered maps of the data; an index is a place in them, for the first pixel of the first row."""
    s = size_of(narrow(splat(zero, 16), 1))
    p = carray(at(carray(at(code), 1, INSTRUCTION)[0].frame), 1, PASS)[0]
    width = p.out_width * samples
    for y in range(begin, end):
        rolled()
        four_rows(zero, zero, space + (p.scratch + y * p.stride * p.stride * p.pitch) * s, s, code, four, row + y * width * s,
                  next_row, width)
