"""Counting sorts of edges, compiled."""

from __future__ import annotations

import numpy as np
import torch

from .keeping import compiled


def by_row(kept, row, other, num_rows):
    """As :func:`neuralgraph.kernels.plain.by_row`."""
    place = np.flatnonzero(kept.numpy())
    lists = _by_row(place, row.numpy(), other.numpy(), num_rows)
    return tuple(map(torch.from_numpy, lists))


def by_entry(kept, entries, rows, columns):
    """As :func:`neuralgraph.kernels.plain.by_entry`."""
    place = np.flatnonzero(kept.numpy())
    entries = place if entries is None else entries.numpy()[place].astype(np.int64)
    return tuple(map(torch.from_numpy, _by_entry(place, entries, rows, columns)))


def by_other_end(first, index, place, num_rows):
    """As :func:`neuralgraph.kernels.plain.by_other_end`."""
    lists = _by_other_end(first.numpy(), index.numpy(), place.numpy(), num_rows)
    return tuple(map(torch.from_numpy, lists))


@compiled
def _by_row(edges, row, other, num_rows):
    first = np.zeros(num_rows + 1, np.int32)
    for edge in edges:
        first[row[edge] + 1] += 1
    for v in range(num_rows):
        first[v + 1] += first[v]
    index = np.empty(len(edges), np.int32)
    place = np.empty(len(edges), np.int32)
    free = first[:-1].copy()
    for edge in edges:
        slot = free[row[edge]]
        free[row[edge]] = slot + 1
        index[slot] = other[edge]
        place[slot] = edge
    return first, index, place


@compiled
def _by_entry(place, entries, rows, columns):
    first = np.empty(rows + 1, np.int32)
    index = np.empty(len(place), np.int32)
    places = np.empty(len(place), np.int32)
    edge = 0
    for row in range(rows):
        first[row] = edge
        begin, end = row * columns, (row + 1) * columns
        while edge < len(place) and entries[edge] < end:
            index[edge] = entries[edge] - begin
            places[edge] = place[edge]
            edge += 1
    first[rows] = edge
    return first, index, places


@compiled
def _by_other_end(first, index, place, num_rows):
    starts = np.zeros(num_rows + 1, np.int32)
    for other in index:
        starts[other + 1] += 1
    for u in range(num_rows):
        starts[u + 1] += starts[u]
    ends = np.empty_like(index)
    places = np.empty_like(place)
    free = starts[:-1].copy()
    for v in range(len(first) - 1):
        for e in range(first[v], first[v + 1]):
            slot = free[index[e]]
            free[index[e]] = slot + 1
            ends[slot] = v
            places[slot] = place[e]
    return starts, ends, places
