"""Double edge swaps, compiled."""

from __future__ import annotations

import functools

from numba import njit

from .launch import kept_on_disk
from .plain import swap_ends as _swap_ends

swap_ends = kept_on_disk(_swap_ends, functools.partial(njit, nogil=True))
