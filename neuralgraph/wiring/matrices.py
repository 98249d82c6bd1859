"""Edges from adjacency matrices."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from ..errors import WiringError
from .ends import Entries, entry_type

CELLS = 2**20  # of a dense matrix, looked at at once


def entries_of(matrix: Any, weight: bool = False) -> tuple[Entries, torch.Tensor | None]:
    """The edges A[u, v] != 0 by destination, then source; with ``weight`` the values of these entries, floating point (E,).

    Raises:
        WiringError: for what is no square matrix of finite real numbers.
    """
    scipy = sys.modules.get("scipy.sparse")  # whoever has such a matrix has imported it
    if isinstance(matrix, torch.Tensor):
        matrix = matrix.detach().cpu()
        shape, kind = tuple(matrix.shape), str(matrix.dtype)
        is_real = not matrix.is_complex()
    elif (isinstance(matrix, np.ndarray) and not isinstance(matrix, np.ma.MaskedArray)) or \
            (scipy is not None and scipy.issparse(matrix)):
        shape, kind = matrix.shape, str(matrix.dtype)
        is_real = matrix.dtype.kind in "biuf"
    else:
        raise WiringError("an adjacency matrix must be a numpy array, a sparse matrix of scipy or a tensor of "
                          f"torch, got {type(matrix).__module__}.{type(matrix).__name__}.")
    if len(shape) != 2 or shape[0] != shape[1] or not is_real:
        raise WiringError("an adjacency matrix must be square with real numbers or truth values, got "
                          f"{kind} of shape {tuple(shape)}.")
    if isinstance(matrix, torch.Tensor) and matrix.layout == torch.sparse_coo and matrix.dense_dim():
        matrix = matrix.to_dense()
    if isinstance(matrix, np.ndarray) or (isinstance(matrix, torch.Tensor) and matrix.layout == torch.strided):
        entries, values = _of_dense(matrix, weight)
    else:
        entries, values = _of_sparse(matrix)
    return Entries.numbered(entries, tuple(shape)), values if weight else None


def _of_dense(matrix: np.ndarray | torch.Tensor, weight: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The numbers of the entries in the transposed matrix, and their values if they are wanted, some columns at once."""
    side = len(matrix)
    kind = entry_type((side, side))
    dtype = matrix.dtype if isinstance(matrix, torch.Tensor) and matrix.is_floating_point() else torch.float64
    at_once = max(1, CELLS // max(1, side))
    entries, values = [torch.zeros(0, dtype=kind)], [torch.zeros(0, dtype=dtype)]
    for first in range(0, side, at_once):
        # transposed by two copies: one with strides of the whole matrix takes ten times as long
        block = np.ascontiguousarray(np.ascontiguousarray(_as_numpy(matrix[:, first:first + at_once])).T)
        if block.dtype.kind == "f" and not np.isfinite(block).all():
            v, u = np.argwhere(~np.isfinite(block))[0]
            _refuse(u, first + v, block[v, u])
        there = block != 0
        entries.append(torch.from_numpy(np.flatnonzero(there) + first * side).to(kind))
        if weight:
            values.append(torch.from_numpy(block[there]).to(dtype))
    return torch.cat(entries), torch.cat(values) if weight else None


def _as_numpy(block: np.ndarray | torch.Tensor) -> np.ndarray:
    """Numbers of types that numpy and torch share."""
    if isinstance(block, np.ndarray):
        return np.asarray(block, np.float64 if block.dtype.kind == "f" else None)
    is_odd = block.is_floating_point() and block.dtype not in (torch.float16, torch.float32, torch.float64)
    return (block.float() if is_odd else block).numpy(force=True)


def _of_sparse(matrix: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of a sparse matrix of torch or scipy."""
    side = matrix.shape[0]
    if isinstance(matrix, torch.Tensor):
        matrix = matrix.to_sparse_coo().coalesce()
        (rows, columns), values = matrix.indices(), matrix.values()
    else:
        matrix = matrix.tocsc(copy=True)
        matrix.sum_duplicates()  # and sorts
        rows, values = torch.from_numpy(matrix.indices), torch.from_numpy(matrix.data.astype(np.float64))
        columns = torch.arange(side).repeat_interleave(torch.from_numpy(np.diff(matrix.indptr)))
    wrong = (~values.isfinite()).nonzero().flatten()
    if len(wrong):
        _refuse(rows[wrong[0]], columns[wrong[0]], values[wrong[0]])
    entries = (columns * side).add_(rows).to(entry_type((side, side)))
    there = values != 0
    if not there.all():
        entries, values = entries[there], values[there]
    if not (entries[1:] > entries[:-1]).all():
        order = torch.from_numpy(entries.numpy().argsort())  # several times faster than torch's
        entries, values = entries[order], values[order]
    return entries, values if values.is_floating_point() else values.double()


def _refuse(u, v, value):
    raise WiringError(f"an adjacency matrix must be finite, but A[{int(u)}, {int(v)}] is {value.item()}.")
