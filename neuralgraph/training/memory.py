"""How the C library treats memory that tensors give back."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Keeps memory that is freed for this process, instead of returning it to the system.

    Every step of a training frees tensors as large as those the next one needs. By default glibc gives
    large ones back at once, and each of their pages is fetched and cleared again at its first use: about
    a quarter of a training step of ``tiny-static`` at 512 images. Meant for processes that do nothing
    but train, such as the command line's; the library never calls it by itself.

    Returns:
        Whether the C library has such a setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
