"""Files of a run, each written whole or not at all; none can run code."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..errors import CheckpointError, RunError

FORMAT = 1
CHECKPOINT = "checkpoint.safetensors"


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces ``path`` by ``content`` in one step; on any failure the old file stays.

    Raises:
        RunError: if the disk is full or the folder gone.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        try:
            partial.unlink(missing_ok=True)
        except OSError:
            pass  # the folder itself may be gone
        raise RunError(f"cannot write {path}: {error.strerror or error}. What was saved before is "
                       "untouched; make room, then continue with --resume.") from error


def write_json(path: Path, content: object) -> None:
    """Writes JSON for people to read."""
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def read_json(path: Path) -> dict:
    """Reads a JSON object.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {path}; is {path.parent} the folder of a run?") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: expected a JSON object.")
    return content


def write_csv(path: Path, rows: list[dict]) -> None:
    """Writes one line per epoch."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def write_checkpoint(path: Path, tensors: dict[str, torch.Tensor], state: dict) -> None:
    """Tensors and JSON state in one safetensors file, so that they cannot disagree."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    header = {"neuralgraph": json.dumps({"format": FORMAT, **state})}
    write_atomically(path, save(tensors, metadata=header))


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The inverse of :func:`write_checkpoint`.

    Raises:
        CheckpointError: if the file is missing, damaged, foreign or of a newer version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error
    try:
        state = json.loads(header["neuralgraph"])
        version = state["format"]
    except (KeyError, ValueError, TypeError):
        raise CheckpointError(f"{path} was not written by neuralgraph (it lacks the entry "
                              "'neuralgraph' in its header).") from None
    if version != FORMAT:
        raise CheckpointError(f"{path} has the format {version}; this version of neuralgraph reads "
                              f"format {FORMAT}.")
    return tensors, state


def load_state(load: Callable[[dict], object], tensors: dict[str, torch.Tensor], prefix: str,
               path: Path) -> None:
    """Gives the tensors under ``prefix.`` to ``load``, naming the file if they do not fit."""
    part = {name[len(prefix) + 1:]: tensor for name, tensor in tensors.items()
            if name.startswith(prefix + ".")}
    try:
        load(part)
    except (RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit the run's model: {reason}") from error


def write_wirings(path: Path, masks: list[torch.Tensor], weights: list[torch.Tensor]) -> None:
    """The real edges of each network: one bit per candidate edge, and the real weights.

    Arrays ``real_0`` (packed bits), ``edges_0`` (their number) and ``weight_0`` (float32), and so on
    for each further network.
    """
    arrays = {}
    for number, (real, weight) in enumerate(zip(masks, weights)):
        arrays[f"real_{number}"] = np.packbits(real.cpu().numpy())
        arrays[f"edges_{number}"] = np.int64(len(real))
        arrays[f"weight_{number}"] = weight.detach()[real].float().cpu().numpy()
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_atomically(path, content.getvalue())


def read_wirings(path: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(mask of real edges (E,), their weights (k,)) of each network; see :func:`write_wirings`."""
    with np.load(path, allow_pickle=False) as arrays:
        count = sum(name.startswith("real_") for name in arrays.files)
        return [(torch.from_numpy(np.unpackbits(arrays[f"real_{n}"], count=int(arrays[f"edges_{n}"]))
                                  .astype(bool)),
                 torch.from_numpy(arrays[f"weight_{n}"])) for n in range(count)]
