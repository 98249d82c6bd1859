"""Files that are written whole or not at all, and files of others, read whole before they are checked."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import stat
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import safetensors.torch
import torch

from .errors import CheckpointError

ABANDONED = 3600.0  # seconds: what nobody wrote to for so long was left by a process that was killed
INFLATION = 1032  # no byte of a deflated file becomes more than so many


UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control codes, bytes that are no text


def printable(name: object) -> str:
    r"""A file's name as it can be printed, encoded and stored; names may be any bytes.

    >>> printable(os.fsdecode(b"caf\xe9"))
    'caf\\udce9'
    """
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(name))


def replace(path: Path, content: bytes, *, follow: bool = True) -> None:
    """Writes ``content`` to ``path`` as :func:`replacing` does.

    Raises:
        OSError: if it cannot be written; what stood there is untouched.
    """
    with replacing(path, follow=follow) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path, *, follow: bool = True) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` in one step if the block ends without an error.

    On any failure, a kill too, the old file stays. Several processes may write at once: readers see one
    whole file after another. The new file has the old one's mode (a first one what the umask leaves), a
    symbolic link stays and its target is replaced. Pipes, terminals and other character devices, and the
    file that standard output goes to, are written to as they are.

    Args:
        follow: without it, a symbolic link itself is replaced and nothing else is touched: for files in a
            folder that is this library's own.

    Raises:
        OSError: if the disk is full, the folder gone, the old file write-protected, or the path that of
            a folder, a socket or a disk; nothing else is left there.
    """
    try:
        old = os.stat(path) if follow or not path.is_symlink() else None
    except FileNotFoundError:
        old = None
    if old is not None and (not stat.S_ISREG(old.st_mode) or _is_standard_output(old)):
        with _as_it_is(path, old) as file:
            yield file
        return
    target = Path(os.path.realpath(path)) if follow else path
    if old is not None and not os.access(target, os.W_OK):
        raise _error(errno.EACCES, path)
    partial = target.with_name(f"{_prefix(target)}{secrets.token_hex(6)}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(partial, flags, 0o666 if old is None else 0o600), "wb") as file:
            if old is not None:
                with contextlib.suppress(OSError):  # only root may give files away
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode) & 0o777)
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):  # the folder itself may be gone
            partial.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # a folder that may be written but not read
        _sync_folder(target.parent)
        _remove_abandoned(target)


def _prefix(target: Path) -> str:
    """How the names of unfinished files for ``target`` begin; its own may be as long as names can be."""
    return f".{os.fsdecode(os.fsencode(target.name)[:200])}."


def _remove_abandoned(target: Path) -> None:
    """Deletes unfinished files for ``target`` of processes that were killed."""
    name = re.compile(re.escape(_prefix(target)) + r"[0-9a-f]{12}\.partial")
    for entry in os.scandir(target.parent):
        if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False) \
                and time.time() - entry.stat().st_mtime > ABANDONED:
            os.unlink(entry.path)


def _sync_folder(folder: Path) -> None:
    """Makes a renaming last through a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_standard_output(status: os.stat_result) -> bool:
    """Whether this is the file that the shell redirected standard output to."""
    try:
        return os.path.samestat(status, os.fstat(1))
    except OSError:  # closed
        return False


def _as_it_is(path: Path, status: os.stat_result) -> BinaryIO:
    """Opens what must not be replaced."""
    if stat.S_ISDIR(status.st_mode):
        raise _error(errno.EISDIR, path)
    if _is_standard_output(status):  # behind what was printed so far, not over it
        sys.stdout.flush()
        return open(os.dup(1), "wb")
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
        raise _error(errno.EINVAL, path, "Neither a file nor a pipe nor a terminal")
    return open(path, "wb")


def memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def read_whole(path: Path, most: int | None = None) -> bytes:
    """All bytes of a regular file.

    They are this process's own, so that nobody changes them between a check and a use.

    Args:
        most: bytes that are read; by default as many as there is memory.

    Raises:
        OSError: if the file cannot be read, is none, is larger, or is written to meanwhile.
    """
    def opener(name, flags):
        return os.open(name, flags | os.O_NONBLOCK)  # a pipe would wait for a writer

    with open(path, "rb", opener=opener) as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise _error(errno.EINVAL, path, "Not a file")
        if before.st_size > (memory() if most is None else most):
            raise _error(errno.EFBIG, path)
        content = file.read(before.st_size)
        more, after = file.read(1), os.fstat(file.fileno())
    if more or len(content) != before.st_size or after.st_mtime_ns != before.st_mtime_ns:
        raise _error(errno.EAGAIN, path, "Changed while it was read")
    return content


def _error(number: int, path: Path, message: str | None = None) -> OSError:
    return OSError(number, message or os.strerror(number), str(path))


def read_tensors(path: Path, what: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file, copied out of it.

    Args:
        what: to call the file where it is missing.

    Raises:
        CheckpointError: if the file is missing, unreadable, damaged or foreign.
    """
    try:
        content = read_whole(path)
    except FileNotFoundError:
        raise CheckpointError(f"there is no {what} {printable(path)}.") from None
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"cannot read the {what} {printable(path)}: "
                              f"{getattr(error, 'strerror', None) or 'not enough memory'}.") from error
    return tensors_of(content, printable(path))


def tensors_of(content: bytes, name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The same of the content of a file, which messages call so.

    Raises:
        CheckpointError: if it is damaged or foreign.
    """
    try:
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
        return tensors, header.get("__metadata__", {})
    except Exception as error:  # its reader passes on whatever its parts raise
        raise CheckpointError(f"{name} is damaged or no safetensors file: "
                              f"{printable(error)}") from error


def digest(tensors: Mapping[str, torch.Tensor], state: dict | None = None, size: int = 16) -> str:
    """A hash of names, types, shapes and values, and of JSON state, of ``size`` hexadecimal digits."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    if state is not None:
        total.update(json.dumps(state, sort_keys=True).encode())
    return total.hexdigest()[:size]


class Arrays:
    """The arrays of a ``.npz``, of which types and shapes are known before one is read.

    What is claimed is compared with what the file can hold; nothing else is unpacked.

    Args:
        file: open for reading.

    Raises:
        ValueError, zipfile.BadZipFile: as all methods do, for an archive that NumPy did not write.
    """

    def __init__(self, file: BinaryIO):
        self._size = os.stat(file.fileno()).st_size
        self._archive = zipfile.ZipFile(file)
        self._members = {info.filename.removesuffix(".npy"): info for info in self._archive.infolist()}
        if len(self._members) < len(self._archive.infolist()):
            raise ValueError("it holds two arrays of one name")

    @property
    def names(self) -> list[str]:
        return sorted(self._members)

    def header(self, name: str) -> tuple[np.dtype, tuple[int, ...]]:
        """Type and shape of an array."""
        info = self._members[name]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name!r} is compressed in a way that NumPy does not use")
        most = info.compress_size * (1 if info.compress_type == zipfile.ZIP_STORED else INFLATION)
        if info.compress_size > self._size or info.file_size > most:
            raise ValueError(f"{name!r} claims {info.file_size:,} bytes of a file of {self._size:,}")
        with self._archive.open(info) as member:
            version = np.lib.format.read_magic(member)
            readers = {(1, 0): np.lib.format.read_array_header_1_0,
                       (2, 0): np.lib.format.read_array_header_2_0}
            if version not in readers:
                raise ValueError(f"{name!r} has the unknown format {version}")
            shape, _, dtype = readers[version](member)
            if dtype.hasobject:
                raise ValueError(f"{name!r} holds pickled objects")
            size = member.tell() + math.prod(shape) * dtype.itemsize
            if min(shape, default=0) < 0 or size != info.file_size:
                raise ValueError(f"{name!r} is {dtype} of shape {shape}, which does not fit its "
                                 f"{info.file_size:,} bytes")
        return dtype, shape

    def read(self, name: str) -> np.ndarray:
        """An array."""
        self.header(name)
        with self._archive.open(self._members[name]) as member:
            return np.lib.format.read_array(member, allow_pickle=False)
