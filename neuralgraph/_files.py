"""Files that are written whole or not at all, and safetensors files, which run no code."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from .errors import CheckpointError


def replace(path: Path, content: bytes) -> None:
    """Replaces ``path`` by ``content`` in one step; on any failure, a kill too, the old file stays.

    Raises:
        OSError: if the disk is full or the folder gone; nothing else is left there.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # the folder itself may be gone
            partial.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # a folder that may be written but not read
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a renaming last through a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_tensors(path: Path, what: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Args:
        what: to call the file where it is missing.

    Raises:
        CheckpointError: if the file is missing, damaged or foreign.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(f"there is no {what} {path}.") from None
    except (SafetensorError, OSError, ValueError, MemoryError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error
