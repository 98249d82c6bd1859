"""The arena: contenders are equal in all but the selector, and no way to make the runs changes what comes out."""

import dataclasses
import itertools
import json
import shlex
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from stopping import StopAfter

import neuralgraph as ng
from neuralgraph.cli import main
from neuralgraph.errors import InputError, MissingPackageError, RunError, SelectionError, UnknownNameError
from neuralgraph.layers.sparse import sparse_layers
from neuralgraph.models.mobilenet import MobileNetStage
from neuralgraph.selectors import SELECTORS, k_is
from neuralgraph.training import RECIPES, Interrupted, Run
from neuralgraph.training.arena import RESAMPLES, Arena, Contender, bootstrap_interval, paired_difference, parse_contenders
from neuralgraph.training.job import Job, outcome

BASE, QUICK = RECIPES["tiny-static"], {"batch_size": "20"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """60 digits for training and 30 for testing, as a .npz."""
    full = ng.data.load("digits")
    path = tmp_path_factory.mktemp("images") / "few.npz"
    np.savez(path, train_images=full.train_images[:60].numpy(), train_labels=full.train_labels[:60].numpy(),
             test_images=full.test_images[:30].numpy(), test_labels=full.test_labels[:30].numpy())
    return str(path)


def layers(out, images, contenders="dnw,rigl:every=2,lottery-ticket", **changes):
    return Arena(BASE, contenders, out, **{"data": images, "epochs": 2, "k": 2000, "seeds": 2, "on": "layers",
                                           "settings": QUICK, **changes})


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    *_, result = layers(folder, images).run()
    return folder, result


def timeless(result, folder):
    """What does not depend on the clock, the folder, or how the runs were made."""
    varying = ("timed", "seconds", "step_seconds", "command", "newest", "jobs", "ray", "versions")
    if isinstance(result, dict):
        return {key: timeless(value, folder) for key, value in result.items() if key not in varying}
    if isinstance(result, (list, tuple)):
        return [timeless(value, folder) for value in result]
    return result.replace(str(folder), "OUT") if isinstance(result, str) else result


# Equal in all but the selector

def initial(make, name):
    """The initial values of a model but for the selector's own, and for weights that are never trained."""
    torch.manual_seed(3)
    model = make(name)
    held = {id(network.weight) for network in model.networks if network.selector.freezes_weight}
    return {own: value.clone() for own, value in model.named_parameters()
            if "selector" not in own and id(value) not in held}


def small_mobilenet(name):
    width = {} if k_is(name) == "found" else {"width": 0.5}
    return ng.models.create("mobilenet-dnw", stages=(MobileNetStage(4, 8, 1, 1), MobileNetStage(8, 8, 2, 2)), image_size=16,
                            num_classes=3, selector=name, seed=7, small=True, **width)


def convnet(name):
    density = {} if k_is(name) == "found" else {"density": 0.1}
    return ng.models.create("tiny-convnet", selector=name, seed=7, **density)


@pytest.mark.parametrize("make", [small_mobilenet, convnet])
@pytest.mark.parametrize("name", SELECTORS)
def test_initial_weights_do_not_depend_on_the_selector(make, name):
    expected, got = initial(make, "dnw"), initial(make, name)
    held = ng.selectors.create(name, None if k_is(name) == "found" else 1).freezes_weight
    assert got.keys() == expected.keys() or (held and got.keys() < expected.keys())
    for own, value in got.items():
        assert torch.equal(value, expected[own]), own


def test_runs_have_equal_settings(images, tmp_path):
    arena = layers(tmp_path, images, "dnw,complete,fine-tune,a=rigl:every=7", seeds=1)
    data = ng.data.load(images)
    recipes = {entry.name: entry.recipe for entry in arena._entries(data)}
    fixed = {field.name for field in dataclasses.fields(recipes["dnw"])} - {"selector", "selector_options", "k"}
    for recipe in recipes.values():
        assert all(getattr(recipe, name) == getattr(recipes["dnw"], name) for name in fixed)
        assert recipe.k == (None if recipe.selector == "complete" else 2000)
    assert recipes["a"].selector_options == {"every": 7} and list(recipes)[-1] == "fine-tune"


@pytest.mark.parametrize("on, k", [("graph", 32_576), ("layers", 9_344)])
def test_density_is_a_share_of_all_candidates(images, tmp_path, on, k):
    arena = layers(tmp_path, images, "dnw", k=None, density=0.1, on=on)
    entry, = arena._entries(ng.data.load(images))
    assert entry.recipe.k == arena.k == k


@pytest.mark.parametrize("settings, changes, k", [
    ({}, {}, 9345), ({"model.granularity": "kernel"}, {"density": 0.25}, 2880),
    ({}, {"on": "graph"}, 32_000)])
def test_without_k_all_have_as_many_as_the_model_has(images, tmp_path, settings, changes, k):
    base = dataclasses.replace(BASE, k=None)
    arena = Arena(base, "dnw,str,str:k=none", tmp_path, **{"data": images, "on": "layers", "settings": settings, **changes})
    assert [entry.recipe.k for entry in arena._entries(ng.data.load(images))] == [k, k, None]


def test_the_settings_of_the_recipes_own_selector_do_not_matter(images, tmp_path):
    base = dataclasses.replace(RECIPES["tiny-static"], selector="targeted-dropout", drop=0.5)
    assert [entry.recipe for entry in Arena(base, "dnw", tmp_path, data=images)._entries(ng.data.load(images))] == [
        dataclasses.replace(RECIPES["tiny-static"], data=images)]


# What comes out

def test_the_result_is_that_of_the_runs(whole):
    folder, result = whole
    saved = json.loads((folder / "arena.json").read_text())
    assert saved == json.loads(json.dumps({key: value for key, value in result.items() if key != "newest"}))
    assert [row["label"] for row in saved["contenders"]] == ["dnw", "rigl:every=2", "lottery-ticket", "complete"]
    assert saved["versions"]["processor"] and saved["baseline"] == "dnw"
    for row in saved["contenders"]:
        assert [run["seed"] for run in row["runs"]] == [0, 1]
        for run in row["runs"]:
            opened = Run.open(run["folder"])
            assert run["last"] == opened.progress.rows[-1]["test_accuracy"]
            assert run["k"] == opened.model.num_real_edges == (93_440 if row["label"] == "complete" else 2000)
            assert run["multiply_adds"] == ng.analysis.cost(opened.model).multiply_adds
            assert run["timed"] == {"threads": torch.get_num_threads(), "side_by_side": 1}
            assert run["step_seconds"] == statistics.median(opened.progress.step_seconds) > 0
        last = [run["last"] for run in row["runs"]]
        assert row["last"]["mean"] == pytest.approx(statistics.mean(last), abs=1e-3)
    ticket = Run.open(folder / "lottery-ticket" / "seed-1")
    assert ticket.recipe.source == str((folder / "complete" / "seed-1").resolve())


def test_a_ticket_of_layers_has_the_largest_trained_weights(whole):
    ticket, source = (Run.open(whole[0] / name / "seed-0").model for name in ("lottery-ticket", "complete"))
    for mine, theirs in zip(sparse_layers(ticket), sparse_layers(source), strict=True):
        real, size = mine.real(), theirs.weight.detach().abs()
        assert size[real].min() >= size[~real].max()


def test_a_graph_of_few_edges(images, tmp_path):
    *_, result = Arena(BASE, "dnw,random", tmp_path, data=images, epochs=1, k=300, seeds=1, settings=QUICK).run()
    for row in result["contenders"]:
        run, = row["runs"]
        assert run["k"] == 300 and run["candidates"] == 325_760 and run["dead_nodes"] > 0
    assert result["contenders"][1]["difference"]["seeds"] == 1
    assert result["contenders"][1]["difference"]["low"] is None


def test_every_selector_competes(images, tmp_path):
    *_, result = layers(tmp_path, images, list(SELECTORS), epochs=1, seeds=1, settings={"batch_size": "30"}).run()
    assert [row["label"] for row in result["contenders"]] == list(SELECTORS)
    for row in result["contenders"]:
        run, = row["runs"]
        assert run["failure"] is None and run["last"] is not None
        if k_is(row["selector"]) == "needed":
            assert run["k"] >= 2000


def test_a_training_that_diverges_is_an_outcome(images, tmp_path):
    *_, result = layers(tmp_path, images, "dnw,random", seeds=1, settings={**QUICK, "lr": "1e30"}).run()
    for row in result["contenders"]:
        assert "NaN or infinite" in row["runs"][0]["failure"]
        assert row["last"]["mean"] is None and row["runs"][0]["last"] is None


def resampled(values):
    """The bootstrap, written out; the resamples are the library's."""
    number = len(values)
    draws = np.random.default_rng(0).integers(0, number, (RESAMPLES, number)).tolist()
    means = sorted(sum(values[place] for place in places) / number for places in draws)

    def percentile(share):
        place = share * (len(means) - 1)
        below = int(place)
        return means[below] + (place - below) * (means[min(below + 1, len(means) - 1)] - means[below])

    return percentile(0.025), percentile(0.975)


@pytest.mark.parametrize("values", [[1.0, 3.0], [-0.5, 0.25, 1.5, 0.125, -2.0], [0.0] * 4])
def test_bootstrap_interval_is_the_written_one(values):
    assert bootstrap_interval(values) == pytest.approx(resampled(values), abs=1e-3)


def test_bootstrap_interval_tends_to_that_of_all_resamples():
    values = [0.0, 1.0, 4.0, 9.0]
    means = sorted(sum(chosen) / 4 for chosen in itertools.product(values, repeat=4))
    exact = means[int(0.025 * len(means))], means[-1 - int(0.025 * len(means))]
    assert bootstrap_interval(values) == pytest.approx(exact, abs=0.26)  # one step of the means


def test_differences_are_paired():
    """By seed, whatever the order and whichever runs are missing."""
    first = [{"seed": seed, "last": value} for seed, value in ((2, 70.0), (0, 90.0), (1, None))]
    runs = [{"seed": seed, "last": value} for seed, value in ((0, 91.0), (1, 50.0), (2, 73.0), (3, 1.0))]
    assert paired_difference(first, runs) == {"mean": 2.0, "low": 1.0, "high": 3.0, "seeds": 2}
    assert paired_difference(first, []) is None


# However the runs are made

def test_interrupted_it_goes_on(whole, images, tmp_path):
    for steps in (4, 20):
        with pytest.raises(Interrupted):
            list(layers(tmp_path, images).run(StopAfter(steps)))
    *_, result = layers(tmp_path, images).run()
    assert timeless(result, tmp_path) == timeless(whole[1], whole[0])


def test_finished_runs_keep_how_they_were_timed(whole, images):
    folder, result = whole
    path = folder / "arena.json"
    saved = json.loads(path.read_text())
    for row in saved["contenders"]:
        for run in row["runs"]:
            run["timed"] = {"threads": 17, "side_by_side": 5}
    before = path.read_text()
    path.write_text(json.dumps(saved))
    *_, again = layers(folder, images).run()
    path.write_text(before)
    assert all(run["timed"] == {"threads": 17, "side_by_side": 5} for row in again["contenders"] for run in row["runs"])
    assert timeless(again, folder) == timeless(result, folder)


def test_several_processes_stopped_by_ctrl_c_go_on(whole, images, tmp_path):
    """Two at a time, stopped in the middle, are gone and saved; the same command ends with the same numbers."""
    out = tmp_path / "out"
    plan = layers(out, images)
    command = [sys.executable, "-m", *shlex.split(plan.command), "--threads", str(torch.get_num_threads()), "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not any(path.stat().st_size for path in out.glob("*/seed-*/metrics.csv")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 130, errors
    assert "The same command goes on from there." in errors and "Traceback" not in errors
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "arena.json").read_text())
    assert timeless(result, out) == json.loads(json.dumps(timeless(whole[1], whole[0])))
    assert {run["timed"]["side_by_side"] for row in result["contenders"] for run in row["runs"] if run["timed"]} == {2}
    assert "2 runs side by side" in done.stdout


def test_on_a_cluster_of_two(whole, images, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        *_, result = layers(tmp_path, images).run(ray=True)
        assert ray.is_initialized()  # it is not ours to end
    finally:
        ray.shutdown()
    assert timeless(result, tmp_path) == timeless(whole[1], whole[0])
    assert result["ray"] and result["contenders"][0]["runs"][0]["timed"] == {"threads": 1, "side_by_side": 2}


def test_without_ray_the_extra_is_named(images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"needs ray.*neuralgraph\[ray\]"):
        list(layers(tmp_path, images).run(ray=True))


def test_other_images_elsewhere_are_found(images, tmp_path, monkeypatch):
    from neuralgraph.errors import DataError
    from neuralgraph.training.job import perform

    recipe = dataclasses.replace(BASE, data=images, k=300)
    with pytest.raises(DataError, match="not the same in all processes"):
        perform(Job("dnw", 0, recipe, tmp_path / "run", "", "0123", None, True, "cpu", 0))


@pytest.mark.parametrize("error", [UnknownNameError("selector", "dnv", ["dnw"]), MissingPackageError("a", "b", "c"),
                                   InputError("text")])
def test_errors_come_from_other_processes_as_they_were(error):
    import pickle

    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)


# What is asked for

@pytest.mark.parametrize("text, contenders", [
    ("dnw", [Contender("dnw", "dnw")]),
    (" dnw , rigl:every=50:drop=0.5 ", [Contender("dnw", "dnw"),
                                        Contender("rigl:every=50:drop=0.5", "rigl", (("every", "50"), ("drop", "0.5")))]),
    ("often=rigl:every=1", [Contender("often", "rigl", (("every", "1"),))])])
def test_contenders(text, contenders):
    assert list(parse_contenders(text)) == contenders


@pytest.mark.parametrize("contenders, error, message", [
    ("", InputError, "expected selectors"),
    ("dnw,dnv", UnknownNameError, "did you mean 'dnw'"),
    ("rigl:every", InputError, "'every' is no OPTION=VALUE"),
    ("rigl:every=", InputError, "'every=' is no OPTION=VALUE"),
    ("=rigl", InputError, "expected SELECTOR"),
    ("rigl:every=5:every=6", InputError, "gives every twice"),
    ("a/b=rigl", InputError, "must do for a folder"),
    ("dnw,dnw", InputError, "are the same"),
    ("dnw,a=dnw", InputError, "are the same"),
    ("rigl:every=5:drop=0.1,rigl:drop=0.1:every=5", InputError, "are the same"),
    ("rigl:evry=5", UnknownNameError, "did you mean 'every'"),
    ("rigl:every=x", InputError, "every must be an integer"),
    ("rigl:every=0", SelectionError, "every >= 1"),
    ("rigl:k=5", InputError, "have the same k"),
    ("lottery-ticket,complete=dnw", InputError, "choose another")])
def test_bad_contenders(images, tmp_path, contenders, error, message):
    with pytest.raises(error, match=message):
        list(layers(tmp_path / "out", images, contenders).run())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes, error, message", [
    ({"k": 93_441}, SelectionError, "at most the 93440 candidates, got 93441"),
    ({"k": 325_761, "on": "graph"}, SelectionError, "at most the 325760"),
    ({"k": 10, "density": 0.1}, InputError, "give one of them"),
    ({"k": None, "density": 1.5}, InputError, "density must be"),
    ({"seeds": 0}, InputError, "at least 1"),
    ({"on": "pixels"}, UnknownNameError, "kind of candidates"),
    ({"settings": {"selector.per": "node"}}, InputError, "not a setting of all contenders"),
    ({"settings": {"seed": "3"}}, InputError, "not a setting of all contenders"),
    ({"settings": {"lrr": "3"}}, UnknownNameError, "did you mean 'lr'"),
    ({"data": None}, InputError, "name some with --data")])
def test_bad_arenas(images, tmp_path, changes, error, message):
    base = dataclasses.replace(BASE, data=None)
    with pytest.raises(error, match=message):
        list(Arena(base, "dnw", tmp_path / "out", **{"data": images, "epochs": 1, "k": 300, "on": "layers",
                                                    **changes}).run())
    assert not (tmp_path / "out").exists()


def test_models_without_k_say_so(images, tmp_path):
    for name, message in (("mobilenet-dnw", "has no k or density"), ("mobilenet-v1", "keeps all its edges")):
        with pytest.raises(InputError, match=message):
            list(Arena(RECIPES[name], "dnw", tmp_path, data=images, k=300).run())


@pytest.mark.parametrize("changes, message", [
    ({"epochs": 3}, "epochs=2 .asked for 3"), ({"k": 2001}, "k=2000 .asked for 2001"),
    ({"contenders": "random", "settings": {"batch_size": "30"}}, "settings=.*asked for"),
    ({"contenders": "random", "data": "digits"}, "images of .*few.npz")])
def test_other_settings_need_another_folder(whole, images, changes, message):
    with pytest.raises(RunError, match=f"{message}.*another folder with --out"):
        list(layers(whole[0], images, **changes).run())


def test_the_command_prints_and_draws(whole, images, tmp_path):
    folder, result = whole
    name, *arguments = shlex.split(layers(folder, images).command)
    assert name == "neuralgraph"
    done = CliRunner().invoke(main, [*arguments, "--threads", str(torch.get_num_threads())])
    assert done.exit_code == 0, done.output
    row = [line for line in done.output.splitlines() if line.startswith("rigl:every=2")][-1]
    own = result["contenders"][1]
    assert f"{own['last']['mean']:.2f} ± {own['last']['std']:.2f}" in row
    assert f"{own['difference']['mean']:+.2f} [{own['difference']['low']:+.2f}, " in row and row.endswith("2/2")
    assert "1 run at a time" in done.output and (folder / "arena.png").stat().st_size > 10_000


def test_the_commands_of_the_runs_make_the_same(whole, tmp_path):
    run = whole[1]["contenders"][1]["runs"][1]
    name, *arguments = shlex.split(run["command"])
    assert arguments[0] == "train"
    done = CliRunner().invoke(main, [*arguments[:-1], str(tmp_path / "again")])
    assert done.exit_code == 0, done.output
    again = outcome(Run.open(tmp_path / "again"))
    assert {key: again[key] for key in ("last", "last_loss", "k", "multiply_adds")} == {
        key: run[key] for key in ("last", "last_loss", "k", "multiply_adds")}
