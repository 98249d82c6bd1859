"""Sums of shifted rows, added to what stands there: of one output, and of four outputs that read the same."""

from __future__ import annotations

from .bordering import LANES
from .one_map import number
from .parts import inline
from .sums import sum_piece
from .vector import fill, fma, load, load_index, load_scalar, narrow, rolled, room_of, size_of, store


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
def add_row(like, c, x, row, sums, length):
    """Adds the weighted sum of the edges of ``row`` to ``length`` numbers."""
    s = size_of(narrow(like, 1))
    first, last = load_index(c.first + 4 * row), load_index(c.first + 4 * row + 4)
    if first == last:
        return
    done = 0
    while room_of(like) >= 256 and length - done >= 128:
        rolled()
        _eight(like, x + done * s, first, last, c.index, c.weight, sums + done * s)
        done += 128
    while done < length:
        rolled()
        width = 64
        while width > length - done:
            width //= 2
        sum_piece(like, number(like, 0.0), width, x + done * s, s, c.first, c.index, c.weight, sums + done * s, 0, row, row + 1,
                  True)
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
def add_four(like, c, x, row, sums, sums_row, length):
    """As :func:`add_row`, to four rows that have the same edges, with four weights each."""
    s = size_of(narrow(like, 1))
    first, last = load_index(c.first + 4 * row), load_index(c.first + 4 * row + 4)
    if first == last:
        return
    done = 0
    while room_of(like) >= 512 and length - done >= 4 * LANES:
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
