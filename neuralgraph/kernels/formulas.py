"""Elementwise functions from their formulas, compiled to be called from programs by address."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache

import torch
from numba import NumbaError, carray, cfunc, njit, types

from ..errors import InputError
from .vector import at

_KINDS = {torch.float32: types.float32, torch.float64: types.float64}
_ROW = types.void(types.int64, types.int64, types.int64, types.int64)


def compiled_formula(formula: Callable, dtype: torch.dtype, num_values: int, name: str) -> int:
    """The address of a function (source, target, length, values) of addresses and a number of elements.

    Args:
        formula: of one number, or of one and an array of ``num_values``.
        dtype: float32 or float64.
        name: for the message.

    Raises:
        InputError: if numba cannot compile it.
    """
    try:
        return _compiled(formula, dtype, num_values).address
    except NumbaError as error:
        raise InputError(f"the formula of {name!r} cannot be compiled: it may use arithmetic, comparisons and "
                         f"functions of math only. ({str(error).strip().splitlines()[0]})") from error


@cache
def _compiled(formula, dtype, num_values):
    kind, function = _KINDS[dtype], formula  # numba knows the functions of math
    if inspect.isfunction(formula):
        function = njit(formula, error_model="numpy")  # 1 / 0 is infinite

    if num_values:
        def row(source, target, length, values):
            x, y = carray(at(source), length, kind), carray(at(target), length, kind)
            p = carray(at(values), num_values, kind)
            for i in range(length):
                y[i] = function(x[i], p)
    else:
        def row(source, target, length, values):
            x, y = carray(at(source), length, kind), carray(at(target), length, kind)
            for i in range(length):
                y[i] = function(x[i])
    return cfunc(_ROW)(row)
