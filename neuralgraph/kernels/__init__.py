"""Compiled loops for the CPU: sums over edges, node functions, ranking.

numba compiles them for the machine at hand when they are first used, and the result is kept on disk.
Without numba, torch's own operations do the sums, and nothing is fused.
"""

try:
    import numba as _numba

    AVAILABLE = not _numba.config.DISABLE_JIT  # type: ignore[attr-defined]  # set when numba starts
except ImportError:
    AVAILABLE = False

__all__ = ["AVAILABLE"]


def __dir__() -> list[str]:
    return __all__
