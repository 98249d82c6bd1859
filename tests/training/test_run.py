"""Runs: the metrics are true, and a continued run equals an undisturbed one, whatever stopped it."""

import csv
import dataclasses
import json
import math
import multiprocessing
import os
import platform
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from checkout import ROOT
from quick import QUICK, same, small_run
from stopping import StopAfter

import neuralgraph as ng
from neuralgraph.errors import CheckpointError, InputError, RunError, UnknownNameError
from neuralgraph.training import RECIPES, Interrupted, Recipe, Run, Watcher, checkpoint as checkpoint_module, history
from neuralgraph.training.folder import alone_in
from neuralgraph.training.log import read_metrics


def test_a_run_repeats_exactly(data, undisturbed, tmp_path):
    again = Run.create(QUICK, tmp_path / "again", data)
    torch.manual_seed(123)  # global random state has no say
    again.train()
    assert same(again, undisturbed)
    other = Run.create(dataclasses.replace(QUICK, seed=1), tmp_path / "other", data)
    other.train()
    assert not same(other, undisturbed)


@pytest.mark.parametrize("steps", [1, 3, 4, 6])
def test_interrupted_and_resumed_equals_undisturbed(data, undisturbed, tmp_path, steps):
    run = Run.create(QUICK, tmp_path / "run", data)
    with pytest.raises(Interrupted, match="everything is saved"):
        run.train(StopAfter(steps))
    resumed = Run.open(tmp_path / "run", data)
    resumed.train()
    assert same(resumed, undisturbed)


def test_rows_are_true(undisturbed, data):
    rows, folder = undisturbed.progress.rows, undisturbed.folder
    with (folder / "metrics.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [float(row["test_accuracy"]) for row in written] == [row["test_accuracy"] for row in rows]
    network = undisturbed.model.networks[0]
    moments = [history(folder).at(3 * epoch) for epoch in range(3)]
    assert [moment.step for moment in moments] == [0, 3, 6]
    for before, after, row in zip(moments, moments[1:], rows):
        assert after.real.sum() == QUICK.k
        assert row["swapped_edges"] == (after.real & ~before.real).sum() > 0
    real = moments[-1].real
    weight = network.weight.detach()[real]
    assert torch.equal(real, network.selection().real)
    assert torch.allclose(moments[-1].weight[real], weight, rtol=2**-11)
    assert rows[-1]["threshold"] == weight.abs().min().item()
    degree = torch.zeros(2, 900, dtype=torch.long)
    for edge in real.nonzero().flatten():
        degree[0, network.wiring.src[edge]] += 1
        degree[1, network.wiring.dst[edge]] += 1
    dead = sum(1 for v in range(900) if (v < 800 and degree[0, v] == 0) or (v >= 32 and degree[1, v] == 0))
    assert rows[-1]["dead_nodes"] == dead
    undisturbed.model.eval()
    with torch.no_grad():
        answers = undisturbed.model(data.normalise(data.test_images)).argmax(1)
    assert rows[-1]["test_accuracy"] == pytest.approx(100 * (answers == data.test_labels).double().mean().item())
    with torch.no_grad():
        logits = undisturbed.model(data.normalise(data.test_images))
    better = (logits > logits.gather(1, data.test_labels[:, None])).sum(1)
    assert rows[-1]["test_top5_accuracy"] == pytest.approx(100 * (better < 5).double().mean().item())
    for epoch, row in enumerate(rows, start=1):
        ever = torch.stack([moment.real for moment in moments[:epoch + 1]]).any(0)
        assert row["never_used_edges"] == int((~ever).sum())
    assert rows[0]["never_used_edges"] > rows[1]["never_used_edges"] > 0
    assert rows[-1]["multiply_adds"] == ng.analysis.cost(undisturbed.model).multiply_adds


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


def test_first_step_is_sgd(data, tmp_path):
    """The first update equals torch.optim.SGD written out, with the rate of step one."""
    recipe = dataclasses.replace(QUICK, epochs=1, batch_size=100, momentum=0.0, crop_padding=0,
                                 flip=False)
    run = Run.create(recipe, tmp_path / "r", data)
    model = ng.models.create("tiny-static", num_classes=10, in_channels=1, image_size=8, k=3000)
    order = ng.data.training_order(100, 0, 0)
    loss = torch.nn.functional.cross_entropy(model(data.normalise(data.train_images[order])),
                                             data.train_labels[order])
    loss.backward()
    run.train()
    assert recipe.learning_rate(0, 2) == pytest.approx(0.1 / 2)
    rate = recipe.learning_rate(0, 1)
    for (name, new), old in zip(run.model.named_parameters(), model.parameters()):
        expected = old - rate * (old.grad + recipe.weight_decay * old)
        torch.testing.assert_close(new, expected, msg=name)


def test_schedules():
    cosine = Recipe("r", "", epochs=4, lr=0.3)
    assert [cosine.learning_rate(t, 5) for t in range(20)] == pytest.approx(
        [0.15 * (1 + math.cos(math.pi * (t + 1) / 20)) for t in range(20)])
    step = Recipe("r", "", epochs=160, lr=0.1, schedule="step", milestones=(80, 120))
    assert [step.learning_rate(e * 7, 7) for e in (0, 79, 80, 119, 120, 159)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert Recipe("r", "", schedule="constant").learning_rate(10**6, 10) == 0.1


def test_recipes_round_trip_and_settings():
    for recipe in RECIPES.values():
        assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    changed = QUICK.with_settings({"k": "none", "lr": "1e-2", "flip": "true", "milestones": "3,5",
                                   "selector": "complete", "image_size": "16"})
    assert (changed.k, changed.lr, changed.flip, changed.milestones) == (None, 0.01, True, (3, 5))
    assert changed.image_size == 16
    solving = RECIPES["tiny-continuous"].with_settings(
        {"solver": "rk4", "solver_options": '{"step_size": 0.5}', "adjoint": "yes", "time": "2"})
    assert (solving.solver_options, solving.adjoint, solving.time) == ({"step_size": 0.5}, True, 2.0)
    assert Recipe.from_json(json.loads(json.dumps(solving.to_json()))) == solving


@pytest.mark.parametrize("settings, error, message", [
    ({"learning_rat": "1"}, UnknownNameError, "unknown setting 'learning_rat'"),
    ({"epoch": "1"}, UnknownNameError, "did you mean 'epochs'"),
    ({"lr": "fast"}, InputError, "lr must be a number, got 'fast'"),
    ({"epochs": "1.5"}, InputError, "epochs must be an integer"),
    ({"flip": "maybe"}, InputError, "true or false"),
    ({"milestones": "a,b"}, InputError, "integers with commas"),
    ({"schedule": "cosin"}, UnknownNameError, "did you mean 'cosine'"),
    ({"epochs": "-1"}, InputError, "at least 0"),
    ({"solver_options": "step_size=1"}, InputError, "solver_options must be a JSON object"),
    ({"solver_options": "[1]"}, InputError, "solver_options must be a JSON object"),
    ({"lr": "nan"}, InputError, "lr must be at least"),
    ({"batch_size": "0"}, InputError, "at least 1"),
    ({"momentum": "0", "nesterov": "true"}, InputError, "momentum above 0"),
])
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        QUICK.with_settings(settings)


@pytest.mark.parametrize("changes, message", [
    ({"batch_size": 101}, "only 100 training images"), ({"crop_padding": 9}, "crop_padding=9"),
    ({"selector": "dwn"}, "did you mean 'dnw'"), ({"pool": "globl"}, "did you mean 'global'"),
    ({"model": "tiny"}, "did you mean 'tiny-static'"), ({"k": 10**7}, "at most the 325760"),
    ({"selector": "complete"}, "takes no k"),
])
def test_a_recipe_that_cannot_run_leaves_no_folder(data, tmp_path, changes, message):
    with pytest.raises((InputError, UnknownNameError, ng.errors.SelectionError), match=message):
        Run.create(dataclasses.replace(QUICK, **changes), tmp_path / "r", data)
    assert not (tmp_path / "r").exists()


def test_other_runs_and_files_are_not_overwritten(data, undisturbed, tmp_path):
    with pytest.raises(RunError, match="holds another run"):
        Run.create(QUICK, undisturbed.folder, data)
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(RunError, match="not empty"):
        Run.create(QUICK, tmp_path, data)


def test_changed_data_are_noticed(data, undisturbed):
    labels = data.train_labels.clone()
    labels[0] = (labels[0] + 1) % 10
    with pytest.raises(RunError, match="not those that"):
        Run.open(undisturbed.folder, dataclasses.replace(data, train_labels=labels))


# Settings at a resume


def test_a_resume_names_changed_settings(data, tmp_path):
    run = Run.create(QUICK, tmp_path / "run", data)
    with pytest.raises(Interrupted):
        run.train(StopAfter(3))  # the end of the first epoch's steps
    folder = tmp_path / "run"
    assert Run.open(folder, data, settings={"lr": str(QUICK.lr), "k": "3000"}).recipe == QUICK
    with pytest.raises(RunError, match=r"lr=0.05 \(was 0.1\).*--accept-changes"):
        Run.open(folder, data, settings={"lr": "0.05"})
    with pytest.raises(RunError, match="batch_size decides .* between epochs only"):
        Run.open(folder, data, settings={"batch_size": "10"}, accept_changes=True)
    with pytest.raises(CheckpointError, match="does not fit"):
        Run.open(folder, data, settings={"model": "tiny-discrete"}, accept_changes=True)
    assert Run.open(folder, data).recipe == QUICK  # a refusal changes nothing
    changed = Run.open(folder, data, settings={"lr": "0.05", "epochs": "3"}, accept_changes=True)
    changed.train()
    assert len(changed.progress.rows) == 3
    again = Run.open(folder, data)
    assert (again.recipe.lr, again.recipe.epochs) == (0.05, 3)
    saved = json.loads((folder / "recipe.json").read_text())["changes"]
    assert saved == [{"epoch": 0, "step": 3, "from": {"epochs": 2, "lr": 0.1}}]


def test_other_images_between_epochs_when_told(data, copied):
    labels = data.train_labels.flip(0)
    other = dataclasses.replace(data, train_images=data.train_images.flip(0), train_labels=labels)
    run = Run.open(copied, other, settings={"epochs": "3"}, accept_changes=True)
    run.train()
    assert Run.open(copied, other).is_finished
    with pytest.raises(RunError, match="fingerprint"):
        Run.open(copied, data)


# Kills


def test_a_run_is_made_whole_or_made_again(data, undisturbed, tmp_path, monkeypatch):
    """Whatever write of its making is the last one before a kill, the same command starts it over."""
    real_write = checkpoint_module.write_atomically

    class Killed(BaseException):
        pass

    for allowed in range(6):
        writes = iter(range(allowed))

        def write(path, content):
            if next(writes, None) is None:
                raise Killed
            real_write(path, content)

        monkeypatch.setattr(checkpoint_module, "write_atomically", write)
        folder = tmp_path / f"run-{allowed}"
        try:
            Run.create(QUICK, folder, data)
        except Killed:
            monkeypatch.undo()
            Run.create(QUICK, folder, data)
        else:
            break
    assert allowed == 3  # checkpoint, metrics, recipe
    monkeypatch.undo()
    for number in range(allowed):
        run = Run.open(tmp_path / f"run-{number}", data)
        assert not (run.folder / ".unfinished").exists()
        assert run.progress.epoch == 0
    run.train()
    assert same(run, undisturbed)


def test_killed_runs_end_as_the_undisturbed_one():
    """The script that kills fifty times, with three."""
    script = ROOT / "benchmarks" / "kill.py"
    done = subprocess.run([sys.executable, script, "--kills", "3", "--seed", "1"], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["killed"] == 3 and result["same_as_undisturbed"] == result["runs"]


def test_metrics_are_mended(copied, data):
    (copied / "metrics.csv").write_text("epoch\n")  # a kill came between the checkpoint and the table
    Run.open(copied, data).train()
    assert len((copied / "metrics.csv").read_text().splitlines()) == 3


def test_two_processes_do_not_train_one_run(data, undisturbed, tmp_path):
    run = Run.create(dataclasses.replace(QUICK, epochs=1), tmp_path / "run", data)

    class Second(Watcher):
        def finished_epoch(self, run, row):
            with pytest.raises(RunError, match="trained by another process"):
                Run.open(run.folder, data).train()

    run.train(Second())


def test_readers_do_not_keep_the_lock_of_a_killed_run(tmp_path):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    with alone_in(tmp_path):
        child.start()
        time.sleep(0.5)
    with alone_in(tmp_path):
        assert child.is_alive()
    child.kill()
    child.join()


def test_sigterm_saves_too(data, undisturbed, tmp_path):
    class Terminate(Watcher):
        def stepped(self, run, images, loss, accuracy):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        Run.create(QUICK, tmp_path / "run", data).train(Terminate())
    resumed = Run.open(tmp_path / "run", data)
    assert resumed.progress.step == 1
    resumed.train()
    assert same(resumed, undisturbed)


def test_bfloat16_trains_near_float32(data, undisturbed, tmp_path):
    run = Run.create(dataclasses.replace(QUICK, precision="bfloat16"), tmp_path / "run", data)
    assert run.model.networks[0].weight.dtype == torch.float32
    rows = run.train()
    exact = undisturbed.progress.rows
    assert 0 < abs(rows[0]["train_loss"] - exact[0]["train_loss"]) < 0.1


@pytest.mark.parametrize("changes, message", [
    ({"width": 0.5}, "no setting 'width'"), ({"steps": 3}, "no setting 'steps'"),
    ({"drop": 0.5}, "option of the selector 'dnw' 'drop'"),
    ({"model": "mobilenet-v1", "k": None, "pool": None}, "use selector=complete"),
])
def test_settings_that_do_not_belong(data, tmp_path, changes, message):
    with pytest.raises((InputError, UnknownNameError), match=message):
        Run.create(dataclasses.replace(QUICK, **changes), tmp_path / "r", data)


def test_settings_reach_the_network(data, tmp_path):
    continuous = {"solver": "rk4", "rtol": 1e-2, "atol": 1e-4, "time": 2.0, "adjoint": True,
                  "max_evaluations": 77}
    recipe = dataclasses.replace(QUICK, model="tiny-continuous", k=None, **continuous,
                                 solver_options={"step_size": 0.5})
    network, = Run.create(recipe, tmp_path / "c", data).model.networks
    assert {name: getattr(network, name) for name in continuous} == continuous
    assert network.options == {"step_size": 0.5}
    recipe = dataclasses.replace(QUICK, model="tiny-discrete", k=None, steps=3, tied=False)
    network, = Run.create(recipe, tmp_path / "d", data).model.networks
    assert not network.tied and len(network.later_functions) == 2
    with pytest.raises(InputError, match="has no setting 'tied'"):
        Run.create(dataclasses.replace(QUICK, tied=True), tmp_path / "s", data)


@pytest.mark.parametrize("changes", [{"model": "tiny-discrete", "k": None, "steps": 2},
                                     {"model": "tiny-continuous", "k": None, "solver": "euler"}])
def test_other_settings_train(data, tmp_path, changes):
    run = small_run(data, tmp_path / "r", **changes)
    assert run.progress.rows[0]["swapped_edges"] > 0
    assert math.isfinite(run.progress.rows[0]["test_loss"])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_kept():
    """64 MiB, freed and asked for again, are the same pages: none is fetched once more."""
    code = """
import resource, torch
from neuralgraph.training import keep_freed_memory
assert keep_freed_memory()
for _ in range(4):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert int(done.stdout) < 1000 < 2**26 // resource.getpagesize(), done.stderr


def test_diverged_training_is_reported(data, tmp_path):
    recipe = dataclasses.replace(QUICK, lr=1e30)
    with pytest.raises(ng.errors.SelectionError, match="diverged"):
        Run.create(recipe, tmp_path / "r", data).train()
