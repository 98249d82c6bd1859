"""From a picture to its class: the same numbers as in training, whoever asks."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import neuralgraph as ng
from neuralgraph.cli import main
from neuralgraph.errors import CheckpointError, InputError
from neuralgraph.models import Preprocessing
from neuralgraph.training import RECIPES, Run, open_model
from neuralgraph.training.checkpoint import read_checkpoint, write_checkpoint

GREY = Preprocessing((0.25,), (0.5,), ("no", "yes"), 4, 1)
COLOUR = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), ("a", "b", "c"), 5, 3, True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """60 digits as grey pictures of 16 pixels in class folders."""
    folder, data = tmp_path_factory.mktemp("data"), ng.data.load("digits")
    for i in range(60):
        label = int(data.train_labels[i])
        place = folder / ("train" if i < 40 else "test") / f"digit {label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.train_images[i, 0].numpy()).resize((16, 16)).save(place / f"{i:02}.png")
    return folder


def trained(pictures, folder, **settings):
    recipe = dataclasses.replace(RECIPES["tiny-static"], epochs=1, batch_size=20, k=2000, data=str(pictures),
                                 image_size=8, **settings)
    run = Run.create(recipe, folder, workers=0)
    run.train()
    return run


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    return trained(pictures, tmp_path_factory.mktemp("run") / "run")


def predict(*arguments):
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


@pytest.mark.parametrize("resized_crop", [False, True])
def test_predictions_are_those_of_the_evaluation(run, pictures, tmp_path, resized_crop):
    if resized_crop:
        run = trained(pictures, tmp_path / "run", resized_crop=True)
    _, model, _ = open_model(run.folder)
    assert not model.training and model.preprocessing == run.model.preprocessing
    files = sorted((pictures / "test").rglob("*.png"))
    (images, labels), = run.data.test_batches([torch.arange(run.data.num_test)])
    with torch.no_grad():
        shares = run.model.eval()(run.data.normalise(images)).softmax(1)
    result = predict(run.folder, pictures / "test", "--top", "2")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert len(lines) == len(files) == 20
    right = 0
    for line, path, row, label in zip(lines, files, shares, labels):
        best = row.topk(2)
        named = ", ".join(f"{run.data.classes[i]} {100 * p:.1f} %"
                          for p, i in zip(best.values.tolist(), best.indices.tolist()))
        assert line == f"{path}: {named}"
        right += run.data.classes[int(label)] == named.rpartition(",")[0].rsplit(" ", 2)[0]
    assert 100 * right / 20 == pytest.approx(run.progress.rows[-1]["test_accuracy"])


def test_pictures_that_cannot_be_read_are_named(run, pictures, tmp_path):
    good = next((pictures / "test").rglob("*.png"))
    (tmp_path / "broken.png").write_bytes(good.read_bytes()[:60])
    Image.new("RGBA", (8, 8)).save(tmp_path / "clear.png")
    Image.new("I;16", (8, 8)).save(tmp_path / "deep.png")
    result = predict(run.folder, tmp_path, good)
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{good}: ") and len(result.stdout.splitlines()) == 1
    for name, reason in (("broken.png", ""), ("clear.png", "transparent"), ("deep.png", "8 bits")):
        line, = (line for line in result.stderr.splitlines() if name in line)
        assert line.startswith("Error: cannot") and reason in line


def test_what_cannot_predict_says_why(run, pictures, tmp_path):
    cases = [((run.folder, tmp_path / "x.png"), "no file or folder"), ((run.folder, tmp_path), "no image below"),
             ((tmp_path / "run", pictures), "neither a run nor a file"), ((tmp_path, pictures), "the folder of a run")]
    for arguments, message in cases:
        result = predict(*arguments)
        assert result.exit_code == 2 and message in result.stderr
    tensors, state = read_checkpoint(run.folder / "checkpoint.safetensors")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "recipe.json").write_bytes((run.folder / "recipe.json").read_bytes())
    write_checkpoint(tmp_path / "old" / "checkpoint.safetensors", tensors, {"progress": state["progress"]})
    assert "--resume adds them" in predict(tmp_path / "old", pictures).stderr
    wrong = {**state["preprocessing"], "std": [0.0]}
    write_checkpoint(tmp_path / "old" / "checkpoint.safetensors", tensors, {**state, "preprocessing": wrong})
    with pytest.raises(CheckpointError, match="damaged: std must be"):
        open_model(tmp_path / "old")
    net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 4, 2]), ng.TopK(k=6))
    for other in (ng.compile(net), ng.compile(torch.nn.Linear(2, 2), torch.zeros(1, 2))):
        ng.inference.save(other, tmp_path / "net.ng")
        result = predict(tmp_path / "net.ng", pictures)
        assert result.exit_code == 2 and "net.ng does not hold how" in result.stderr and "it is no compiled run" in result.stderr
    model = ng.models.create("tiny-static", num_classes=3, image_size=8, k=300)
    ng.compile(model).save(tmp_path / "old.ng")  # of a model whose preprocessing is not known
    assert "compile the model again" in predict(tmp_path / "old.ng", pictures).stderr


def test_a_compiled_model_predicts_the_same(run, pictures, tmp_path):
    _, model, _ = open_model(run.folder)
    ng.compile(model).save(tmp_path / "model.ng")
    assert predict(tmp_path / "model.ng", pictures).output == predict(run.folder, pictures).output


@pytest.mark.parametrize("preprocessing", [GREY, COLOUR])
def test_preprocessing_is_the_written_formula(preprocessing):
    size, channels = preprocessing.image_size, preprocessing.channels
    images = torch.randint(256, (2, channels, size, size), dtype=torch.uint8)
    got = preprocessing(images)
    for c in range(channels):
        expected = (images[:, c].double() / 255 - preprocessing.mean[c]) / preprocessing.std[c]
        torch.testing.assert_close(got[:, c].double(), expected, rtol=1e-5, atol=1e-6)
    pixels = images[0].permute(1, 2, 0).squeeze(-1).numpy()
    if not preprocessing.resized_crop:
        assert torch.equal(preprocessing(Image.fromarray(pixels)), got[:1])
    assert preprocessing(Image.new("RGB", (30, 20))).shape == (1, channels, size, size)
    for wrong in (images.float(), images[0], images[..., :-1], images[:, :0], np.zeros((1, 1, 4, 4))):
        with pytest.raises(InputError, match="expected a picture, or images uint8"):
            preprocessing(wrong)


@pytest.mark.parametrize("preprocessing", [GREY, COLOUR])
def test_preprocessing_round_trip(preprocessing):
    fields = json.loads(json.dumps(preprocessing.to_json()))
    assert Preprocessing.from_json(fields) == preprocessing
    for name, value in (("mean", "x"), ("mean", []), ("mean", ["0.1"] * 3), ("std", [0.0] * 3), ("std", [-1] * 3),
                        ("std", [float("nan")] * 3), ("classes", []), ("classes", [1]), ("classes", "ab"),
                        ("image_size", 0), ("image_size", 4.0), ("image_size", True), ("channels", 2),
                        ("resized_crop", 1), ("more", 1)):
        with pytest.raises(InputError):
            Preprocessing.from_json({**fields, name: value})
    for wrong in (None, [], {}, {k: v for k, v in fields.items() if k != "mean"}):
        with pytest.raises(InputError, match="expected an object with"):
            Preprocessing.from_json(wrong)


def test_a_model_carries_it_but_its_state_dict_does_not():
    model = ng.models.create("tiny-static", k=100)
    assert model.preprocessing is None
    names = set(model.state_dict())
    model.preprocessing = COLOUR
    assert copy.deepcopy(model).preprocessing == COLOUR and set(model.state_dict()) == names
