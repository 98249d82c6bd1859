"""What the compiled sums do, by torch's own operations."""

from __future__ import annotations

import torch

CHUNK = 2**22  # products held at once


def weighted_sums(x, first, index, weight):
    """As :func:`neuralgraph.kernels.sums.weighted_sums`."""
    batch, n, length = x.shape
    matrix = torch.sparse_csr_tensor(first.long(), index.long(), weight, (len(first) - 1, n))
    sums = matrix @ channel_rows(x)
    return sums.unflatten(1, (batch, length)).transpose(0, 1)


def weighted_sums_into(out, x, first, index, weight, onto):
    """As :func:`neuralgraph.kernels.sums.weighted_sums_into`."""
    sums = weighted_sums(x, first, index, weight)
    out.add_(sums) if onto else out.copy_(sums)


def edge_dots(x, y, src, dst):
    """As :func:`neuralgraph.kernels.sums.edge_dots`."""
    chunk = max(1, CHUNK // max(1, x.shape[0] * x.shape[2]))
    parts = [(x[:, s.long()] * y[:, d.long()]).sum((0, 2))
             for s, d in zip(src.split(chunk), dst.split(chunk))]
    return torch.cat(parts) if parts else x.new_zeros(0)


def factor_terms():
    """As :func:`neuralgraph.kernels.matrix_units.factor_terms`."""
    return 0


def channel_rows(x):
    """As :func:`neuralgraph.kernels.rows.channel_rows`."""
    return x.transpose(0, 1).flatten(1)


def by_row(kept, row, other, num_rows):
    """Of the edges that are ``kept``: the first of each row, the other ends, their numbers."""
    place = kept.nonzero().flatten()
    place = place[row[place].argsort(stable=True)]
    return _first(row[place], num_rows), other[place], place.int()


def by_entry(kept, entries, rows, columns):
    """The same of edges that are entries of a matrix in ascending order, or all entries where there are none given."""
    place = kept.nonzero().flatten()
    entries = place if entries is None else entries[place].long()
    before = torch.arange(rows + 1, device="cpu") * columns  # entries before each row
    first = torch.searchsorted(entries, before)
    index = entries - before[:-1].repeat_interleave(first.diff())
    return first.int(), index.int(), place.int()


def by_other_end(first, index, place, num_rows):
    """The same edges sorted by ``index``."""
    rows = torch.arange(len(first) - 1, dtype=torch.int32, device="cpu").repeat_interleave(first.diff())
    order = index.argsort(stable=True)
    return _first(index, num_rows), rows[order], place[order]


def _first(rows, num_rows):
    first = torch.zeros(num_rows + 1, dtype=torch.int32, device="cpu")
    first[1:] = torch.bincount(rows, minlength=num_rows).cumsum(0)
    return first


def swap_ends(src, dst, present, allowed, kind, first, second):
    """Double edge swaps: a -> b, c -> d become a -> d, c -> b, one pair after another.

    A pair stays as it is where one of the new edges is there already or has no allowed position, or where
    neither b and d nor a and c are of one ``kind``.

    Args:
        src, dst: the ends of the edges, int64 (E,); ``dst`` changes.
        present: which edges there are, bool (V, V) [src, dst]; changes with them.
        allowed: which there may be, bool (V, V).
        kind: of each node, int64 (V,).
        first, second: the pairs of edges, int64 (P,).

    Returns:
        The number of pairs that were swapped.
    """
    swapped = 0
    for number in range(len(first)):
        one, other = first[number], second[number]
        a, b, c, d = src[one], dst[one], src[other], dst[other]
        if present[a, d] or present[c, b] or not allowed[a, d] or not allowed[c, b]:
            continue
        if kind[b] != kind[d] and kind[a] != kind[c]:
            continue
        present[a, b] = present[c, d] = False
        present[a, d] = present[c, b] = True
        dst[one], dst[other] = d, b
        swapped += 1
    return swapped
