"""Machine code of compiled functions, kept in the user's folder for caches.

Not beside the package, where numba would keep it: what ``pip uninstall`` leaves of a package can still be imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import llvmlite
import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.serialize import dumps

from .._files import read_whole, replace

HASH = 32  # bytes of a SHA-256
PACKAGE = Path(__file__).resolve().parents[1]
USERS = "used-by"


def kept_on_disk(function: Callable, compiler: Callable):
    """``compiler()(function)``, of which the machine code is kept where there is a folder to write to.

    Args:
        compiler: a decorator of numba's that does not compile at once.
    """
    compiled = compiler()(function)
    with contextlib.suppress(RuntimeError, OSError):  # no home folder, sources that cannot be read
        compiled._cache = _Cache(function)
    return compiled


def compiled(function: Callable) -> Callable:
    """A function of arrays, compiled at its first call for their types, that runs on the thread that calls it."""
    return kept_on_disk(function, partial(numba.njit, nogil=True))


def folder() -> Path:
    """Where machine code of the library is kept, made if it was not there.

    Raises:
        RuntimeError: if there is no home folder.
        OSError: if it cannot be made or written to.
    """
    cache = _Cache(kept_on_disk)  # a function of this package, as kernels are
    cache._impl.locator.ensure_cache_path()
    tempfile.TemporaryFile(dir=cache._cache_path).close()
    return Path(cache._cache_path)


class _Locator(_CacheLocator):
    """A folder for one state of the sources, of all installations that have it; those that use it are named in it.

    In ``NUMBA_CACHE_DIR`` where that is set, else in ``XDG_CACHE_HOME`` or ``~/.cache``. numba's other functions are
    kept where numba wants to.
    """

    def __init__(self, function: Callable, file: str):
        base = numba.config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME", "")  # type: ignore[attr-defined]
        if not (numba.config.CACHE_DIR or os.path.isabs(base)):  # type: ignore[attr-defined]
            base = Path.home() / ".cache"  # as the XDG specification has it of relative ones, too
        self._folder = Path(base, "neuralgraph", "kernels", _sources()).absolute()
        self._py_file, self._function = file, function  # the file's name is for numba's warnings

    @classmethod
    def from_function(cls, function: Callable, file: str) -> _Locator:
        return cls(function, file)

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_disambiguator(self) -> str:
        return str(self._function.__code__.co_firstlineno)

    def get_source_stamp(self) -> str:
        return _sources()

    def ensure_cache_path(self) -> None:
        """The folder, with a link to this installation in it; folders that are then of no installation are deleted."""
        link = self._folder / USERS / hashlib.sha256(os.fsencode(PACKAGE)).hexdigest()[:12]
        if link.is_symlink():
            return
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # of a file system without links
            link.symlink_to(PACKAGE)
        for other in self._folder.parent.iterdir():
            if other != self._folder:
                with contextlib.suppress(OSError):  # another process does the same, or makes it
                    _release(other, link.name)


def _release(folder: Path, name: str) -> None:
    """One of other sources than the installation of this name has now."""
    links = list((folder / USERS).iterdir())
    unused = [link for link in links if link.name == name or not link.exists()]
    for link in unused:
        link.unlink(missing_ok=True)
    if len(unused) == len(links):
        shutil.rmtree(folder, ignore_errors=True)


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes = [_Locator]


class _Cache(FunctionCache):
    """Machine code by function and types; never a reason to fail, since it can be compiled again.

    An entry that is damaged or cannot be read is a miss, and what cannot be written is not kept.
    numba's own files have no checksums, and it compares the date of the one file that a function stands
    in, but kernels are made of parts from all files of this folder: here an entry is one file, which
    begins with a hash of the rest, and its name and key say what it was made from and with.
    """

    _impl_class = _CacheImpl

    def load_overload(self, sig, target_context):
        target_context.refresh()
        with contextlib.suppress(OSError):
            self._impl.locator.ensure_cache_path()
        try:
            key = self._key(sig, target_context.codegen())
            content = read_whole(self._path(key))
            if content[:HASH] != hashlib.sha256(content[HASH:]).digest():
                return None
            kept, data = pickle.loads(content[HASH:])
            return self._impl.rebuild(target_context, data) if kept == key else None
        except Exception:  # unpickling and linking raise what they like
            return None

    def save_overload(self, sig, data):
        with contextlib.suppress(Exception):  # of the disk, and for what cannot be pickled
            if not self._impl.check_cachable(data):
                return
            key = self._key(sig, data.codegen)
            content = dumps((key, self._impl.reduce(data)))
            replace(self._path(key), hashlib.sha256(content).digest() + content)

    def _key(self, sig, codegen) -> tuple:
        return numba.__version__, llvmlite.__version__, _sources(), *self._index_key(sig, codegen)

    def _path(self, key: tuple) -> Path:
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        return Path(self._cache_path, f"{self._impl.filename_base}-{name}.nbc")


@cache
def _sources() -> str:
    """A hash of the files of this folder."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
