"""Files of ours: replaced in one step whatever stands there, read whole before they are checked."""

import os
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from neuralgraph import _files
from neuralgraph._files import Arrays, read_tensors, read_whole, replace, replacing
from neuralgraph.errors import CheckpointError


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_modes(tmp_path):
    """Of the file that is replaced, or what the umask leaves of a new one."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"")
    old.chmod(0o600)
    replace(old, b"x")
    assert mode(old) == 0o600 and old.read_bytes() == b"x"
    umask = os.umask(0o027)
    try:
        replace(new, b"x")
    finally:
        os.umask(umask)
    assert mode(new) == 0o640


def test_links_stay_and_their_targets_are_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    for target in (tmp_path / "there" / "file", tmp_path / "there" / "absent"):
        link = tmp_path / f"to-{target.name}"
        link.symlink_to(target)
        replace(link, b"new")
        assert link.is_symlink() and target.read_bytes() == b"new"
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError):
        replace(loop, b"new")


def test_what_is_no_file_is_not_replaced(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    replace(pipe, b"through")
    reader.join(10)
    assert got == [b"through"] and stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(IsADirectoryError):
        replace(tmp_path, b"")
    assert sorted(os.listdir(tmp_path)) == ["pipe"]


@pytest.mark.parametrize("name, number", [("null", 3), ("full", 7)])
def test_devices_are_written_to(tmp_path, name, number):
    """Ones of our own where there may be any: as root a wrong program would replace those of the machine."""
    device = tmp_path / name
    try:
        os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, number))
        os.close(os.open(device, os.O_WRONLY))
    except OSError:
        pytest.skip("no devices here")
    before = device.stat()
    if name == "null":
        replace(device, b"x")
    else:
        with pytest.raises(OSError, match="No space left"):
            replace(device, b"x")
    assert os.path.samestat(before, device.stat()) and os.listdir(tmp_path) == [name]


def test_standard_output_that_is_a_file(tmp_path):
    """Behind what was printed, in the file that the shell has open."""
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")  # as /dev/stdout is
    code = ("import sys; from pathlib import Path; from neuralgraph._files import replace\n"
            "print('before'); replace(Path(sys.argv[1]), b'content\\n'); print('after')")
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", code, tmp_path / "stdout"], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "before\ncontent\nafter\n"


def test_a_failure_leaves_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    for error in (OSError, KeyboardInterrupt, ValueError):
        with pytest.raises(error), replacing(path) as file:
            file.write(b"half")
            raise error
    assert os.listdir(tmp_path) == ["file"] and path.read_bytes() == b"old"


def test_files_of_others_stay(tmp_path):
    """Only what our own killed processes left, and only when it is old."""
    long = "n" * 250
    stay = [".out.partial", "out.partial", ".out.0123456789ab.partial", ".other.aaaaaaaaaaaa.partial"]
    for name in stay:
        (tmp_path / name).write_bytes(b"mine")
        os.utime(tmp_path / name, (0, 0))
    os.utime(tmp_path / ".out.0123456789ab.partial")
    (tmp_path / ".out.abcdefabcdef.partial").write_bytes(b"left by a kill")
    os.utime(tmp_path / ".out.abcdefabcdef.partial", (0, 0))
    replace(tmp_path / "out", b"x")
    replace(tmp_path / long, b"x")
    assert sorted(os.listdir(tmp_path)) == sorted([*stay, "out", long])


def test_many_writers_of_one_path(tmp_path):
    """Readers always see one whole file; no writer fails because of another."""
    path, stop, seen, failed = tmp_path / "file", time.monotonic() + 1.5, set(), []
    contents = [bytes([n]) * 300_000 for n in range(3)]
    replace(path, contents[0])

    def write(content):
        try:
            while time.monotonic() < stop:
                replace(path, content)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while time.monotonic() < stop:
        seen.add(path.read_bytes())
    for thread in threads:
        thread.join()
    assert not failed and seen <= set(contents) and os.listdir(tmp_path) == ["file"]


def test_write_protected_files_stay(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda *arguments: False)  # root may write to all
    with pytest.raises(PermissionError):
        replace(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("harm", [lambda path: path.write_bytes(b"other"), lambda path: path.write_bytes(b"")])
def test_tensors_are_not_those_of_the_file_any_more(tmp_path, harm):
    """A mapped file that shrinks kills its readers, and one that is written changes what was checked."""
    path = tmp_path / "file"
    save_file({"a": torch.arange(100_000.0)}, path, metadata={"who": "me"})
    tensors, metadata = read_tensors(path, "file")
    harm(path)
    assert torch.equal(tensors["a"], torch.arange(100_000.0)) and metadata == {"who": "me"}
    tensors["a"] += 1  # and they are writable


def test_files_that_change_while_they_are_read(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    fstat, calls = os.fstat, []

    def later(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            os.utime(path, (1, 1))
        return fstat(descriptor)

    monkeypatch.setattr(os, "fstat", later)
    with pytest.raises(OSError, match="Changed while it was read"):
        read_whole(path)


def test_unreadable_tensors(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("no tensors")
    (tmp_path / "claim").write_bytes((10**11).to_bytes(8, "little") + b"{}")
    (tmp_path / "sparse").write_bytes(b"")
    os.truncate(tmp_path / "sparse", 2**42)
    for name, message in [("sparse", "File too large"), ("absent", "there is no file"), ("pipe", "Not a file"),
                          ("", "cannot read the file"),
                          ("text", "no safetensors file"), ("claim", "no safetensors file")]:
        with pytest.raises(CheckpointError, match=message):
            read_tensors(tmp_path / name, "file")

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(_files, "read_whole", denied)
    with pytest.raises(CheckpointError, match="cannot read the file .*text: Permission denied"):
        read_tensors(tmp_path / "text", "file")


@pytest.mark.parametrize("array", [np.zeros((3, 0, 2)), np.array(5), np.arange(6, dtype=">i4").reshape(2, 3),
                                   np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(["a", "bc"])])
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_arrays_are_those_of_numpy(tmp_path, array, write):
    write(tmp_path / "a.npz", one=array, two=np.arange(3))
    with (tmp_path / "a.npz").open("rb") as file:
        arrays = Arrays(file)
        assert arrays.names == ["one", "two"] and arrays.header("one") == (array.dtype, array.shape)
        assert np.array_equal(arrays.read("one"), array)


def test_bytes_are_copied_once_or_twice(tmp_path):
    """Reading needs the file and the tensors in memory, and no more."""
    code = ("import resource, sys; from pathlib import Path; from neuralgraph._files import read_tensors\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "read_tensors(Path(sys.argv[1]), 'file')\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)")
    (tmp_path / "file").write_bytes(save({"a": torch.zeros(25_000_000)}))
    used = subprocess.run([sys.executable, "-c", code, tmp_path / "file"], capture_output=True, check=True)
    assert int(used.stdout) < 230_000  # KiB, of a file of 100 MB
