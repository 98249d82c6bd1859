"""Runs a compiled kernel on several threads.

The threads are those of torch's own OpenMP, so that the two never compete for cores; where torch
has another runtime, threads of Python (kernels hold no lock of the interpreter).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numba import cfunc, types

from .record import Packer


class Kernel:
    """A function of the address of its arguments (int64), compiled at the first call, per dtype.

    Args:
        layout: of the arguments, a :func:`~neuralgraph.kernels.record.record`; they are given as
            ``kernel.fields(name=value, ...)``.
        variants: dtype to a function for it.
    """

    def __init__(self, layout: np.dtype, **variants: Callable[[int], None]):
        self._packer = Packer(layout)
        self.fields = self._packer.fields
        self._sources = {getattr(torch, name): source for name, source in variants.items()}
        self._compiled: dict[torch.dtype, ctypes._CFuncPtr] = {}

    def __call__(self, dtype: torch.dtype, units: int, fields: tuple) -> None:
        """Runs on as many of torch's threads as there are ``units`` of work."""
        if units <= 0:
            return
        run = self._compiled.get(dtype) or self._compile(dtype)
        block = self._packer.block(fields)
        threads = min(torch.get_num_threads(), units)
        if threads == 1:
            run(ctypes.addressof(block))
        else:
            _parallel(run, ctypes.addressof(block), threads)

    def _compile(self, dtype):
        function = kept_on_disk(self._sources[dtype], functools.partial(cfunc, types.void(types.int64)))
        self._compiled[dtype] = function.ctypes
        return function.ctypes


def kept_on_disk(function: Callable, compiler: Callable):
    """``compiler(cache=True)(function)``; not cached where numba has no folder that it may write to.

    numba compares the date of the one file that a cached function stands in, but kernels are made of
    parts from all files of this folder: the name under which each is kept names the sources too.
    """
    function.__qualname__ = f"{function.__qualname__}_{_sources()}"
    try:
        return compiler(cache=True)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return compiler(cache=False)(function)


@cache
def _sources() -> str:
    """A hash of the files of this folder."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _parallel(run, address: int, threads: int) -> None:
    openmp = _openmp()
    if openmp is not None:
        openmp.parallel(ctypes.cast(run, ctypes.c_void_p), address, threads, 0)
        return
    waiting = [_pool(threads - 1).submit(run, address) for _ in range(threads - 1)]
    run(address)
    for future in waiting:
        future.result()


def team_size() -> int:
    """How many threads of a kernel are sure to run side by side, so that they may wait for each other.

    Fewer than torch's threads where OpenMP may grant fewer (``OMP_THREAD_LIMIT``, ``OMP_DYNAMIC``) or
    where its runtime is not known.
    """
    threads, openmp = torch.get_num_threads(), _openmp()
    if openmp is None or openmp.dynamic():
        return 1
    return min(threads, openmp.thread_limit())


class _OpenMP:
    """The runtime that torch is linked to."""

    def __init__(self, library: ctypes.CDLL):
        self.parallel = library.GOMP_parallel
        self.parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        self.parallel.restype = None
        self.dynamic, self.thread_limit = library.omp_get_dynamic, library.omp_get_thread_limit


@cache
def _openmp() -> _OpenMP | None:
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        return _OpenMP(ctypes.CDLL(str(path)))
    except (OSError, AttributeError):
        return None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="neuralgraph")
