"""Two processes by torchrun and gloo: the same losses as one, the same edges on both, clear ends."""

import json
import re
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
import two_ranks

from neuralgraph.errors import InputError
from neuralgraph.training import Run, history, run as run_module
from neuralgraph.training.distributed import Ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone",
                           "--nproc-per-node", "2", Path(two_ranks.__file__), folder],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode != 0, "the last run of two_ranks.py loses a process"
    (folder / "output").write_text(done.stdout + done.stderr)
    return folder


def test_two_processes_train_as_one(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "make_model", two_ranks.without_batch_statistics)
    alone = Run.create(two_ranks.RECIPE, tmp_path / "one", two_ranks.images(), device="cpu")
    rows = alone.train()
    together = Run.open(folder / "two", two_ranks.images(), device="cpu")
    assert together.is_finished, (folder / "output").read_text()
    for one, two in zip(rows, together.progress.rows, strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], abs=2e-5)
        assert two["test_loss"] == pytest.approx(one["test_loss"], abs=2e-5)
        assert two["train_accuracy"] == pytest.approx(one["train_accuracy"], abs=1.01)  # at most one image
        assert two["test_accuracy"] == pytest.approx(one["test_accuracy"], abs=2.0)
    one, two = history(alone.folder), history(folder / "two")
    assert one.steps == two.steps and one.steps[-1] == 8
    for step in one.steps:
        assert (one.at(step).real != two.at(step).real).sum() <= 4  # rounding at the threshold


@pytest.mark.parametrize("selector", ["targeted-dropout", "l1-anneal"])
def test_other_selectors_agree_on_both(folder, selector):
    """Random draws and masks that are kept; batch norms; bfloat16 for one of them."""
    run = Run.open(folder / selector, two_ranks.images(), device="cpu")
    assert run.is_finished and run.progress.rows[-1]["train_loss"] < 3
    accuracy, _, loss = run.evaluate()  # alone, with the first process's running statistics
    assert run.progress.rows[-1]["test_loss"] == pytest.approx(loss, abs=1e-4)
    assert run.progress.rows[-1]["test_accuracy"] == pytest.approx(accuracy, abs=1e-3)


@pytest.mark.parametrize("case, message", [
    ("apart", "do not agree: the selection of real edges is"),
    ("recipe", "do not agree: the recipe is .*'seed': 0.* but .*'seed': 1.* at rank 1"),
    ("images", "do not agree: the images is .* at rank 1"),
])
def test_differences_are_found_on_both(folder, case, message):
    for rank in (0, 1):
        assert re.search(message, (folder / f"rank-{rank}" / case).read_text())
    assert not (folder / "other").exists()


def test_a_lost_process_ends_the_run_which_resumes(folder, monkeypatch):
    assert "lost another process" in (folder / "rank-0" / "lost").read_text()
    assert not (folder / "rank-1" / "lost").exists()
    monkeypatch.setattr(run_module, "make_model", two_ranks.without_batch_statistics)
    resumed = Run.open(folder / "lost", two_ranks.images(), device="cpu")
    assert resumed.progress.epoch == 1
    assert len(resumed.train()) == 2
    saved = json.loads((folder / "two" / "recipe.json").read_text())
    assert saved["recipe"]["seed"] == 0


def test_devices_that_are_not_there(tmp_path):
    for device, message in (("cuda:99", "asks for GPU 99"), ("gpu", "must be 'cpu'"), ("meta", "must be 'cpu'")):
        with pytest.raises(InputError, match=message):
            Run.create(two_ranks.RECIPE, tmp_path / "r", two_ranks.images(), device=device)
        assert not (tmp_path / "r").exists()


def test_a_model_that_an_exception_keeps_holds_nothing_of_the_group(tmp_path):
    """The last to hold a group of gloo's, in a thread that has the interpreter's lock, may wait forever."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(KeyboardInterrupt), \
                Ranks(0, 2).parallel(torch.nn.Linear(3, 2), torch.device("cpu")) as model:
            held = weakref.ref(model.reducer), weakref.ref(model.logger)
            model(torch.randn(4, 3)).sum().backward()
            raise KeyboardInterrupt
        assert [one() for one in held] == [None, None]
        del model
    finally:
        torch.distributed.destroy_process_group()
