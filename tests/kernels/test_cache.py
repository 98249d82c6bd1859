"""Machine code kept on disk: used if it is sound, never a reason to fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

START = """
import torch
from numba.core.caching import CompileResultCacheImpl as Impl
reduced, rebuilt, reduce, rebuild = [], [], Impl.reduce, Impl.rebuild
Impl.reduce = lambda self, result: reduced.append(1) or reduce(self, result)
Impl.rebuild = lambda self, *arguments: rebuilt.append(1) or rebuild(self, *arguments)
from neuralgraph.kernels import launch, ranking, sorting

def use():
    reduced.clear(), rebuilt.clear()
    kernel = launch.Kernel(ranking.SPLIT, float32=ranking._split_float32)
    ranking._run_split = kernel
    assert ranking.bracketed_top_k(torch.arange(5000.0), 100, True).nonzero().min() == 4900
    sorting._by_row = launch.compiled(getattr(sorting._by_row, "py_func", sorting._by_row))
    kept, row, other = torch.tensor([True, False, True]), torch.tensor([1, 1, 0]), torch.tensor([7, 8, 9])
    first = sorting.by_row(kept, row, other, 2)[0]
    assert first.tolist() == [0, 1, 2]
    return len(reduced), len(rebuilt)
"""

LOOP = START + """
import contextlib, errno, random, sys
from pathlib import Path

def entries():
    return sorted(Path(sys.argv[1]).rglob("*.nbc"))

def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1:]

assert use() == (0, 2)
good, rng = [file.read_bytes() for file in entries()], random.Random(0)
harms = [lambda c: b"", lambda c: c[:-1], lambda c: rng.randbytes(len(c)), lambda c: c + b"x",
         *[lambda c: flipped(c, rng.randrange(len(c)))] * 2]
for harm in harms:
    for file, content in zip(entries(), good):
        file.write_bytes(harm(content))
    assert use() == (2, 0), harm
    assert use() == (0, 2)  # and replaced
for file, other in zip(entries(), reversed(good)):
    file.write_bytes(other)  # sound, but of another function
assert use() == (2, 0)
for number in (errno.ENOSPC, errno.EROFS):
    for file in entries():
        file.unlink()
    def full(path, content):
        raise OSError(number, "a fault of the disk")
    keep, launch.replace = launch.replace, full
    assert use() == (2, 0) and not entries()
    launch.replace = keep
for file in entries():
    file.unlink(), file.mkdir()
assert use() == (2, 0)
"""


def run(code, cache):
    done = subprocess.run([sys.executable, "-c", code, cache], capture_output=True, text=True,
                          env={**os.environ, "NUMBA_CACHE_DIR": str(cache)})
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr[-2000:]
    return done.stdout


def test_damaged_entries_are_compiled_again(tmp_path):
    assert run(START + "print(*use())", tmp_path) == "2 0\n"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    for file in files:
        os.truncate(file, 1000)
    assert run(START + "print(*use())", tmp_path) == "2 0\n"
    run(LOOP, tmp_path)


@pytest.mark.parametrize("cache", ["/dev/full", "/proc/none"])
def test_places_that_hold_no_cache(cache):
    """A full disk, a read-only one: kept elsewhere or nowhere."""
    run(START + "use()", Path(cache))
