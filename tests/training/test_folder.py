"""The files of a run: locked before written, covered by their digest, and said to be what they are."""

import dataclasses
import errno
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import neuralgraph as ng
from neuralgraph import training
from neuralgraph.data import ImageData, sources
from neuralgraph.errors import CheckpointError, DataError, InputError, RunError
from neuralgraph.training import RECIPES, Interrupted, Recipe, Run, Watcher, open_model
from neuralgraph.training.checkpoint import digest, read_checkpoint, write_checkpoint
from neuralgraph.training.folder import alone_in, free_folder
from neuralgraph.training.log import read_metrics
from neuralgraph.training.progress import read_progress

QUICK = dataclasses.replace(RECIPES["tiny-static"], epochs=1, batch_size=40, k=300)


@pytest.fixture(scope="module")
def data():
    full = ng.data.load("digits")
    return dataclasses.replace(full, train_images=full.train_images[:80], train_labels=full.train_labels[:80],
                               test_images=full.test_images[:20], test_labels=full.test_labels[:20])


@pytest.fixture(scope="module")
def originals(data, tmp_path_factory):
    """A run that has not begun and a finished one."""
    folder = tmp_path_factory.mktemp("originals")
    Run.create(QUICK, folder / "new", data)
    shutil.copytree(folder / "new", folder / "finished")
    Run.open(folder / "finished", data).train()
    return folder


@pytest.fixture
def new(originals, tmp_path):
    return shutil.copytree(originals / "new", tmp_path / "run")


@pytest.fixture
def finished(originals, tmp_path):
    return shutil.copytree(originals / "finished", tmp_path / "run")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# The lock


def test_a_folder_in_use_is_not_written_to(data, new):
    before = contents(new)
    with alone_in(new):
        changed = Run.open(new, data, settings={"lr": "0.05"}, accept_changes=True)
        with pytest.raises(RunError, match="trained by another process"):
            changed.train()
    assert contents(new) == before
    changed.train()
    assert Run.open(new, data).recipe.lr == 0.05


def test_two_new_runs_do_not_mix(data, tmp_path):
    """The second waits for nothing and writes nothing while the first is being made."""
    with pytest.raises(RunError, match="another process"):
        (tmp_path / "a").mkdir()
        with alone_in(tmp_path / "a"):
            Run.create(QUICK, tmp_path / "a", data)
    assert contents(tmp_path / "a") == {}


def test_a_run_that_went_on_elsewhere_is_not_overwritten(data, new):
    late = Run.open(new, data)
    Run.open(new, data).train()
    after = contents(new)
    with pytest.raises(RunError, match="another process has gone on"):
        late.train()
    assert contents(new) == after


def test_free_folders_are_taken_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with free_folder("r") as first, free_folder("r") as second:
        assert (first, second) == (Path("runs/r"), Path("runs/r-2")) and second.is_dir()
    with pytest.raises(ValueError), free_folder("r") as third:
        raise ValueError
    assert not third.exists() and first.exists()


# What a checkpoint says


def test_any_flipped_bit_of_the_state_is_noticed(finished):
    path = finished / "checkpoint.safetensors"
    good = path.read_bytes()
    header = int.from_bytes(good[:8], "little")
    place = good.index(b"neuralgraph") + len(b"neuralgraph")
    state = good[place:good.index(b"}]", place)]  # until the rows end
    assert b"test_accuracy" in state
    for at in range(0, len(state), 23):
        for bit in (0, 4):
            flipped = bytearray(good)
            flipped[place + at] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(CheckpointError, match="damaged|not written by|format"):
                read_checkpoint(path)
    assert place + len(state) < 8 + header
    path.write_bytes(good)
    read_checkpoint(path)


def as_format_2(folder):
    """Rewrites a checkpoint as the version before wrote it."""
    path = folder / "checkpoint.safetensors"
    tensors, state = read_checkpoint(path)
    tensors = {name.replace("optimizer.momentum_buffer.", "momentum."): value for name, value in tensors.items()}
    progress = {name: value for name, value in state["progress"].items() if name not in ("seen", "sums")}
    progress["correct"] = state["progress"]["sums"].get("accuracy", 0)
    header = {"format": 2, "progress": progress, "digest": digest(tensors)}
    save_file(tensors, path, metadata={"neuralgraph": json.dumps(header)})


@pytest.fixture
def finished_rows(originals):
    return open_model(originals / "finished")[2].rows


class StopAtOnce(Watcher):
    def stepped(self, run, images, loss, accuracy):
        signal.raise_signal(signal.SIGINT)


def test_format_2_goes_on(data, new, finished_rows):
    with pytest.raises(Interrupted):
        Run.open(new, data).train(StopAtOnce())
    as_format_2(new)
    _, model, progress = open_model(new)
    assert model.preprocessing is None and progress.sums["accuracy"] >= 0
    old = Run.open(new, data)
    assert old.progress.seen == 40
    timeless = lambda rows: [{k: v for k, v in row.items() if "second" not in k} for row in rows]
    assert timeless(old.train()) == timeless(finished_rows)
    with safe_open(new / "checkpoint.safetensors", "pt") as file:
        assert json.loads(file.metadata()["neuralgraph"])["format"] == 3
    path = new / "checkpoint.safetensors"
    as_format_2(new)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not those that were written"):
        read_checkpoint(path)


def test_a_finished_old_run_learns_its_preprocessing(data, finished):
    as_format_2(finished)
    Run.open(finished, data).train()
    _, model, _ = open_model(finished)
    assert model.preprocessing.mean == data.mean and not model.training


@pytest.mark.parametrize("change", [
    lambda row: {**row, "test_accuracy": "high"}, lambda row: {**row, "epoch": 7}, lambda row: {**row, "epoch": True},
    lambda row: {**row, "seconds": None}, lambda row: {k: v for k, v in row.items() if k != "seconds"},
    lambda row: {**row, "more": 1}, lambda row: {**row, "train_loss": [1.0]}])
def test_rows_of_the_wrong_kind(originals, change):
    path = originals / "finished" / "checkpoint.safetensors"
    progress = read_checkpoint(path)[1]["progress"]
    rows = [*progress["rows"], {**progress["rows"][0], "epoch": 2}]
    assert read_progress({"progress": {**progress, "epoch": 2, "rows": rows}}, path).rows == rows
    rows[1] = change(rows[1])
    with pytest.raises(CheckpointError, match="damaged: (the metrics of epoch 2|row 2 is of epoch)"):
        read_progress({"progress": {**progress, "epoch": 2, "rows": rows}}, path)


def test_metrics_of_another_training(data, finished):
    path = finished / "checkpoint.safetensors"
    tensors, state = read_checkpoint(path)
    state["progress"]["rows"][0]["warmth"] = 1.0
    write_checkpoint(path, tensors, state)
    with pytest.raises(CheckpointError, match="has the metrics .*warmth, but this training makes"):
        Run.open(finished, data)


@pytest.mark.parametrize("text", [
    "epoch,train_loss,seconds\n2,1.0,1.0\n", "epoch,train_loss,seconds\n1,1.0\n", "epoch,train_loss\n1,1\n",
    "epoch,train_loss,seconds\n1,1.0,1.0,9\n", "epoch,train_loss,seconds\n1.5,1,1\n", "a,a\n1,1\n"])
def test_metrics_of_the_wrong_kind(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(CheckpointError, match="damaged"):
        read_metrics(tmp_path)


def test_newer_files_are_called_newer(data, new):
    path = new / "checkpoint.safetensors"
    tensors, state = read_checkpoint(path)
    write_checkpoint(path, tensors, {**state, "format": 4})
    with pytest.raises(CheckpointError, match="format 4, written by a newer version"):
        Run.open(new, data)
    content = json.loads((new / "recipe.json").read_text())
    content["recipe"]["warmth"] = 1
    content["versions"]["neuralgraph"] = "99.1"
    (new / "recipe.json").write_text(json.dumps(content))
    for read in (Run.open, open_model):
        with pytest.raises(CheckpointError, match="neuralgraph 99.1, which is newer .*update.*'warmth'"):
            read(new)
    with pytest.raises(InputError, match="99.1, which is newer"):
        Recipe.read(new)


@pytest.mark.parametrize("name, read", [
    ("checkpoint.safetensors", lambda folder: open_model(folder)), ("recipe.json", lambda folder: open_model(folder)),
    ("metrics.csv", read_metrics),
    ("wiring.history", training.history)])
def test_files_that_may_not_be_read(new, name, read, monkeypatch):
    real = Path.open

    def refuse(path, *args, **kwargs):
        if path == new / name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match=f"cannot read .*{name}: Permission denied"):
        read(new)


# What is known at the start


def few(side):
    images = torch.randint(256, (5, 1, side, side), dtype=torch.uint8)
    return ImageData("few", images, torch.arange(5) % 2, images, torch.arange(5) % 2, ("a", "b"))


def test_a_batch_that_cannot_be_trained_is_refused_at_the_start(tmp_path):
    recipe = dataclasses.replace(RECIPES["mobilenet-dnw"], epochs=1, batch_size=2)  # of 16 pixels it makes one
    with pytest.raises(InputError, match="batch_size=2 leaves a batch of one image"):
        Run.create(recipe, tmp_path / "run", few(16))
    assert not (tmp_path / "run").exists()


def test_images_too_small_for_a_model_are_refused_at_the_start(tmp_path):
    with pytest.raises(InputError, match="instance norm needs maps of more than one pixel"):
        Run.create(dataclasses.replace(QUICK, batch_size=5, pool="global", crop_padding=0), tmp_path / "run", few(1))
    assert not (tmp_path / "run").exists()


def test_images_without_a_test_part_are_refused(tmp_path, monkeypatch):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / name / f"{number}.png")
    monkeypatch.setattr(sources, "IN_MEMORY", 1)
    recipe = dataclasses.replace(QUICK, data=str(tmp_path / "data"), image_size=8, batch_size=2)
    with pytest.raises(DataError, match="the class cat has 3 images, but every fifth"):
        Run.create(recipe, tmp_path / "run", workers=0)
    assert not (tmp_path / "run").exists()


def test_numbers_of_numpy_are_numbers():
    recipe = dataclasses.replace(QUICK, k=np.int64(80), lr=np.float64(0.1), momentum=np.float32(0.5),
                                 flip=np.bool_(True), milestones=(np.int32(3), 5), weight_decay=np.int64(0))
    assert recipe == dataclasses.replace(QUICK, k=80, lr=0.1, momentum=0.5, flip=True, milestones=(3, 5),
                                         weight_decay=0)
    assert json.loads(json.dumps(recipe.to_json()))["k"] == 80 and type(recipe.lr) is float
    for wrong in ({"k": np.float64(3)}, {"k": np.bool_(True)}, {"lr": np.bool_(True)}, {"flip": np.int64(1)},
                  {"flip": 1}, {"k": True}, {"lr": np.array([1.0, 2.0])}, {"name": np.int64(1)}):
        with pytest.raises(InputError, match="must be"):
            dataclasses.replace(QUICK, **wrong)


# Links and shells


def test_links_in_a_run_are_replaced_and_not_followed(data, new, tmp_path):
    pytest.importorskip("tensorboard")
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for name in ("events.out.tfevents.neuralgraph", "metrics.csv"):
        (new / name).unlink()
        (new / name).symlink_to(precious)
    Run.open(new, data).train()
    assert precious.read_text() == "precious"
    assert not any(path.is_symlink() for path in new.iterdir())


def test_a_link_put_there_later_is_not_followed(data, tmp_path):
    pytest.importorskip("tensorboard")
    precious = tmp_path / "precious"
    precious.write_text("precious")

    class Link(Watcher):
        def finished_epoch(self, run, row):
            events = run.folder / "events.out.tfevents.neuralgraph"
            events.unlink()
            events.symlink_to(precious)

    run = Run.create(dataclasses.replace(QUICK, epochs=2), tmp_path / "run", data)
    with pytest.raises(RunError, match="cannot write .*events"):
        run.train(Link())
    assert precious.read_text() == "precious"


COMMAND = [sys.executable, "-m", "neuralgraph", "train", "tiny-static", "--epochs", "50", "--set", "k=500"]


def test_a_terminal_that_closes(tmp_path):
    """SIGHUP from a real terminal, which can no longer be written to: the run is saved all the same."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, [*COMMAND, "--out", "run"], {**os.environ, "TERM": "dumb"})
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
        shown, began = b"", time.monotonic()
        while b"epoch 1/50" not in shown and time.monotonic() < began + 60:
            if select.select([terminal], [], [], 1.0)[0]:
                shown += os.read(terminal, 1000)
        assert b"epoch 1/50" in shown
        assert read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")[1]["progress"]["step"] == 0
    finally:
        os.close(terminal)
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > began + 120:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.1)
    progress = Run.open(tmp_path / "run").progress
    assert progress.step > 0 or progress.epoch > 0


def test_hints_can_be_pasted(tmp_path):
    process = subprocess.Popen([*COMMAND, "--out", "my run"], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "neuralgraph train tiny-static --resume --out 'my run'" in errors


def test_ignored_signals_stay_ignored(data, tmp_path):
    """As nohup and shells without a terminal have it."""
    class HangUp(Watcher):
        def stepped(self, run, images, loss, accuracy):
            signal.raise_signal(signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert len(Run.create(QUICK, tmp_path / "run", data).train(HangUp())) == 1
    finally:
        signal.signal(signal.SIGHUP, before)
