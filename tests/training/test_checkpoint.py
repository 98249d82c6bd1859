"""What is read of a run's folder: damage and foreign files are named, a full disk keeps the last checkpoint."""

import contextlib
import dataclasses
import json
import resource
import shutil

import numpy as np
import pytest
import torch
from older import write_wirings
from quick import QUICK, same

from neuralgraph.errors import CheckpointError, RunError
from neuralgraph.training import Run, Watcher, checkpoint as checkpoint_module, read_wirings
from neuralgraph.training.checkpoint import read_checkpoint, write_atomically, write_checkpoint


def test_damaged_checkpoints(copied, data):
    path = copied / "checkpoint.safetensors"
    content = path.read_bytes()
    for damaged in (b"", content[:7], content[:len(content) // 2], b"\xff" * 9 + content[9:],
                    b"\x80\x04\x95pickle"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged or no safetensors"):
            Run.open(copied, data)
    for place in (-1, -len(content) // 2):  # one byte among the values
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place:][1:])
        with pytest.raises(CheckpointError, match="not those that were written"):
            Run.open(copied, data)
    path.unlink()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Run.open(copied, data)


def test_foreign_checkpoints(copied, data):
    path = copied / "checkpoint.safetensors"
    tensors, state = read_checkpoint(path)
    from safetensors.torch import save_file

    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="not written by neuralgraph"):
        Run.open(copied, data)
    write_checkpoint(path, tensors, {**state, "format": 99})
    with pytest.raises(CheckpointError, match="format 99"):
        Run.open(copied, data)
    write_checkpoint(path, {k: v for k, v in tensors.items() if "stem" not in k}, state)
    with pytest.raises(CheckpointError, match="does not fit.*stem"):
        Run.open(copied, data)
    write_checkpoint(path, {**tensors, "real.0": tensors["real.0"][:5]}, state)
    with pytest.raises(CheckpointError, match="does not fit"):
        Run.open(copied, data)
    write_checkpoint(path, tensors, {"progress": {"epoch": 1, "stpe": 2}})
    with pytest.raises(CheckpointError, match="damaged"):
        Run.open(copied, data)


@pytest.mark.parametrize("change, message", [
    (lambda t: {**t, "model.stem.0.weight": t["model.stem.0.weight"].double()}, "stem.0.weight.*float64.*float32"),
    (lambda t: {**t, "model.stem.0.weight": t["model.stem.0.weight"][:1]}, "stem.0.weight"),
    (lambda t: {**t, "model.more": torch.zeros(1)}, "'more' is .*no such tensor"),
    (lambda t: {**t, "optimizer.momentum_buffer.more": torch.zeros(1)}, "'more' is .*no such tensor"),
    (lambda t: {**t, "optimizer.momentum_buffer.stem.0.weight":
                t["optimizer.momentum_buffer.stem.0.weight"].half()}, "stem.0.weight.*float16"),
    (lambda t: {**t, "optimizer.momentum_buffer.stem.0.weight": torch.zeros(1)}, "stem.0.weight"),
    (lambda t: {**t, "others.0": torch.zeros(1)}, "'others.0' is in it.*no such tensor"),
    (lambda t: {**t, "real.0": t["real.0"].float()}, "'0' is torch.float32"),
    (lambda t: {**t, "real.1": t["real.0"].clone()}, "'1' is .*no such tensor"),
    (lambda t: {k: v for k, v in t.items() if not k.startswith("real")}, "'0' is missing"),
])
def test_tensors_that_do_not_fit(copied, data, change, message):
    path = copied / "checkpoint.safetensors"
    tensors, state = read_checkpoint(path)
    write_checkpoint(path, change(tensors), state)
    with pytest.raises(CheckpointError, match=message):
        Run.open(copied, data)


@pytest.mark.parametrize("progress", [
    7, [], None, {"epoch": "2"}, {"epoch": -1}, {"epoch": 1.0}, {"epoch": True}, {"epoch": 0, "step": 10**9},
    {"epoch": 2, "rows": [{}]}, {"epoch": 1, "rows": [3]}, {"epoch": 0, "rows": {}}, {"loss": "nan"},
    {"epoch": 2, "rows": [{"a": 1}, {"b": 1}]}])
def test_progress_of_the_wrong_kind(copied, data, progress):
    path = copied / "checkpoint.safetensors"
    tensors, state = read_checkpoint(path)
    write_checkpoint(path, tensors, {**state, "progress": progress})
    with pytest.raises(CheckpointError, match="damaged"):
        Run.open(copied, data)


@pytest.mark.parametrize("field, value", [
    ("lr", "0.1"), ("lr", None), ("k", "5"), ("k", 1.5), ("epochs", 2.5), ("epochs", True), ("flip", "no"),
    ("milestones", 3), ("milestones", ["a"]), ("model", ["x"]), ("model", 3), ("seed", 2**70),
    ("image_size", "big"), ("data", {}), ("lr", 1e999), ("width", [1])])
def test_settings_of_the_wrong_kind(copied, data, field, value):
    path = copied / "recipe.json"
    content = json.loads(path.read_text())
    content["recipe"][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="damaged.*" + field):
        Run.open(copied, data)


def test_bottomless_json(copied, data):
    (copied / "recipe.json").write_text("[" * 10**6)
    with pytest.raises(CheckpointError, match="damaged"):
        Run.open(copied, data)


def test_damaged_wirings(copied):
    path = write_wirings(copied, [0, 3, 6])[2]
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        content = bytearray(good)
        for place in rng.integers(0, len(content), 3):
            content[place] = rng.integers(256)
        path.write_bytes(bytes(content[:rng.integers(1, 2 * len(good))]))
        with contextlib.suppress(CheckpointError):
            read_wirings(path)
    bits, weight = np.packbits(np.ones(9, bool)), np.ones(9, np.float32)
    for arrays in ({"edges_0": np.int64(2**50)}, {"edges_0": np.int64(17)}, {"edges_0": np.int64(-8)},
                   {"weight_0": weight[:5]}, {"weight_0": weight.astype("f8")}, {"real_0": bits.astype(int)},
                   {"edges_0": np.array(["x"])}):
        np.savez(path, **{"real_0": bits, "edges_0": np.int64(9), "weight_0": weight, **arrays})
        with pytest.raises(CheckpointError, match="damaged or holds no wirings"):
            read_wirings(path)
    with pytest.raises(CheckpointError, match="no file"):
        read_wirings(copied / "wiring" / "absent.npz")


def test_a_disk_that_really_fills(data, tmp_path):
    """A limit on file sizes, reached in the middle of a checkpoint."""
    run = Run.create(dataclasses.replace(QUICK, epochs=1), tmp_path / "run", data)
    path = run.folder / "checkpoint.safetensors"
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(RunError, match="cannot write .*checkpoint.*--resume"):
            run.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and not list(run.folder.rglob("*.partial"))
    assert len(Run.open(run.folder, data).train()) == 1


def test_damaged_description(copied, data):
    path = copied / "recipe.json"
    for text, message in (("{", "damaged"), ("[]", "JSON object"), ("{}", "damaged"),
                          ('{"recipe": {"nmae": 1}, "data": {}}', "damaged")):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            Run.open(copied, data)
    path.unlink()
    with pytest.raises(CheckpointError, match="the folder of a run"):
        Run.open(copied, data)


def test_a_full_disk_keeps_the_last_checkpoint(data, undisturbed, tmp_path, monkeypatch):
    """The disk fills in the middle of the second epoch's checkpoint; room is made; the run goes on."""
    run = Run.create(QUICK, tmp_path / "run", data)
    real_write = checkpoint_module.write_atomically

    class Full(Watcher):
        def finished_epoch(self, run, row):
            monkeypatch.setattr("os.fsync", fail)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="No space left on device.*--resume"):
        run.train(Full())
    assert not [p for p in run.folder.rglob("*") if "partial" in p.name]
    monkeypatch.undo()
    assert real_write is write_atomically
    resumed = Run.open(run.folder, data)
    assert resumed.progress.epoch == 1
    resumed.train()
    assert same(resumed, undisturbed)


def test_a_removed_folder_is_reported(data, tmp_path):
    class Remove(Watcher):
        def finished_epoch(self, run, row):
            shutil.rmtree(run.folder)

    with pytest.raises(RunError, match="cannot write .* the folder is gone"):
        Run.create(QUICK, tmp_path / "run", data).train(Remove())


def test_write_atomically(tmp_path, monkeypatch):
    path = tmp_path / "f"
    write_atomically(path, b"old")
    monkeypatch.setattr("os.fsync", lambda d: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(RunError, match="full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
