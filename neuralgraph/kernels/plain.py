"""What the compiled sums do, by torch's own operations."""

from __future__ import annotations

import torch

CHUNK = 2**22  # products held at once


def weighted_sums(x, first, index, weight):
    """As :func:`neuralgraph.kernels.sums.weighted_sums`."""
    batch, n, length = x.shape
    matrix = torch.sparse_csr_tensor(first.long(), index.long(), weight, (len(first) - 1, n))
    sums = matrix @ joined(x)
    return sums.unflatten(1, (batch, length)).transpose(0, 1)


def edge_dots(x, y, src, dst):
    """As :func:`neuralgraph.kernels.sums.edge_dots`."""
    chunk = max(1, CHUNK // max(1, x.shape[0] * x.shape[2]))
    parts = [(x[:, s.long()] * y[:, d.long()]).sum((0, 2))
             for s, d in zip(src.split(chunk), dst.split(chunk))]
    return torch.cat(parts) if parts else x.new_zeros(0)


def joined(x):
    """As :func:`neuralgraph.kernels.sums.joined`."""
    return x.transpose(0, 1).flatten(1)


def by_row(kept, row, other, num_rows):
    """Of the edges that are ``kept``: the first of each row, the other ends, their places."""
    place = kept.nonzero().flatten()
    place = place[row[place].argsort(stable=True)]
    return _first(row[place], num_rows), other[place], place.int()


def by_other_end(first, index, place, num_rows):
    """The same edges sorted by ``index``."""
    rows = torch.arange(len(first) - 1, dtype=torch.int32, device="cpu").repeat_interleave(first.diff())
    order = index.argsort(stable=True)
    return _first(index, num_rows), rows[order], place[order]


def _first(rows, num_rows):
    first = torch.zeros(num_rows + 1, dtype=torch.int32, device="cpu")
    first[1:] = torch.bincount(rows, minlength=num_rows).cumsum(0)
    return first
