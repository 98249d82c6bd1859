"""The paper's tables again: the plan is the paper's, and no interruption changes what comes out."""

import dataclasses
import functools
import json
import shlex
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from stopping import StopAfter

import neuralgraph as ng
from neuralgraph.cli import main
from neuralgraph.errors import InputError, RunError, UnknownNameError
from neuralgraph.models import MODELS, mobilenet
from neuralgraph.training import RECIPES, Interrupted, Run, Watcher
from neuralgraph.training.comparison import spread
from neuralgraph.training.reproduce import TABLES, Reproduction

QUICK = {"batch_size": "40", "k": "2000"}
ROWS = ["static-rg", "static-dnw"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """120 digits for training and 40 for testing, as a .npz."""
    full = ng.data.load("digits")
    path = tmp_path_factory.mktemp("images") / "few.npz"
    np.savez(path, train_images=full.train_images[:120].numpy(), train_labels=full.train_labels[:120].numpy(),
             test_images=full.test_images[:40].numpy(), test_labels=full.test_labels[:40].numpy())
    return str(path)


def plan(out, images, **changes):
    return Reproduction("table1", out, images, **{"epochs": 2, "seeds": 2, "rows": ROWS,
                                                  "settings": QUICK, **changes})


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    *_, result = plan(folder, images).run()
    return folder, result


def outcomes(result):
    """What does not depend on the clock or the folder."""
    return {row["name"]: [{key: run[key] for key in ("seed", "epochs", "last", "best", "best_epoch",
                                                     "last_top5", "multiply_adds", "dead_nodes")}
                          for run in row["runs"]] for row in result["rows"]}


def test_the_tables_are_the_papers():
    """Tables 1 and 2, read off the paper."""
    assert [(row.mean, row.std) for row in TABLES["table1"]] == [
        (76.1, 0.5), (80.9, 0.6), (77.3, 0.7), (82.3, 0.6), (78.5, 1.2), (83.1, 0.3)]
    assert [(row.mean, row.std) for row in TABLES["table2"] if row.mean] == [
        (86.3, 0.2), (87.2, 0.1), (86.7, 0.5), (84.3, 0.6), (89.2, 0.4), (87.9, 0.3), (89.4, 0.2),
        (89.7, 0.1), (88.7, 0.2), (89.7, 0.2)]
    assert {f"{table}-{row.name}" for table, rows in TABLES.items() for row in rows} == {
        name for name in RECIPES if name.startswith(("table1-", "table2-"))}
    for rows in TABLES.values():
        names = [row.name for row in rows]
        for row in rows:
            assert row.source is None or names.index(row.source) < names.index(row.name)


def test_the_schedule_is_named(tmp_path):
    full = Reproduction("table1", tmp_path, "digits")
    assert not full.is_reduced and full.schedule == "160 epochs, the paper's 160"
    assert full.recipe(full.rows[1], 3) == dataclasses.replace(
        RECIPES["table1-static-dnw"], data="digits", seed=3)
    short = Reproduction("table1", tmp_path, "digits", epochs=20, settings={"lr": "0.05"})
    assert short.is_reduced
    assert short.schedule == "reduced schedule: 20 of the paper's 160 epochs, lr=0.05"
    assert short.recipe(short.rows[0], 0).milestones == (10, 15)


def test_rows_bring_what_they_start_from(tmp_path):
    tickets = Reproduction("table2", tmp_path, "digits", rows=["fine-tune-0.01"], seeds=1)
    assert [row.name for row in tickets.rows] == ["complete", "fine-tune-0.01"]
    assert tickets.recipe(tickets.rows[1], 0).source == str(tmp_path / "complete" / "seed-0")


def test_the_result_is_that_of_the_runs(whole, images):
    folder, result = whole
    saved = json.loads((folder / "table1.json").read_text())
    assert saved == json.loads(json.dumps({key: value for key, value in result.items() if key != "newest"}))
    assert saved["is_reduced"] and saved["seeds"] == [0, 1] and saved["versions"]["torch"]
    for row in saved["rows"]:
        assert [run["seed"] for run in row["runs"]] == [0, 1]
        for run in row["runs"]:
            rows = Run.open(run["folder"]).progress.rows
            assert run["last"] == rows[-1]["test_accuracy"]
            assert run["best"] == max(r["test_accuracy"] for r in rows)
        last = [run["last"] for run in row["runs"]]
        assert row["last"] == {"mean": pytest.approx(statistics.mean(last)), "runs": 2,
                               "std": pytest.approx(statistics.stdev(last), abs=1e-3)}


def test_the_commands_make_the_same_runs(whole, tmp_path, monkeypatch):
    folder, result = whole
    run = result["rows"][1]["runs"][1]
    name, *arguments = shlex.split(run["command"])
    assert name == "neuralgraph"
    done = CliRunner().invoke(main, [*arguments[:-1], str(tmp_path / "again")])
    assert done.exit_code == 0, done.output
    timeless = [{key: value for key, value in row.items() if "second" not in key}
                for row in Run.open(run["folder"]).progress.rows]
    assert timeless == [{key: value for key, value in row.items() if "second" not in key}
                        for row in Run.open(tmp_path / "again").progress.rows]
    assert shlex.split(result["command"])[:3] == ["neuralgraph", "reproduce", "table1"]


def test_finished_runs_are_skipped(whole, images):
    class Fail(Watcher):
        def stepped(self, run, images, loss, accuracy):
            raise AssertionError("a finished run was trained")

    folder, result = whole
    *_, again = plan(folder, images).run(Fail())
    assert outcomes(again) == outcomes(result)


def test_interrupted_it_goes_on(whole, images, tmp_path):
    for steps in (4, 9):
        with pytest.raises(Interrupted):
            list(plan(tmp_path, images).run(StopAfter(steps)))
    *_, result = plan(tmp_path, images).run()
    assert outcomes(result) == outcomes(whole[1])


def test_killed_it_goes_on(whole, images, tmp_path):
    """SIGKILL while it starts and in the second of its runs; then the same command to the end."""
    command = [sys.executable, "-m", "neuralgraph", "reproduce", "table1", "--data", images, "--epochs", "2",
               "--seeds", "2", "--rows", ",".join(ROWS), "--out", str(tmp_path / "out"), "--threads", "1",
               *(f"--set={key}={value}" for key, value in QUICK.items())]
    pieces = []
    for moment in ("static-rg/seed-0", "static-dnw/seed-0/metrics.csv"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline = time.monotonic() + 120
        path = tmp_path / "out" / moment
        while not (path.exists() and path.stat().st_size) and process.poll() is None:  # metrics are empty at first
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        pieces.append(process.communicate()[0])
        assert process.returncode == -signal.SIGKILL, pieces
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert outcomes(json.loads((tmp_path / "out" / "table1.json").read_text())) == outcomes(whole[1])


def test_the_command_prints_the_papers_numbers_beside(whole, images):
    folder, result = whole
    done = CliRunner().invoke(main, ["reproduce", "table1", "--data", images, "--epochs", "2", "--seeds",
                                     "2", "--rows", " , ".join(ROWS), "--out", str(folder),
                                     *(f"--set={key}={value}" for key, value in QUICK.items())])
    assert done.exit_code == 0, done.output
    row, = (line for line in done.output.splitlines() if line.startswith("Static (DNW)"))
    last = result["rows"][1]["last"]
    assert row.split("  ")[-1] == "80.9 ± 0.6"
    assert f"{last['mean']:.1f} ± {last['std']:.1f}" in row
    assert "reduced schedule" in done.output and "few.npz" in done.output


def test_other_settings_need_another_folder(whole, images):
    with pytest.raises(RunError, match="epochs=2 .asked for 3.*another folder with --out"):
        list(plan(whole[0], images, epochs=3).run())


@pytest.mark.parametrize("changes, error, message", [
    ({"rows": ["static-dwn"]}, UnknownNameError, "did you mean 'static-dnw'"),
    ({"seeds": 0}, InputError, "at least 1"),
    ({"settings": {"seed": "3"}}, InputError, "option for it"),
    ({"settings": {"lrr": "3"}}, UnknownNameError, "did you mean 'lr'"),
    ({"settings": {"lr": "x"}}, InputError, "lr must be a number")])
def test_bad_plans(images, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        plan(tmp_path, images, **changes)
    with pytest.raises(UnknownNameError, match="did you mean 'table1'"):
        Reproduction("tabel1", tmp_path, images)


def test_spread_of_few_runs():
    assert spread([], "last") == {"mean": None, "std": None, "runs": 0}
    assert spread([{"last": 3.0}, {"last": None}], "last") == {"mean": 3.0, "std": None, "runs": 1}


def test_table_2_from_the_complete_graph(tmp_path, monkeypatch):
    """A lottery ticket and a fine-tuned network start from the complete run of their own seed."""
    stages = mobilenet.STAGES[:3]  # all five are the recipes' test, and take ten times as long
    monkeypatch.setitem(MODELS, "mobilenet-dnw", functools.partial(mobilenet.mobilenet_dnw, stages=stages))
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for number in range(4):
                picture = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(picture).save(tmp_path / "images" / part / name / f"{number}.png")
    table = Reproduction("table2", tmp_path / "out", str(tmp_path / "images"), epochs=1, seeds=1,
                         rows=["mobilenet-v1", "lottery-ticket"], settings={"batch_size": "4"})
    *_, result = table.run()
    assert [row["name"] for row in result["rows"]] == ["mobilenet-v1", "complete", "lottery-ticket"]
    ticket = Run.open(tmp_path / "out" / "lottery-ticket" / "seed-0")
    assert ticket.is_finished and ticket.model.num_real_edges == sum(stage.budget(0.225) for stage in stages)
    assert ticket.recipe.source == str(tmp_path / "out" / "complete" / "seed-0")
