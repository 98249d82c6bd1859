"""The largest of many numbers without sorting them."""

from __future__ import annotations

import numpy as np
import torch
from numba import carray, types

from .keeping import compiled
from .launch import Kernel
from .parts import inline
from .record import record
from .vector import (
    at,
    fill,
    lanes_of,
    load,
    load_scalar,
    magnitude,
    mark_above,
    narrow,
    rolled,
    size_of,
    splat,
    take_number,
    trailing_zeros,
)

SAMPLE = 2**14
SPLIT = record("values n by_magnitude bounds parts mask inside counts")


@inline
def _split(like, address):
    """Marks what is above a bracket, and lists what is inside."""
    a = carray(at(address), 1, SPLIT)[0]
    s = size_of(narrow(like, 1))
    values, n, by_magnitude, bounds, parts, mask = a.values, a.n, a.by_magnitude, a.bounds, a.parts, a.mask
    inside = carray(at(a.inside), n, types.int32)
    counts = carray(at(a.counts), 2 * parts, types.int64)
    low, high = load_scalar(like, bounds), load_scalar(like, bounds + s)
    lanes, one = lanes_of(like), narrow(like, 1)
    lows, highs = fill(like, low), fill(like, high)
    while True:
        rolled()
        part = take_number(address)
        if part >= parts:
            return
        begin, end = part * n // parts, (part + 1) * n // parts
        above, found = 0, begin
        body = begin + (end - begin) // lanes * lanes
        for i in range(begin, body, lanes):
            rolled()
            value = load(like, values + i * s)
            if by_magnitude:
                value = magnitude(value)
            marks = mark_above(value, lows, highs, mask + i)
            above += marks >> 16
            marks &= 65535
            while marks:
                lane = trailing_zeros(marks)
                marks &= marks - 1
                inside[found] = i + lane
                found += 1
        for i in range(body, end):
            value = load(one, values + i * s)
            if by_magnitude:
                value = magnitude(value)
            marks = mark_above(value, fill(one, low), fill(one, high), mask + i)
            above += marks >> 16
            if marks & 65535:
                inside[found] = i
                found += 1
        counts[2 * part] = above
        counts[2 * part + 1] = found - begin


def _split_float32(address):
    _split(splat(np.float32(0), 16), address)


def _split_float64(address):
    _split(splat(np.float64(0), 16), address)


_run_split = Kernel(SPLIT, float32=_split_float32, float64=_split_float64)


def bracketed_top_k(values: torch.Tensor, k: int, by_magnitude: bool) -> torch.Tensor | None:
    """The mask of the k largest values (or magnitudes), of equal ones the last; None if luck fails.

    A sample brackets the k-th largest; one pass marks what is above the bracket and lists what is
    inside, a small part, which alone is ranked. Luck fails where the sample misleads.

    Args:
        values: (n,), finite, contiguous, float32 or float64, n of at least ``SAMPLE``.
        k: from 1 to n.
    """
    array, n = values.numpy(), len(values)
    sample = array[::max(1, n // SAMPLE)]
    if by_magnitude:
        sample = np.abs(sample)
    m, share = len(sample), k / n
    slack = 4 * np.sqrt(m * share * (1 - share)) + 8
    low, high = int(m - share * m - slack), int(m - share * m + slack)
    ranks = [max(low, 0), min(high, m - 1)]
    bounds = np.partition(sample, ranks)[ranks]
    if low < 0:
        bounds[0] = -np.inf
    if high > m - 1:
        bounds[1] = np.inf
    parts = 8 * torch.get_num_threads()
    mask = torch.empty(n, dtype=torch.bool, device="cpu")
    inside = np.empty(n, np.int32)
    counts = np.empty((parts, 2), np.int64)
    _run_split(values.dtype, parts, _run_split.fields(
        values=values.data_ptr(), n=n, by_magnitude=by_magnitude, bounds=bounds.ctypes.data, parts=parts,
        mask=mask.data_ptr(), inside=inside.ctypes.data, counts=counts.ctypes.data), n)
    missing = k - int(counts[:, 0].sum())
    places = np.concatenate([inside[part * n // parts:][:found]
                             for part, found in enumerate(counts[:, 1].tolist())])
    if not 0 <= missing <= len(places):
        return None
    if missing:
        scores = np.abs(array[places]) if by_magnitude else array[places]
        threshold = np.partition(scores, len(scores) - missing)[len(scores) - missing]
        marks = mask.numpy()
        marks[places[scores > threshold]] = True
        tied = places[scores == threshold]
        marks[tied[len(tied) - (missing - int((scores > threshold).sum())):]] = True
    return mask


def top_of_groups(score: torch.Tensor, size: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """The mask (n,) of the largest scores of each group, of equal ones the last.

    Args:
        score: (n,), not nan, float32 or float64, group after group.
        size: how many are of each group, int64 (G,).
        keep: how many of them are largest, int64 (G,).
    """
    mask = torch.zeros(len(score), dtype=torch.bool, device="cpu")
    _mark_top(score.contiguous().numpy(), size.numpy(), keep.numpy(), mask.numpy())
    return mask


@compiled
def _mark_top(score, size, keep, mask):
    first = 0
    for group in range(len(size)):
        n, missing = size[group], keep[group]
        own, marks = score[first:first + n], mask[first:first + n]
        first += n
        if missing == 0:
            continue
        threshold = np.partition(own, n - missing)[n - missing]
        for i in range(n):
            if own[i] > threshold:
                marks[i] = True
                missing -= 1
        for i in range(n - 1, -1, -1):
            if missing == 0:
                break
            if own[i] == threshold:
                marks[i] = True
                missing -= 1
