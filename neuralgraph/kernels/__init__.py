"""Compiled loops: sums over edges, node functions, ranking for the CPU; node functions for a GPU.

numba compiles them for the machine at hand when they are first used, and the result is kept on disk.
Without numba, torch's own operations do the sums, and nothing is fused. For GPUs it is Triton, which comes with PyTorch.
"""

from importlib.util import find_spec

try:
    import numba as _numba

    AVAILABLE = not _numba.config.DISABLE_JIT  # type: ignore[attr-defined]  # set when numba starts
except ImportError:
    AVAILABLE = False

TRITON = find_spec("triton") is not None

__all__ = ["AVAILABLE", "TRITON"]


def __dir__() -> list[str]:
    return __all__
