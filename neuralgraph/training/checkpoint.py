"""Files of a run, each written whole or not at all; none can run code."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from packaging.version import InvalidVersion, Version
from safetensors.torch import save
from torch import nn

from .._files import Arrays, digest, read_tensors, replace
from .._version import __version__
from ..errors import CheckpointError, RunError
from ..selectors import Selector

FORMAT = 3  # since which the digest covers the state too and optimizers of all kinds are kept
CHECKPOINT, RECIPE = "checkpoint.safetensors", "recipe.json"


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces ``path`` by ``content`` in one step; on any failure, a kill too, the old file stays.

    Raises:
        RunError: if the disk is full or the folder gone.
    """
    try:
        replace(path, content, follow=False)
    except OSError as error:
        if not path.parent.is_dir():
            raise RunError(f"cannot write {path}: the folder is gone; what was saved there went with "
                           "it.") from error
        raise RunError(f"cannot write {path}: {error.strerror or error}. What was saved before is "
                       "untouched; make room, then continue with --resume.") from error


def write_json(path: Path, content: object) -> None:
    """Writes JSON for people to read."""
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def check_readable(path: Path, what: str, hint: str = ".") -> None:
    """Tells a file that is not there, or may not be read, from a damaged one.

    Raises:
        CheckpointError: that says which; ``what`` the file is called, and a hint where it is missing.
    """
    try:
        with path.open("rb"):
            pass
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"there is no {what} {path}{hint}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}.") from error


def read_json(path: Path) -> dict:
    """Reads a JSON object.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    check_readable(path, "file", f"; is {path.parent} the folder of a run?")
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: expected a JSON object.")
    return content


def newer_version(description: dict) -> str | None:
    """The version of neuralgraph that wrote a ``recipe.json``, if it is newer than this one."""
    try:
        written = description["versions"]["neuralgraph"]
        return written if Version(written) > Version(__version__) else None
    except (KeyError, TypeError, InvalidVersion):
        return None


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
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"format": FORMAT, **state}
    header["digest"] = digest(tensors, header)
    write_atomically(path, save(tensors, metadata={"neuralgraph": json.dumps(header)}))


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The inverse of :func:`write_checkpoint`; of an older format, in the words of the present one.

    Raises:
        CheckpointError: if the file is missing, damaged, foreign or of a newer version.
    """
    check_readable(path, "checkpoint")
    tensors, header = read_tensors(path, "checkpoint")
    if "neuralgraph" not in header:
        raise CheckpointError(f"{path} was not written by neuralgraph (it lacks the entry "
                              "'neuralgraph' in its header).")
    try:
        state = json.loads(header["neuralgraph"])
        version = state.pop("format")
        written = state.pop("digest", None)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its header is no JSON of ours ({error}).") from None
    if version not in (2, FORMAT):
        newer = ", written by a newer version" if isinstance(version, int) and version > FORMAT else ""
        raise CheckpointError(f"{path} has the format {version!r}{newer}; this version of neuralgraph "
                              f"({__version__}) reads formats 2 and {FORMAT}.")
    covered = None if version == 2 else {"format": version, **state}
    if written != digest(tensors, covered):
        raise CheckpointError(f"{path} is damaged: its values are not those that were written.")
    return _from_format_2(tensors, state) if version == 2 else (tensors, state)


def _from_format_2(tensors, state):
    """What format 3 calls the momentum, and the sums over the images of an epoch."""
    tensors = {name.replace("momentum.", "optimizer.momentum_buffer.", 1)
               if name.startswith("momentum.") else name: value for name, value in tensors.items()}
    progress = state.get("progress")
    if isinstance(progress, dict) and "correct" in progress:
        progress = {name: value for name, value in progress.items() if name != "correct"}
        progress["sums"] = {"accuracy": state["progress"]["correct"]}
        state = {**state, "progress": progress}
    return tensors, state


def part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors under ``prefix.``, by the rest of their names."""
    return {name.removeprefix(prefix + "."): tensor for name, tensor in tensors.items()
            if name.startswith(prefix + ".")}


def check_fits(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], path: Path,
               complete: bool = True) -> None:
    """Compares names, shapes and types with those expected, of which some may be missing if not complete.

    Raises:
        CheckpointError: that names the tensor, what it is and what it should be.
    """
    for name in (*expected, *tensors):
        if name not in tensors and not complete:
            continue
        got, wanted = (None if name not in side else
                       f"{side[name].dtype} {tuple(side[name].shape)}" for side in (tensors, expected))
        if got != wanted:
            raise CheckpointError(f"{path} does not fit the run's model: {name!r} is {got or 'missing'}, "
                                  f"expected {wanted or 'no such tensor'}.")


def load_model(model: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Gives a model the values of a checkpoint."""
    values = part(tensors, "model")
    for name, module in model.named_modules():
        if isinstance(module, Selector):
            module.upgrade(values, f"{name}.")
    check_fits(values, model.state_dict(), path)
    model.load_state_dict(values)


def read_wirings(path: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(mask of real edges (E,), their weights (k,)) of each network, from ``wiring/epoch-NNNN.npz`` of an older run.

    Runs kept such a file of every epoch before they had histories (:func:`~neuralgraph.training.history`). Of each
    network it holds the arrays ``real_0`` (one bit per candidate edge, packed), ``edges_0`` (their number) and
    ``weight_0`` (of the real ones, float32).

    Raises:
        CheckpointError: if the file is missing, damaged or foreign.
    """
    check_readable(path, "file")
    try:
        with path.open("rb") as file:
            arrays = Arrays(file)
            count = sum(name.startswith("real_") for name in arrays.names)
            return [_wiring(*(arrays.read(f"{name}_{n}") for name in ("real", "edges", "weight")))
                    for n in range(count)]
    except Exception as error:  # NumPy's reader passes on whatever its parsers raise
        raise CheckpointError(f"{path} is damaged or holds no wirings: {error}") from error


def _wiring(bits: np.ndarray, edges: np.ndarray, weight: np.ndarray):
    if bits.dtype != np.uint8 or edges.shape or edges.dtype != np.int64 or \
            bits.shape != (-(-int(edges) // 8),):
        raise ValueError(f"a mask of {bits.dtype} {bits.shape} for {edges} edges")
    real = np.unpackbits(bits, count=int(edges)).astype(bool)
    if weight.dtype != np.float32 or weight.shape != (real.sum(),):
        raise ValueError(f"weights of {weight.dtype} {weight.shape} for {real.sum()} real edges")
    return torch.from_numpy(real), torch.from_numpy(weight)
