"""A continued run equals an undisturbed one, whatever stopped it."""

import dataclasses
import json
import multiprocessing
import signal
import subprocess
import sys
import time

import pytest
from checkout import ROOT
from quick import QUICK, same
from stopping import StopAfter

from neuralgraph.errors import RunError
from neuralgraph.training import Interrupted, Run, Watcher
from neuralgraph.training.folder import alone_in


@pytest.mark.parametrize("steps", [1, 3, 4, 6])
def test_interrupted_and_resumed_equals_undisturbed(data, undisturbed, tmp_path, steps):
    run = Run.create(QUICK, tmp_path / "run", data)
    with pytest.raises(Interrupted, match="everything is saved"):
        run.train(StopAfter(steps))
    resumed = Run.open(tmp_path / "run", data)
    resumed.train()
    assert same(resumed, undisturbed)


def test_killed_runs_end_as_the_undisturbed_one():
    """The script that kills fifty times, with three."""
    script = ROOT / "benchmarks" / "kill.py"
    done = subprocess.run([sys.executable, script, "--kills", "3", "--seed", "1"], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["killed"] == 3 and result["same_as_undisturbed"] == result["runs"]


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
