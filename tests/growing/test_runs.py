"""Runs that grow: continued ones equal undisturbed ones, and every command takes their folder."""

import dataclasses
import json
import shutil
import signal

import pytest
import torch
from click.testing import CliRunner

import neuralgraph as ng
from neuralgraph.cli import main
from neuralgraph.errors import CheckpointError, InputError, RunError, UnknownNameError
from neuralgraph.models import tiny
from neuralgraph.training import RECIPES, GrowingRun, Interrupted, Recipe, Run, Watcher, open_model
from neuralgraph.training.checkpoint import read_checkpoint, write_checkpoint
from neuralgraph.training.report import compare, draw, read_records

GROW = {"grow": "split", "grow_rounds": "2", "grow.route": "exact", "grow.fraction": "0.2"}
QUICK = dataclasses.replace(RECIPES["tiny-static"], model="small", epochs=1, batch_size=20, k=60,
                            crop_padding=1).with_settings(GROW)


def small(*, num_classes=10, in_channels=1, image_size=8, selector="dnw", k=None, selector_options=None, backend="auto",
          seed=0):
    """As the static classifier of the paper, with few nodes."""
    generator = torch.Generator().manual_seed(seed)
    wiring = ng.wirings.blocks([4, 8, 6, 5], ng.NodeFunction("norm activation conv", norm="instance"))
    network = ng.StaticNeuralGraph(wiring, tiny.make_selector(selector, k, selector_options), backend, generator)
    return tiny.classifier(network, num_classes, in_channels, image_size, "authors", generator)


@pytest.fixture(scope="module", autouse=True)
def small_model():
    ng.models.MODELS["small"] = small
    yield
    del ng.models.MODELS["small"]


@pytest.fixture(scope="module")
def data(small_model):
    full = ng.data.load("digits")
    return dataclasses.replace(full, train_images=full.train_images[:40], train_labels=full.train_labels[:40],
                               test_images=full.test_images[:20], test_labels=full.test_labels[:20])


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    GrowingRun.create(QUICK, folder, data).train()
    return folder


def assert_same(one, other):
    for number in range(3):
        (a, first), (b, second) = (read_checkpoint(folder / f"round-{number}" / "checkpoint.safetensors")
                                   for folder in (one, other))
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        assert first.get("growth") == second.get("growth")


def test_every_round_is_a_run_of_its_own_size(undisturbed, data):
    sizes = []
    for number in range(3):
        recipe, model, progress = open_model(undisturbed / f"round-{number}")
        assert progress.epoch == 1 and recipe.grow is None
        network = model.networks[0]
        sizes.append((network.wiring.num_nodes, network.selector.k))
        assert int(network.selection().real.sum()) == network.selector.k
        assert Run.open(undisturbed / f"round-{number}", data).train()[0]["epoch"] == 1
    assert sizes[0] == (23, 60) and all(a < b for a, b in zip(sizes, sizes[1:]))
    report = json.loads((undisturbed / "split-1.json").read_text())
    assert sum(node["split"] for node in report["nodes"]) == sum(map(len, report["growth"]["split"].values()))


def test_the_next_round_begins_where_the_last_ended(undisturbed, data, tmp_path):
    """What is trained on starts from the split of the trained model, within what the step of 0.01 does."""
    run = Run.open(undisturbed / "round-0", data)
    grown, report = ng.growing.split(run.model, [(data.normalise(data.train_images), data.train_labels)],
                                     torch.nn.functional.cross_entropy, 0.2, route="exact")
    assert abs(report.measured_change) < 1e-2 * report.loss_before
    started = Run.grow_from(run, tmp_path / "next", grown, report.growth)
    assert all(torch.equal(value, grown.state_dict()[name]) for name, value in started.model.state_dict().items())


class Stop(Watcher):
    """Ends a training at a step, or as a kill would between two rounds."""

    def __init__(self, step=None, rounds=None):
        self.step, self.rounds = step, rounds

    def stepped(self, run, images, loss, accuracy):
        self.step = None if self.step is None else self.step - 1
        if self.step == 0:
            signal.raise_signal(signal.SIGINT)

    def grew(self, run, report):
        self.rounds = None if self.rounds is None else self.rounds - 1
        if self.rounds == 0:
            raise MemoryError("killed")


@pytest.mark.parametrize("stop, error", [({"step": 1}, Interrupted), ({"step": 3}, Interrupted),
                                         ({"rounds": 1}, MemoryError), ({"rounds": 2}, MemoryError)])
def test_continued_equals_undisturbed(undisturbed, data, tmp_path, stop, error):
    run = GrowingRun.create(QUICK, tmp_path / "run", data)
    with pytest.raises(error):
        run.train(Stop(**stop))
    GrowingRun.open(tmp_path / "run", data).train()
    assert_same(tmp_path / "run", undisturbed)


def test_a_round_whose_making_was_cut_off_is_made_again(undisturbed, data, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    (tmp_path / "run" / "round-2" / "recipe.json").unlink()
    (tmp_path / "run" / "round-2" / ".unfinished").touch()
    GrowingRun.open(tmp_path / "run", data).train()
    assert_same(tmp_path / "run", undisturbed)
    for number in range(3):
        shutil.rmtree(tmp_path / "run" / f"round-{number}")
    GrowingRun.open(tmp_path / "run", data).train()
    assert_same(tmp_path / "run", undisturbed)


def test_reports_show_every_round(undisturbed, tmp_path):
    records = read_records([undisturbed])
    assert [record.name for record in records] == ["round-0", "round-1", "round-2"]
    lines = compare(records)
    assert [line["k"] for line in lines] == [record.k for record in records] and lines[0]["k"] < lines[1]["k"]
    assert len(draw(records, tmp_path)) == 1 + 5 * 3


def test_commands_take_the_folder_for_its_last_round(undisturbed, tmp_path):
    recipe, model, _ = open_model(undisturbed)
    k = model.networks[0].selector.k
    for arguments, expected in ((["inspect", str(undisturbed)], f"edges          {k} of"),
                                (["export", str(undisturbed), "--format", "graphml", "--out", str(tmp_path / "w.graphml")],
                                 f", {k} edges"),
                                (["export", str(undisturbed), "--format", "onnx", "--out", str(tmp_path / "m.onnx")],
                                 f", {k} edges"),
                                (["report", str(undisturbed)], "round-2")):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0 and expected in result.output, result.output
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ng.compile(model)(images), model(images), rtol=1e-4, atol=1e-4)


def test_settings(data, tmp_path):
    assert QUICK.grow_options == {"route": "exact", "fraction": 0.2} and QUICK.grow_rounds == 2
    assert Recipe.from_json(json.loads(json.dumps(QUICK.to_json()))) == QUICK
    assert {"grow", "grow_rounds", "grow.fraction", "grow.cost"} <= {row[0] for row in QUICK.settings()}
    plain = RECIPES["tiny-static"]
    for settings, error, message in (({"grow": "spilt"}, UnknownNameError, "did you mean 'split'"),
                                     ({"grow_rounds": "3"}, InputError, "give grow=split"),
                                     ({"grow.fraction": "0.1"}, InputError, "give grow=split"),
                                     ({"grow": "split", "grow_rounds": "0"}, InputError, "at least 1"),
                                     ({"grow": "split", "grow.fractoin": "0"}, UnknownNameError, "fraction"),
                                     ({"grow": "split", "grow.fraction": "x"}, InputError, "a number")):
        with pytest.raises(error, match=message):
            plain.with_settings(settings)
    with pytest.raises(InputError, match="GrowingRun"):
        Run.create(QUICK, tmp_path / "run", data)
    with pytest.raises(InputError, match="grow=split"):
        GrowingRun.create(plain, tmp_path / "run", data)
    with pytest.raises(InputError, match="split everything"):
        GrowingRun.create(QUICK.with_settings({"grow.fraction": "1"}), tmp_path / "run", data)
    with pytest.raises(UnknownNameError, match="step_size"):
        GrowingRun.create(dataclasses.replace(QUICK, grow_options={"step_size": 1}), tmp_path / "run", data)
    assert not (tmp_path / "run").exists()


def test_changed_settings_are_named(undisturbed, data):
    with pytest.raises(RunError, match="grow_rounds=3"):
        GrowingRun.open(undisturbed, data, settings={"grow_rounds": "3"})
    assert GrowingRun.open(undisturbed, data, settings={"grow_rounds": "3"}, accept_changes=True).rounds == 3


@pytest.mark.parametrize("growth", [[{}], [{"split": {"stages.0": [99]}, "k": {"stages.0": 70}}], "no list", [3],
                                    [{"split": {"nowhere": [1]}, "k": {"stages.0": 70}}]])
def test_damaged_growth(undisturbed, tmp_path, growth):
    shutil.copytree(undisturbed, tmp_path / "run")
    path = tmp_path / "run" / "round-2" / "checkpoint.safetensors"
    tensors, state = read_checkpoint(path)
    write_checkpoint(path, tensors, {**state, "growth": growth})
    with pytest.raises(CheckpointError, match="does not fit"):
        open_model(tmp_path / "run")
