"""Images in memory: statistics, augmentation, order, what cannot be used."""

import numpy as np
import pytest
import torch

import neuralgraph as ng
from neuralgraph.data.images import gathered
from neuralgraph.errors import DataError


def test_statistics_and_normalisation():
    data = ng.data.load("digits")
    x = data.normalise(data.train_images).double()
    assert abs(x.mean()) < 1e-4 and abs(x.std(unbiased=False) - 1) < 1e-4
    flat = data.train_images.double() / 255
    assert data.mean[0] == pytest.approx(flat.mean().item(), abs=1e-6)
    assert data.std[0] == pytest.approx(flat.std(unbiased=False).item(), abs=1e-6)


@pytest.mark.parametrize("padding, flip", [(0, False), (0, True), (2, False), (3, True)])
def test_one_gather_is_the_same_augmentation(padding, flip):
    """What a GPU computes, here on the CPU."""
    images = torch.randint(256, (40, 3, 5, 7), dtype=torch.uint8)
    drawn = ng.data.draws(1, 2, np.arange(40), 3)
    offsets, flipped = (drawn[:, :2] * (2 * padding + 1)).astype(int), (drawn[:, 2] < 0.5) & flip
    expected = ng.data.Augmentation(padding, flip)(images, drawn)
    assert torch.equal(gathered(images, padding, offsets, flipped), expected)


def test_augmentation_is_a_crop_and_a_flip():
    """Every result is one of the (2p+1)^2 * 2 possible pictures, and all occur."""
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    possible = {}
    for top in range(3):
        for left in range(3):
            crop = padded[0, 0, top:top + 4, left:left + 4]
            possible[tuple(crop.flatten().tolist())] = 0
            possible[tuple(crop.flip(-1).flatten().tolist())] = 0
    augment = ng.data.Augmentation(padding=1, flip=True)
    out = augment(image.expand(2000, 1, 4, 4), ng.data.draws(0, 0, np.arange(2000), 3))
    for picture_ in out:
        possible[tuple(picture_.flatten().tolist())] += 1
    assert len(possible) == 18 and min(possible.values()) > 60
    same = ng.data.Augmentation()(image, ng.data.draws(0, 0, np.arange(1), 3))
    assert torch.equal(same, image)


def test_order_depends_on_seed_and_epoch_only():
    orders = [ng.data.training_order(50, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == ng.data.training_order(50, 0, 0).tolist()


def test_fingerprint_notices_one_pixel():
    data = ng.data.load("digits")
    before = data.fingerprint()
    data.train_images[700, 0, 3, 3] ^= 1
    assert data.fingerprint() != before


@pytest.mark.parametrize("changes, message", [
    ({"train_labels": torch.tensor([0.0, 1.0])}, "int64"),
    ({"mean": (0.5,), "std": (0.5, 0.5)}, "one value for each of the 1 channels"),
    ({"mean": (0.5,), "std": (0.0,)}, "above 0"),
    ({"mean": (0.5,)}, "one value for each"),
])
def test_bad_image_data(changes, message):
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    good = dict(train_images=images, train_labels=torch.tensor([0, 1]), test_images=images,
                test_labels=torch.tensor([0, 1]), classes=("a", "b"))
    with pytest.raises(DataError, match=message):
        ng.data.ImageData("d", **{**good, **changes})
