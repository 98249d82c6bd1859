"""Machine code kept on disk: used if it is sound, never a reason to fail."""

import os
import subprocess
import sys

import numba
import pytest

from neuralgraph import doctor
from neuralgraph.kernels import keeping

START = """
import torch
from numba.core.caching import CompileResultCacheImpl as Impl
reduced, rebuilt, reduce, rebuild = [], [], Impl.reduce, Impl.rebuild
Impl.reduce = lambda self, result: reduced.append(1) or reduce(self, result)
Impl.rebuild = lambda self, *arguments: rebuilt.append(1) or rebuild(self, *arguments)
from neuralgraph.kernels import keeping, launch, ranking, sorting

def use():
    reduced.clear(), rebuilt.clear()
    kernel = launch.Kernel(ranking.SPLIT, float32=ranking._split_float32)
    ranking._run_split = kernel
    assert ranking.bracketed_top_k(torch.arange(5000.0), 100, True).nonzero().min() == 4900
    sorting._by_row = keeping.compiled(getattr(sorting._by_row, "py_func", sorting._by_row))
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
    keep, keeping.replace = keeping.replace, full
    assert use() == (2, 0) and not entries()
    keeping.replace = keep
for file in entries():
    file.unlink(), file.mkdir()
assert use() == (2, 0)
"""


def run(code, cache="", **places):
    """What the code prints that gets ``cache`` as an argument, with nothing but these variables to say where to keep things."""
    names = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    done = subprocess.run([sys.executable, "-c", code, cache], capture_output=True, text=True,
                          env={**{name: value for name, value in os.environ.items() if name not in names}, **places})
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr[-2000:]
    return done.stdout


def test_damaged_entries_are_compiled_again(tmp_path):
    assert run(START + "print(*use())", XDG_CACHE_HOME=str(tmp_path)) == "2 0\n"
    assert len([path for path in tmp_path.rglob("*.*") if path.is_file()]) == 2
    run(LOOP, tmp_path, XDG_CACHE_HOME=str(tmp_path))


def test_nothing_is_kept_without_a_home_folder():
    run("""
from pathlib import Path
def home():
    raise RuntimeError("no home folder")
Path.home = home
""" + START + """
assert use() == use() == (0, 0)  # neither written nor read
import neuralgraph as ng
nets = [ng.StaticNeuralGraph(ng.wirings.chain([4, 4], ng.NodeFunction()), ng.TopK(9), backend=b) for b in ("sparse", "dense")]
x = torch.randn(2, 4, 5, 5)
torch.testing.assert_close(nets[0](x), nets[1](x))
""")


def twice(x):
    return 2 * x


@pytest.mark.parametrize("variable, place", [("NUMBA_CACHE_DIR", "/dev/full"), ("NUMBA_CACHE_DIR", "/proc/none"), ("HOME", "/proc/none")])
def test_places_that_hold_no_cache(monkeypatch, variable, place):
    """A full disk, a read-only one, a user's folder that cannot be made: compiled at each start, which the doctor says."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", place if variable == "NUMBA_CACHE_DIR" else "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", place)
    function = keeping.compiled(twice)
    assert function(3) == 6 and not function.stats.cache_hits
    assert function.stats.cache_path.startswith(place) and not os.path.exists(function.stats.cache_path)
    said = next(finding for finding in doctor.examine() if finding.name == "kernels")
    assert not said.fails and said.text.startswith("compiled, not kept: ") and place in said.text


@pytest.fixture
def places(monkeypatch, tmp_path):
    """``place(package, state)`` makes the folder for that state of the sources of a package in the folder of this name."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def place(package, state):
        (tmp_path / package).mkdir(exist_ok=True)
        monkeypatch.setattr(keeping, "PACKAGE", tmp_path / package)
        monkeypatch.setattr(keeping, "_sources", lambda: state)
        return keeping.folder()
    return place


def test_where_machine_code_is_kept(places, monkeypatch, tmp_path):
    """NUMBA_CACHE_DIR, then XDG_CACHE_HOME, then ~/.cache; other functions are where numba keeps them."""
    found = places("package", "state")
    assert found.is_relative_to(tmp_path / "cache" / "neuralgraph")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "numba"))
    own = found.relative_to(tmp_path / "cache")
    assert places("package", "state") == tmp_path / "numba" / own
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for nowhere in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", nowhere)
        assert places("package", "state") == tmp_path / "home" / ".cache" / own
    module = tmp_path / "module.py"
    module.write_text("def double(x):\n    return 2 * x\n")
    names = {}
    exec(compile(module.read_text(), str(module), "exec"), names)
    other = numba.njit(cache=True)(names["double"])
    assert other.stats.cache_path == str(tmp_path / "__pycache__")


def test_folders_that_no_installation_uses_are_deleted(places, tmp_path):
    """Those of older sources, once the last installation that had them has others or is gone."""
    old, new = places("one", "old"), places("other", "new")
    assert old.is_dir() and places("other", "new") == new != old == places("two", "old")
    places("one", "new")
    assert old.is_dir()  # of two
    places("one", "old"), places("one", "new")
    (new / "entry.nbc").touch()
    (tmp_path / "two").rename(tmp_path / "moved")
    places("three", "later")
    assert not old.exists() and (new / "entry.nbc").exists()
    unknown = new.with_name("unknown")  # it may be about to be made
    unknown.mkdir()
    places("one", "later"), places("other", "later")
    assert not new.exists() and unknown.exists()
