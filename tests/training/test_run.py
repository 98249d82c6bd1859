"""Runs: they repeat, their metrics are true, and what does not belong to them is refused."""

import csv
import dataclasses
import json
import math

import pytest
import torch
from quick import QUICK, same, small_run
from stopping import StopAfter

import neuralgraph as ng
from neuralgraph.errors import CheckpointError, InputError, RunError, UnknownNameError
from neuralgraph.training import Interrupted, Run, checkpoint as checkpoint_module, history
from neuralgraph.training.classification import Classification


def test_a_run_repeats_exactly(data, undisturbed, tmp_path):
    again = Run.create(QUICK, tmp_path / "again", data)
    torch.manual_seed(123)  # global random state has no say
    again.train()
    assert same(again, undisturbed)
    other = Run.create(dataclasses.replace(QUICK, seed=1), tmp_path / "other", data)
    other.train()
    assert not same(other, undisturbed)


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


def test_bfloat16_trains_near_float32(data, undisturbed, tmp_path):
    run = Run.create(dataclasses.replace(QUICK, precision="bfloat16"), tmp_path / "run", data)
    assert run.model.networks[0].weight.dtype == torch.float32
    rows = run.train()
    exact = undisturbed.progress.rows
    assert 0 < abs(rows[0]["train_loss"] - exact[0]["train_loss"]) < 0.1


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_rounded_products_train_near_float32(precision, data, undisturbed, tmp_path, monkeypatch):
    """As PyTorch's setting has it while the run trains, and no longer."""
    said, learn = [], Classification.learn
    monkeypatch.setattr(Classification, "learn", lambda self, *given: (
        said.append(torch.get_float32_matmul_precision()), learn(self, *given))[1])
    run = Run.create(dataclasses.replace(QUICK, precision=precision), tmp_path / "run", data)
    rows = run.train()
    assert set(said) == {precision} and torch.get_float32_matmul_precision() == "highest"
    assert abs(rows[0]["train_loss"] - undisturbed.progress.rows[0]["train_loss"]) < 0.1


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


def test_diverged_training_is_reported(data, tmp_path):
    recipe = dataclasses.replace(QUICK, lr=1e30)
    with pytest.raises(ng.errors.SelectionError, match="diverged"):
        Run.create(recipe, tmp_path / "r", data).train()


def test_torch_compiles_the_model_that_trains(data, undisturbed, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **how: asked.append((model, how)) or model)
    run = Run.create(dataclasses.replace(QUICK, backend="dense", torch_compile="reduce-overhead"), tmp_path / "run", data)
    plain = Run.create(dataclasses.replace(QUICK, backend="dense"), tmp_path / "plain", data)
    for one in (run, plain):
        one.train()
    assert asked == [(run.model, {"mode": "reduce-overhead", "dynamic": False})]
    assert same(run, plain)


@pytest.mark.parametrize("changes, message", [
    ({"torch_compile": "fast"}, "unknown mode of torch.compile 'fast'"),
    ({"torch_compile": "default"}, "cannot look into the backend 'auto' on cpu; use backend=dense"),
    ({"torch_compile": "default", "backend": "sparse"}, "cannot look into the backend 'sparse'"),
    ({"torch_compile": "default", "backend": "dense", "model": "tiny-continuous"}, "solver of a continuous-time model")])
def test_what_torch_cannot_compile(data, tmp_path, changes, message):
    with pytest.raises((InputError, UnknownNameError), match=message):
        Run.create(dataclasses.replace(QUICK, **changes), tmp_path / "run", data)
    assert not (tmp_path / "run").exists()
