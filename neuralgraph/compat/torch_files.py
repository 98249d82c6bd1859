"""State dicts from files of ``torch.save``, of both its formats, without running anything in them.

PyTorch's own reader refuses a file that holds any object beside tensors and containers, or else builds
it. This one reads the tensors and leaves the rest inert, and compares every size with the file's.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from .._files import printable, read_whole
from ..errors import CheckpointError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the format before PyTorch 1.6
TYPES = {"FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
         "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
         "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
         "BoolStorage": torch.bool, "ComplexFloatStorage": torch.complex64,
         "ComplexDoubleStorage": torch.complex128}


def read_state_dict(path: Path, under: str) -> dict[str, torch.Tensor]:
    """The tensors of a state dict by name, from a file that holds it alone or in a dict under this key.

    Raises:
        CheckpointError: if the file is missing, unreadable, damaged, claims or unpacks to more than it
            holds, or holds no state dict.
    """
    try:
        content = read_whole(path)
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {printable(path)}.") from None
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"cannot read {printable(path)}: "
                              f"{getattr(error, 'strerror', None) or 'not enough memory'}.") from error
    try:
        top, fetch = _unpacked(content) if zipfile.is_zipfile(io.BytesIO(content)) else _legacy(content)
        state = top.get(under, top) if isinstance(top, Mapping) else top
        if not isinstance(state, Mapping) or not any(type(entry) is _Tensor for entry in state.values()):
            raise _NoStateDict
        return _tensors(state, fetch)
    except _NoStateDict:
        raise CheckpointError(f"{printable(path)} is not a state dict: expected names of tensors, or a "
                              f"training dictionary with such under {under!r}.") from None
    except Exception as error:  # a damaged pickle can make anything happen in reading it
        raise CheckpointError(f"{printable(path)} is damaged or no PyTorch checkpoint: "
                              f"{printable(error) or type(error).__name__}.") from error


class _NoStateDict(Exception):
    """What was read is something else."""


@dataclass(frozen=True, slots=True)
class _Storage:
    """Numbers somewhere in the file."""

    key: str
    dtype: torch.dtype
    size: int

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A view of a storage, not read yet."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _tensor(storage, offset, size, stride, *_) -> _Tensor | _Inert:
    """What stands for a tensor in the file; its numbers become addresses and are checked first."""
    if type(storage) is not _Storage:
        return _Inert()
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or any(
            type(number) is not int or not 0 <= number < 2**62 for number in numbers):
        raise ValueError("a tensor of no shape")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride))
    if math.prod(size) and (last >= storage.size or math.prod(size) > storage.size):
        raise ValueError(f"a tensor of shape {size} claims more than the {storage.size:,} numbers stored")
    return _Tensor(storage, offset if math.prod(size) else 0, tuple(size), tuple(stride))


class _Dict(dict):
    """An OrderedDict without the attributes that PyTorch gives it."""

    def __init__(self):
        super().__init__()

    def __setstate__(self, state):
        pass


class _Inert:
    """Stands for whatever is neither tensor nor container: takes everything, does nothing."""

    __slots__ = ()

    def __init__(self, *arguments, **options):
        pass

    def _take(self, *arguments, **options):
        return self

    __call__ = __setstate__ = __setitem__ = append = extend = add = update = _take


KNOWN = {("collections", "OrderedDict"): _Dict, ("torch", "Size"): lambda size: size,
         ("torch._utils", "_rebuild_tensor"): _tensor, ("torch._utils", "_rebuild_tensor_v2"): _tensor,
         ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
         **{("torch", name): dtype for name, dtype in TYPES.items()}}


class _Unpickler(pickle._Unpickler):
    """Builds containers, records of tensors and inert objects; imports and calls nothing of the file's.

    The Python version, since the other reserves memory for what is only claimed.
    """

    # no other objects, and nothing that is filled with zeros before it is read
    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items()
                if code not in (pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0], pickle.BYTEARRAY8[0],
                                pickle.NEXT_BUFFER[0], pickle.READONLY_BUFFER[0])}

    def find_class(self, module, name):
        return KNOWN.get((module, name), _Inert)

    def persistent_load(self, saved):
        kind, dtype, key, _, size, *_ = saved
        if kind != "storage" or type(dtype) is not torch.dtype:
            return _Inert()
        if type(key) is not str or type(size) is not int or size < 0:
            raise ValueError("a storage of no name or size")
        return _Storage(key, dtype, size)


class _Remembering(_Unpickler):
    """Keeps the storages that it met, by their keys."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.known: dict[str, _Storage] = {}

    def persistent_load(self, saved):
        found = super().persistent_load(saved)
        if type(found) is _Storage:
            self.known.setdefault(found.key, found)
        return found


def _tensors(state: Mapping, fetch: Callable[[_Storage], bytes]) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, of which several may be views of one storage."""
    storages, tensors = {}, {}
    for name, entry in state.items():
        if type(name) is not str or type(entry) is not _Tensor:
            raise ValueError(f"its entry {name!r} is no dense tensor of numbers")
        key, dtype = entry.storage.key, entry.storage.dtype
        if key not in storages:
            data = bytearray(fetch(entry.storage))
            if dtype == torch.bool:  # in memory nothing but 0 and 1
                data = bytearray(map(bool, data))
            storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        if storages[key].dtype != dtype or len(storages[key]) != entry.storage.size:
            raise ValueError(f"the storage of {name!r} is described in two ways")
        tensors[name] = storages[key].as_strided(entry.size, entry.stride, entry.offset)
    return tensors


def _unpacked(content: bytes):
    """What a file of PyTorch 1.6 or later holds, and a function for the numbers of a storage."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    members = {info.filename: info for info in archive.infolist()}
    unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > 2 * len(content):  # PyTorch stores tensors uncompressed
        raise ValueError(f"it would unpack to {unpacked:,} bytes from {len(content):,}")
    main = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(main) != 1 or len(members) < len(archive.infolist()):
        raise ValueError("it has no or several entries data.pkl")
    folder = main[0].removesuffix("data.pkl")
    if folder + "byteorder" in members and archive.read(folder + "byteorder") != b"little":
        raise ValueError("its numbers are big-endian")

    def fetch(storage: _Storage) -> bytes:
        info = members[f"{folder}data/{storage.key}"]
        if info.file_size != storage.nbytes:
            raise ValueError(f"a storage claims {storage.nbytes:,} bytes and has {info.file_size:,}")
        return archive.read(info)

    return _Unpickler(io.BytesIO(archive.read(main[0]))).load(), fetch


def _legacy(content: bytes):
    """The same for a file of an earlier PyTorch: pickles one after another, then all numbers."""
    file = io.BytesIO(content)
    if _Unpickler(file).load() != MAGIC or _Unpickler(file).load() != PROTOCOL:
        raise ValueError("it does not begin as PyTorch's files do")
    _Unpickler(file).load()  # the machine it was written on
    unpickler = _Remembering(file)
    top, known, places = unpickler.load(), unpickler.known, {}
    for key in _Unpickler(file).load():
        if key not in known:
            raise ValueError("it has a storage of an unknown kind")
        size, place = int.from_bytes(file.read(8), "little"), file.tell()
        if size != known[key].size or place + known[key].nbytes > len(content):
            raise ValueError(f"a storage claims {known[key].nbytes:,} bytes of a file of {len(content):,}")
        places[key] = place
        file.seek(known[key].nbytes, io.SEEK_CUR)

    def fetch(storage: _Storage) -> bytes:
        return content[places[storage.key]:places[storage.key] + storage.nbytes]

    return top, fetch
