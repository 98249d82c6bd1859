"""Recipes: each builds what the paper describes and trains; saved ones come back."""

import dataclasses
import json
import math
import shlex

import numpy as np
import pytest
import torch
from quick import QUICK
from torch.nn.functional import cross_entropy

import neuralgraph as ng
from neuralgraph.data import ImageData
from neuralgraph.errors import CheckpointError, InputError, UnknownNameError
from neuralgraph.models import mobilenet
from neuralgraph.networks import static
from neuralgraph.training import RECIPES, Recipe, Run
from neuralgraph.training.job import as_setting
from neuralgraph.training.opening import make_model
from neuralgraph.training.recipes import GROUPS

K = {0.15: 70_643, 0.225: 158_944, 0.3: 282_565, 0.49: 753_816}  # edges of the five graphs together


def pictures(side, count=8):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8))
    labels = torch.arange(count)
    return ImageData("noise", images, labels, images[:4], labels[:4],
                     tuple(f"c{i}" for i in range(10)))


@pytest.fixture(scope="module")
def shared_wirings():
    """Wirings are frozen, so all MobileNets of this file may have the same ones."""
    wirings, stages = {}, {}
    make_blocks, make_stages = mobilenet.blocks, static.topological_stages

    def blocks(sizes, function, **options):
        key = (*sizes, options["input_stride"])
        if key not in wirings:
            wirings[key] = make_blocks(sizes, function, **options)
        return wirings[key]

    def topological_stages(wiring):
        if id(wiring) not in stages:
            stages[id(wiring)] = (wiring, make_stages(wiring))  # kept alive, so that ids are unique
        return stages[id(wiring)][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mobilenet, "blocks", blocks)
        patch.setattr(static, "topological_stages", topological_stages)
        yield


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_its_model_and_takes_a_step(name, shared_wirings, tmp_path):
    recipe = RECIPES[name]
    quick = {"epochs": 1, "batch_size": 4, "image_size": None, "resized_crop": False,
             "solver": "euler" if recipe.model == "tiny-continuous" else None}
    data = pictures(16 if recipe.model.startswith("mobilenet") else 8)
    run = Run(dataclasses.replace(recipe, **quick), tmp_path, data)
    edges = [network.selector.num_real for network in run.model.networks]
    if recipe.model.startswith("tiny"):
        assert run.model.num_real_edges == (recipe.k or 32_000)
    elif recipe.selector == "complete":
        assert recipe.model == "mobilenet-v1" or sum(edges) == 6_981_632
    elif recipe.selector == "l1-anneal":
        assert sum(edges) == 6_981_632
        assert sum(n.selector.k for n in run.model.networks) == K[recipe.width]
    else:
        assert sum(edges[:5]) == K[recipe.width]
        if recipe.model == "mobilenet-dnw-small":
            assert edges[5] == 10_240 - math.floor((1 - recipe.width) * 10_240 + 1e-9)
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    run.model.train()
    loss = cross_entropy(run.model(data.normalise(data.train_images)), data.train_labels)
    loss.backward()
    run.optimizer.step()
    assert loss.isfinite()
    moved = [not torch.equal(old, new) for old, new in zip(before, run.model.parameters())]
    assert all(moved)


def test_table_1_is_the_released_recipe():
    rows = {name: recipe for name, recipe in RECIPES.items() if name.startswith("table1-")}
    assert len(rows) == 6
    assert {(r.model, r.selector) for r in rows.values()} == {
        (f"tiny-{kind}", selector) for kind in ("static", "discrete", "continuous")
        for selector in ("random", "dnw")}
    for r in rows.values():
        assert (r.epochs, r.batch_size, r.lr, r.schedule, r.milestones, r.lr_factor) == (
            160, 512, 0.1, "step", (80, 120), 0.1)
        assert (r.momentum, r.nesterov, r.weight_decay, r.crop_padding, r.flip, r.k) == (
            0.9, False, 1e-4, 4, True, 32_000)


def test_table_2_is_the_papers():
    rows = {name.removeprefix("table2-"): r for name, r in RECIPES.items() if name.startswith("table2-")}
    assert {name: (r.selector, r.width, r.lr) for name, r in rows.items()} == {
        "mobilenet-v1": ("complete", 0.25, 0.1), "rg": ("random", 0.225, 0.1),
        "no-update": ("no-update", 0.225, 0.1), "l1-anneal": ("l1-anneal", 0.225, 0.1),
        "targeted-dropout": ("targeted-dropout", 0.225, 0.1), "complete": ("complete", None, 0.1),
        "lottery-ticket": ("lottery-ticket", 0.225, 0.1), "fine-tune-0.1": ("fine-tune", 0.225, 0.1),
        "fine-tune-0.01": ("fine-tune", 0.225, 0.01), "fine-tune-0.001": ("fine-tune", 0.225, 0.001),
        "dnw": ("dnw", 0.225, 0.1)}
    assert rows["targeted-dropout"].drop == 0.95
    for r in rows.values():
        assert (r.epochs, r.batch_size, r.schedule, r.momentum, r.weight_decay, r.crop_padding,
                r.flip) == (160, 128, "cosine", 0.9, 1e-4, 4, True)


def test_table_3_is_the_papers():
    rows = [r for name, r in RECIPES.items() if name.startswith("imagenet-")]
    assert sorted((r.model, r.selector, r.width) for r in rows) == sorted([
        ("mobilenet-v1", "complete", 0.25), ("mobilenet-v1", "complete", 0.5),
        ("mobilenet-dnw", "random", 0.225), ("mobilenet-dnw", "random", 0.49),
        ("mobilenet-dnw-small", "dnw", 0.15), ("mobilenet-dnw-small", "dnw", 0.225),
        *(("mobilenet-dnw", "dnw", width) for width in (0.225, 0.3, 0.49))])
    for r in rows:
        assert (r.epochs, r.batch_size, r.schedule, r.lr, r.weight_decay, r.image_size,
                r.resized_crop, r.flip) == (250, 512, "cosine", 0.1, 5e-5, 224, True, True)


def test_names_are_unique_and_frozen():
    assert len(RECIPES) == sum(map(len, GROUPS.values()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPES["tiny-static"].lr = 1


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Recipe)
                                   if f.name not in ("name", "description")])
def test_every_field_can_be_set_from_text(field):
    recipe = dataclasses.replace(RECIPES["imagenet-dnw-0.3"], resized_crop=False,
                                 grow="split" if field.startswith("grow_") else None)
    values = {"grow": ("split", "split"),
              "milestones": ("3,5", (3, 5)), "schedule": ("constant", "constant"),
              "precision": ("bfloat16", "bfloat16"), "torch_compile": ("default", "default"), "tied": ("false", False), "adjoint": ("true", True),
              **dict.fromkeys(("solver_options", "model_options", "selector_options", "grow_options"),
                              ('{"step_size": 0.1}', {"step_size": 0.1}))}
    value = getattr(recipe, field)
    text, expected = values.get(field) or {
        bool: ("false", False) if value else ("true", True), float: ("0.25", 0.25), int: ("7", 7),
    }.get(type(value), ("3", None))
    changed = getattr(recipe.with_settings({field: text}), field)
    assert changed == expected if expected is not None else changed in ("3", 3)


def test_a_saved_recipe_comes_back(tmp_path):
    recipe = RECIPES["table1-discrete-rg"].with_settings({"lr": "0.05", "data": "digits", "epochs": "0"})
    run = Run.create(recipe, tmp_path / "run")
    for place in (run.folder, run.folder / "recipe.json"):
        assert Recipe.read(place) == recipe
    by_hand = tmp_path / "mine.json"
    by_hand.write_text(json.dumps({"lr": 0.3, "milestones": [1, 2]}))
    assert Recipe.read(by_hand) == Recipe("mine", "", lr=0.3, milestones=(1, 2))


@pytest.mark.parametrize("text, error, message", [
    ("{", CheckpointError, "damaged"), ('{"lrr": 1}', InputError, "mine.json holds no recipe.*did you mean 'lr'"),
    ('{"lr": "quick"}', InputError, "mine.json holds no recipe: lr must be"),
    ('{"recipe": 3}', InputError, "mine.json holds no recipe"),
    ('{"name": "../../etc"}', InputError, "must do for a folder")])
def test_files_that_hold_no_recipe(tmp_path, text, error, message):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(error, match=message):
        Recipe.read(tmp_path / "mine.json")


def test_a_recipe_without_images_asks_for_them(tmp_path):
    with pytest.raises(InputError, match="no images of its own; name some with --data"):
        Run.create(RECIPES["table1-static-dnw"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_milestones_keep_their_share():
    recipe = RECIPES["table1-static-dnw"].shortened(20)
    assert (recipe.epochs, recipe.milestones) == (20, (10, 15))
    assert RECIPES["table2-dnw"].shortened(3).milestones == ()


def test_every_option_can_be_set_from_text():
    """Of every selector and model, by its name there, with the value read as its type."""
    recipe = RECIPES["tiny-discrete"].with_settings(
        {"model.steps": "3", "selector": "rigl", "selector.every": "7", "selector.per": "node", "selector.drop": "0.2"})
    assert (recipe.steps, recipe.drop) == (3, 0.2) and recipe.selector_options == {"every": 7, "per": "node"}
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert recipe.with_settings({"selector.group": "none"}).selector_options["group"] is None
    mobile = Recipe("m", "", model="mobilenet-dnw")
    assert mobile.with_settings({"model.head_edges": "300", "selector.gradient": "soft_g"}).model_options == \
        {"head_edges": 300}
    model = make_model(dataclasses.replace(recipe, k=1600), {"name": "d", "classes": ["a", "b"], "channels": 1, "size": (8, 8)})
    selector = model.networks[0].selector
    assert (selector.every, selector.per, selector.drop, model.networks[0].steps) == (7, "node", 0.2, 3)


@pytest.mark.parametrize("settings, error, message", [
    ({"selector.pre": "node"}, UnknownNameError, "option of the selector 'dnw' 'pre'; did you mean 'per'"),
    ({"model.stesp": "3"}, UnknownNameError, "option of the model 'tiny-static'"),
    ({"wiring.k": "3"}, UnknownNameError, "unknown setting 'wiring'"),
    ({"selector": "rigl", "selector.every": "often"}, InputError, "selector.every must be an integer, got 'often'"),
    ({"k": "3", "selector.k": "4"}, InputError, "the same setting"),
    ({"selector.always": "1"}, UnknownNameError, "'always'"),
])
def test_options_that_do_not_exist(settings, error, message):
    with pytest.raises(error, match=message):
        RECIPES["tiny-static"].with_settings(settings)


@pytest.mark.parametrize("name", RECIPES)
def test_the_listed_settings_are_those_that_can_be_set(name):
    recipe = RECIPES[name]
    for key, value, kind, meaning in recipe.settings():
        assert kind and meaning, key
        text = "none" if value is None else ",".join(map(str, value)) if isinstance(value, tuple) else \
            json.dumps(value) if isinstance(value, dict) else str(value)
        again = recipe.with_settings({key: text})
        part, _, option = key.rpartition(".")
        if part:  # given, with the value it had
            assert getattr(again, f"{part}_options")[option] == value
        else:
            assert again == recipe, key


def test_a_recorded_command_can_be_pasted_back():
    settings = {"solver_options": '{"step_size": 0.5}', "selector_options": '{"per": "block"}', "epochs": "1"}
    recipe = RECIPES["tiny-static"].with_settings(settings)
    text = {name: as_setting(value) for name, value in vars(recipe).items() if name in settings}
    pasted = dict(part.split("=", 1) for part in shlex.split(" ".join(f"{k}={v}" for k, v in text.items())))
    assert RECIPES["tiny-static"].with_settings(pasted) == recipe


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
