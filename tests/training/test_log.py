"""Logs: every epoch once, in TensorBoard's files and in a table; damaged ones are refused or mended."""

import dataclasses
import sys

import pytest
from quick import QUICK
from stopping import StopAfter

from neuralgraph.errors import CheckpointError
from neuralgraph.training import Interrupted, Run
from neuralgraph.training.log import read_metrics


def scalars(folder):
    """What TensorBoard reads: tag -> [(epoch, value)]."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_logs_hold(run):
    rows = run.progress.rows
    assert read_metrics(run.folder) == rows
    shown = scalars(run.folder)
    assert shown.keys() == rows[0].keys() - {"epoch", "seconds"}
    for tag, points in shown.items():
        assert points == [(row["epoch"], pytest.approx(row[tag])) for row in rows]


def test_logs_hold_every_epoch_once(data, tmp_path):
    """Stopped, cut off after the log but before the checkpoint, and torn in the middle of an event."""
    recipe = dataclasses.replace(QUICK, epochs=3)
    run = Run.create(recipe, tmp_path / "run", data)
    with pytest.raises(Interrupted):
        run.train(StopAfter(4))
    assert_logs_hold(run)
    before = (run.folder / "checkpoint.safetensors").read_bytes()
    with pytest.raises(Interrupted):
        Run.open(run.folder, data).train(StopAfter(3))
    (run.folder / "checkpoint.safetensors").write_bytes(before)
    event_file, = run.folder.glob("events*")
    event_file.write_bytes(event_file.read_bytes()[:-7])
    again = Run.open(run.folder, data)
    again.train()
    assert len(again.progress.rows) == 3
    assert_logs_hold(again)
    assert list(run.folder.glob("events*")) == [event_file]


def test_without_tensorboard_there_is_a_csv(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    run = Run.create(dataclasses.replace(QUICK, epochs=1), tmp_path / "run", data)
    run.train()
    assert read_metrics(run.folder) == run.progress.rows and not list(run.folder.glob("events*"))


def test_damaged_metrics(tmp_path):
    with pytest.raises(CheckpointError, match="the folder of a run"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,much\n")
    with pytest.raises(CheckpointError, match="damaged"):
        read_metrics(tmp_path)


def test_metrics_are_mended(copied, data):
    (copied / "metrics.csv").write_text("epoch\n")  # a kill came between the checkpoint and the table
    Run.open(copied, data).train()
    assert len((copied / "metrics.csv").read_text().splitlines()) == 3
