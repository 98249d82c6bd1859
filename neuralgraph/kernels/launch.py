"""Runs a compiled kernel on several threads.

The threads are those of torch's own OpenMP, so that the two never compete for cores; where torch
has another runtime, threads of Python (kernels hold no lock of the interpreter).
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numba import types
from numba.core.ccallback import CFunc

from .keeping import kept_on_disk
from .record import Packer

GRAIN = 2**16  # numbers that are worth another thread: some microseconds


_forked = False  # a copy of a process has none of its threads, and OpenMP would wait for them for ever


def _after_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_after_fork)


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
        self._compiled: dict[torch.dtype, Callable] = {}

    def __call__(self, dtype: torch.dtype, units: int, fields: tuple, work: int | None = None) -> None:
        """Runs on as many of torch's threads as there are ``units`` of work and as is worth it.

        Args:
            work: numbers to compute, about: each further thread is for :data:`GRAIN` of them, for where another
                program holds a core, a thread is waited for as long as that takes. None: all threads at once.
        """
        if units <= 0:
            return
        run = self._compiled.get(dtype) or self._compile(dtype)
        block = self._packer.block(fields)
        threads = 1 if _forked else min(torch.get_num_threads(), units)
        if work is not None:
            threads = min(threads, 1 + work // GRAIN)
        if threads == 1:
            run(ctypes.addressof(block))
        else:
            _parallel(run, ctypes.addressof(block), threads)

    def _compile(self, dtype):
        function = kept_on_disk(self._sources[dtype], lambda: _callback)
        function.compile()
        self._compiled[dtype] = function.ctypes
        return function.ctypes


def _callback(function: Callable[[int], None]) -> CFunc:
    """As numba's ``cfunc`` makes it, but not compiled yet."""
    return CFunc(function, ((types.int64,), types.void), locals={}, options={})


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
    if openmp is None or openmp.dynamic() or _forked:
        return 1
    return min(threads, openmp.thread_limit())


class Crowd:
    """How many threads are worth it now, by how long runs took with all of them and with one.

    Where another program holds a core, a thread of ours shares that core, and all others wait for it at every step: a run
    then takes several times as long as on one thread. After two such runs in a row the next ones are made on one, then
    all are tried again. How long a run takes on one thread is measured at the second run.

    >>> crowd = Crowd()
    >>> for seconds in (1.0, 1.5, 4.0, 4.0):  # on all threads, on one, on all, on all
    ...     crowd.took(crowd.has_room(), seconds)
    >>> [crowd.has_room() for _ in range(3)]
    [False, False, False]
    """

    SLOW = 1.3  # times as long as on one thread
    ALONE = 64  # runs on one thread before all are tried again

    def __init__(self) -> None:
        self.runs, self.slow, self.rest = 0, 0, 0
        self.alone = math.inf  # seconds

    def has_room(self) -> bool:
        """Whether the next run is made on all threads."""
        self.runs += 1
        if self.runs == 2:
            return False
        self.rest = max(0, self.rest - 1)
        return self.rest == 0

    def took(self, was_all: bool, seconds: float) -> None:
        """How long a run took."""
        if not was_all:
            self.alone = min(self.alone, seconds)
        elif seconds > self.SLOW * self.alone:
            self.slow += 1
            if self.slow == 2:
                self.slow, self.rest = 0, self.ALONE + 1
        else:
            self.slow = 0

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """A run on as many threads as are worth it; how many belongs to the thread of Python that runs."""
        threads, openmp = torch.get_num_threads(), _openmp()
        if threads == 1 or openmp is None:
            yield
            return
        if _forked:
            with openmp.alone():
                yield
            return
        has_room, start = self.has_room(), time.perf_counter()
        with contextlib.nullcontext() if has_room else openmp.alone():
            yield
        self.took(has_room, time.perf_counter() - start)


class Crowds:
    """One :class:`Crowd` for each kind of run, such as for each shape of inputs; the last few are kept."""

    KEPT = 16

    def __init__(self) -> None:
        self._crowds: dict[Hashable, Crowd] = {}

    def run(self, kind: Hashable) -> contextlib.AbstractContextManager[None]:
        """As :meth:`Crowd.run`."""
        crowd = self._crowds.pop(kind, None) or Crowd()
        self._crowds[kind] = crowd
        if len(self._crowds) > self.KEPT:
            self._crowds.pop(next(iter(self._crowds)), None)
        return crowd.run()


class _OpenMP:
    """The runtime that torch is linked to."""

    def __init__(self, library: ctypes.CDLL):
        self.parallel = library.GOMP_parallel
        self.parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        self.parallel.restype = None
        self._set_threads = library.omp_set_num_threads
        self._set_mkl = getattr(library, "MKL_Set_Num_Threads_Local", None)  # where torch has MKL
        self.dynamic, self.thread_limit = library.omp_get_dynamic, library.omp_get_thread_limit

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One thread for all that the calling thread of Python does; others are not changed."""
        before, mkl = torch.get_num_threads(), None if self._set_mkl is None else self._set_mkl(1)
        self._set_threads(1)
        try:
            yield
        finally:
            self._set_threads(before)
            if self._set_mkl is not None:
                self._set_mkl(mkl)


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
