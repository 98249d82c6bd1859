"""Images that stay on disk: crops as defined, the same whoever reads them, changes noticed."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from stopping import StopAfter

import neuralgraph as ng
from neuralgraph.data import Augmentation, draws, files, sources
from neuralgraph.data.files import centre_crop, random_resized_crop
from neuralgraph.data.images import splitmix64
from neuralgraph.errors import DataError, InputError, RunError
from neuralgraph.training import RECIPES, Interrupted, Run, Watcher


@pytest.fixture(scope="module")
def digits_on_disk(tmp_path_factory):
    """300 digits as pictures of different sizes, in class folders."""
    folder = tmp_path_factory.mktemp("digits")
    data = ng.data.load("digits")
    for part, count in (("train", 240), ("test", 60)):
        images, labels = getattr(data, f"{part}_images"), getattr(data, f"{part}_labels")
        for i in range(count):
            place = folder / part / str(int(labels[i]))
            place.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(images[i, 0].numpy()).convert("RGB")
            picture.resize((20 + i % 7, 24 + i % 5)).save(place / f"{i:03}.png")
    return folder


def test_splitmix64_is_the_published_generator():
    """The first outputs of the reference implementation for the seed 1234567."""
    state = np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert splitmix64(state).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_draws_are_uniform_and_belong_to_the_image():
    drawn = draws(3, 5, np.arange(20_000), 6)
    assert 0 <= drawn.min() and drawn.max() < 1
    assert np.abs(drawn.mean(0) - 1 / 2).max() < 0.01 and np.abs(drawn.var(0) - 1 / 12).max() < 0.003
    assert np.abs(np.corrcoef(drawn.T) - np.eye(6)).max() < 0.03
    some = np.array([17, 4, 19_000])
    assert np.array_equal(draws(3, 5, some, 3), drawn[some, :3])
    for seed, epoch in ((3, 6), (4, 5)):
        assert abs(np.corrcoef(draws(seed, epoch, np.arange(20_000), 1)[:, 0], drawn[:, 0])[0, 1]) < 0.03
    assert len(np.unique(draws(0, 0, np.arange(50_000), 32))) == 50_000 * 32


def map_of(width, height):
    """A picture whose pixels say where they are."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


def test_random_resized_crop_is_as_defined(monkeypatch):
    """Its area, ratio and place, read from the crops themselves, are those of the definition."""
    image, boxes = map_of(200, 150), []
    monkeypatch.setattr(files, "resized", lambda crop, size: boxes.append(np.asarray(crop)) or crop)
    for drawn in draws(0, 0, np.arange(3000), 22):
        random_resized_crop(image, 64, drawn)
    height, width = np.array([box.shape[:2] for box in boxes]).T
    left, top = np.array([box[0, 0, :2] for box in boxes]).T
    share, ratio = width * height / 30_000, width / height
    assert 0.078 < share.min() < 0.1 and 0.95 < share.max() <= 1
    assert 0.72 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.37
    # small crops always fit, so their areas are uniform and the logarithms of their ratios too
    small = share < 0.5
    assert abs(share[small].mean() - 0.29) < 0.01 and abs(np.log(ratio[small]).mean()) < 0.02
    slack = (200 - width > 20) & (150 - height > 20)
    assert abs((left / (200 - width + 1))[slack].mean() - 0.5) < 0.03
    assert abs((top / (150 - height + 1))[slack].mean() - 0.5) < 0.03
    assert left.min() == 0 and (left + width).max() == 200 and (top + height).max() == 150


@pytest.mark.parametrize("size, box", [((300, 10), (143, 0, 156, 10)), ((10, 300), (0, 143, 10, 156)),
                                       ((12, 12), (0, 0, 12, 12))])
def test_pictures_in_which_nothing_fits(size, box, monkeypatch):
    """The largest centred part within the ratios."""
    seen = []
    monkeypatch.setattr(files, "resized", lambda crop, target: seen.append(crop.size))
    drawn = np.full(22, 0.999999)  # a ratio of 4/3 and the whole area: never inside
    random_resized_crop(map_of(*size), 64, drawn)
    assert seen == [(box[2] - box[0], box[3] - box[1])]


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (300, 1000)])
def test_centre_crop(size):
    """Resize the shorter side to 256, cut 224 from the middle: the middle stays the middle."""
    out = centre_crop(map_of(*(min(side, 255) for side in size)), 224)
    assert out.size == (224, 224)
    full = Image.new("RGB", size)
    full.paste((255, 255, 255), (size[0] // 2 - 5, size[1] // 2 - 5, size[0] // 2 + 5, size[1] // 2 + 5))
    mass = np.asarray(centre_crop(full, 224)).astype(float)[..., 0]
    middle = [float((mass.sum(axis) * np.arange(224)).sum() / mass.sum()) for axis in (0, 1)]
    assert middle == pytest.approx([111.5, 111.5], abs=0.8)
    side = 10 * 256 / min(size)
    assert mass.sum() / 255 == pytest.approx(side * side, rel=0.02)


def test_batches_do_not_depend_on_who_reads(digits_on_disk):
    batches = list(torch.randperm(240, generator=torch.Generator().manual_seed(0)).split(50))
    augment = Augmentation(flip=True)

    def read(workers, chosen=batches, epoch=3):
        data = ng.data.load(digits_on_disk, image_size=16, resized_crop=True, workers=workers)
        return list(data.train_batches(chosen, augment, 7, epoch))

    alone, shared = read(0), read(2)
    state = torch.get_rng_state()
    for (a, x), (b, y) in zip(alone, shared, strict=True):
        assert torch.equal(a, b) and torch.equal(x, y) and a.shape[1:] == (3, 16, 16)
    assert torch.equal(torch.get_rng_state(), state)
    again, = read(2, chosen=[batches[4]])  # a batch alone, as a resumed run begins with it
    assert torch.equal(again[0], alone[4][0]) and torch.equal(again[1], alone[4][1])
    halves = read(0, chosen=[part for part in batches[0].tensor_split(2)])  # as two ranks share it
    assert torch.equal(torch.cat([a for a, _ in halves]), alone[0][0])
    other, = read(0, chosen=[batches[4]], epoch=4)
    assert not torch.equal(other[0], again[0])


def test_in_memory_and_on_disk_are_the_same_images(digits_on_disk, monkeypatch):
    inside = ng.data.load(digits_on_disk, image_size=12)
    monkeypatch.setattr(sources, "IN_MEMORY", 1000)
    outside = ng.data.load(digits_on_disk, image_size=12, workers=0)
    assert isinstance(inside, ng.data.ImageData) and isinstance(outside, ng.data.ImageFiles)
    chosen, augment = [torch.tensor([5, 200, 31])], Augmentation(padding=2, flip=True)
    (a, x), = inside.train_batches(chosen, augment, 0, 1)
    (b, y), = outside.train_batches(chosen, augment, 0, 1)
    assert torch.equal(a, b) and torch.equal(x, y)
    (a, x), = inside.test_batches([torch.arange(60)])
    (b, y), = outside.test_batches([torch.arange(60)])
    assert torch.equal(a, b) and torch.equal(x, y)
    with pytest.raises(DataError, match="too many to keep in memory: give image_size"):
        ng.data.load(digits_on_disk)


RECIPE = dataclasses.replace(RECIPES["tiny-static"], epochs=2, batch_size=60, k=2000, flip=True,
                             image_size=16, resized_crop=True)


def test_a_run_resumes_exactly_with_other_workers(digits_on_disk, tmp_path):
    recipe = dataclasses.replace(RECIPE, data=str(digits_on_disk))
    whole = Run.create(recipe, tmp_path / "whole", workers=0)
    whole.train()
    run = Run.create(recipe, tmp_path / "parts", workers=2)
    with pytest.raises(Interrupted):
        run.train(StopAfter(3))
    resumed = Run.open(tmp_path / "parts", workers=1)
    resumed.train()
    for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values()):
        assert torch.equal(a, b)
    assert whole.progress.rows[-1]["test_loss"] == resumed.progress.rows[-1]["test_loss"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("harm, message", [
    (lambda file: file.unlink(), "can no longer be read"),
    (lambda file: Image.new("RGB", (30, 30)).save(file), "has changed during the run"),
])
def test_images_that_change_during_a_run(digits_on_disk, tmp_path, workers, harm, message):
    folder = tmp_path / "data"
    shutil.copytree(digits_on_disk, folder)
    run = Run.create(dataclasses.replace(RECIPE, data=str(folder)), tmp_path / "run", workers=workers)

    class Harm(Watcher):
        def finished_epoch(self, run, row):
            harm(folder / "train" / "3" / "003.png")

    with pytest.raises(DataError, match=f"003.png.*{message}"):
        run.train(Harm())
    with pytest.raises(RunError, match="fingerprint"):
        Run.open(tmp_path / "run")
    (folder / "train" / "3" / "003.png").unlink(missing_ok=True)
    shutil.copy(digits_on_disk / "train" / "3" / "003.png", folder / "train" / "3")
    assert len(Run.open(tmp_path / "run").train()) == 2


def test_unreadable_images_are_named_by_every_reader(digits_on_disk, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(digits_on_disk, folder)
    file = folder / "train" / "3" / "003.png"
    file.write_bytes(file.read_bytes()[:50])
    for workers in (0, 2):
        data = ng.data.load(folder, image_size=16, resized_crop=True, workers=workers)
        with pytest.raises(DataError, match="cannot read the image .*003.png") as caught:
            list(data.train_batches([torch.arange(240)], Augmentation(), 0, 0))
        assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("settings, message", [
    ({"image_size": None}, "needs image_size=N"), ({"crop_padding": 4}, "needs image_size=N and crop_padding=0"),
])
def test_settings_of_the_resized_crop(settings, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(RECIPE, **settings)


def test_only_folders_have_crops():
    with pytest.raises(InputError, match="resized_crop needs class folders"):
        ng.data.load("digits", resized_crop=True)
    with pytest.raises(InputError, match="workers must be"):
        ng.data.load("digits", workers=-1)


def test_decoding_by_processes_gives_the_same(digits_on_disk, monkeypatch):
    alone = ng.data.load(digits_on_disk, image_size=10, workers=0)
    monkeypatch.setattr(files, "WORTH_PROCESSES", 1)
    shared = ng.data.load(digits_on_disk, image_size=10, workers=2)
    assert alone.fingerprint() == shared.fingerprint()
