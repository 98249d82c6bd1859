"""Images in, errors for what cannot be used."""

import hashlib
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from noise import picture
from PIL import Image

import neuralgraph as ng
from neuralgraph.data import sources
from neuralgraph.errors import DataError, InputError, UnknownNameError


def test_digits_are_the_uci_ones():
    data = ng.data.load("digits")
    counts = torch.bincount(torch.cat([data.train_labels, data.test_labels]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert data.train_images.max() == 255 and data.channels == 1
    # the first picture of the set is a nought
    levels = (data.train_images[0, 0].int() + 15) * 16 // 255
    assert data.train_labels[0] == 0
    assert levels[0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]


def test_class_folders(folder):
    data = ng.data.load(folder)
    assert data.classes == ("ant", "bee", "cow") and len(data.train_images) == 18
    assert data.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    expected = np.asarray(Image.open(folder / "train" / "bee" / "3.png")).transpose(2, 0, 1)
    assert np.array_equal(data.train_images[9].numpy(), expected)
    small = ng.data.load(folder, image_size=4)
    assert small.size == (4, 4)


def test_class_folders_without_a_test_part(folder):
    data = ng.data.load(folder / "train")
    assert len(data.test_images) == 3 and len(data.train_images) == 15


def test_grey_images_have_one_channel(tmp_path):
    for name in "ab":
        for i in range(5):
            picture(tmp_path / name / f"{i}.png", i, mode="L")
    assert ng.data.load(tmp_path).channels == 1
    picture(tmp_path / "a" / "9.png", 9)
    assert ng.data.load(tmp_path).channels == 3


def official(tmp_path, monkeypatch, size=4):
    """A small archive in the official layout whose checksums are declared to be right."""
    folder = tmp_path / sources.CIFAR10_FOLDER
    folder.mkdir()
    rng = np.random.default_rng(0)
    sums = {}
    for name in [name for name in sources.CIFAR10_MD5 if not name.endswith("gz")]:
        content = pickle.dumps({b"data": rng.integers(0, 256, (size, 3072), dtype=np.uint8),
                                b"labels": rng.integers(0, 10, size).tolist(), b"batch_label": b"x"}, protocol=4)
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, sources.CIFAR10_FOLDER)
    sums[archive.name] = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(sources, "CIFAR10_MD5", sums)
    return archive, folder


def test_cifar10_packed_and_unpacked(tmp_path, monkeypatch):
    archive, folder = official(tmp_path, monkeypatch)
    packed, unpacked, parent = (ng.data.load(p) for p in (archive, folder, tmp_path))
    assert packed.train_images.shape == (20, 3, 32, 32) and len(packed.test_images) == 4
    assert packed.fingerprint() == unpacked.fingerprint() == parent.fingerprint()
    raw = pickle.loads((folder / "data_batch_2").read_bytes())
    assert np.array_equal(packed.train_images[4].flatten().numpy(), raw[b"data"][0])
    assert packed.mean == (0.491, 0.482, 0.447)


def test_cifar10_damage(tmp_path, monkeypatch):
    archive, folder = official(tmp_path, monkeypatch)
    content = archive.read_bytes()
    archive.write_bytes(content[:len(content) // 2])
    with pytest.raises(DataError, match="not the official CIFAR-10 file.*truncated"):
        ng.data.load(archive)
    os.truncate(archive, 2**40)
    with pytest.raises(DataError, match="cannot read .*: File too large"):
        ng.data.load(archive)
    (folder / "data_batch_3").write_bytes(b"changed")
    with pytest.raises(DataError, match="data_batch_3"):
        ng.data.load(folder)
    (folder / "data_batch_3").unlink()
    with pytest.raises(DataError, match="lacks data_batch_3"):
        ng.data.load(folder)


def test_cifar10_reader_runs_no_code(tmp_path, monkeypatch):
    """Even a file whose checksum is declared right can build arrays only."""
    class Evil:
        def __reduce__(self):
            return print, ("code was run",)

    _, folder = official(tmp_path, monkeypatch)
    content = pickle.dumps({b"data": Evil(), b"labels": []})
    (folder / "data_batch_1").write_bytes(content)
    sources.CIFAR10_MD5["data_batch_1"] = hashlib.md5(content).hexdigest()
    with pytest.raises(DataError, match="builtins.print"):
        ng.data.load(folder)


def one_class(folder):
    for name in ("bee", "cow"):
        for part in ("train", "test"):
            for file in (folder / part / name).iterdir():
                file.unlink()
            (folder / part / name).rmdir()


def unreadable(folder):
    (folder / "train" / "bee" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n half a picture")


def truncated(folder):
    file = folder / "train" / "bee" / "2.png"
    file.write_bytes(file.read_bytes()[:60])


@pytest.mark.parametrize("change, message", [
    (one_class, r"at least two; found 1 \(ant\)"),
    (unreadable, "cannot read the image .*bee/2.png"),
    (truncated, "cannot read the image .*bee/2.png"),
    (lambda f: picture(f / "train" / "bee" / "9.png", 9, size=(7, 6)), "9.png is 7x6.*image_size"),
    (lambda f: picture(f / "test" / "dog" / "9.png", 9), "dog is only in one"),
    (lambda f: (f / "train" / "dog").mkdir(), "dog holds no image"),
    (lambda f: [file.unlink() for file in (f / "test" / "cow").iterdir()], "test/cow holds no image"),
    (lambda f: picture(f / "test" / "dog" / "images" / "1.png", 1), "folders inside it, here images, are not"),
    (lambda f: picture(f / "test" / "bee" / "9.png", 9, size=(6, 7)), "9.png is 6x7.*image_size"),
    (lambda f: (f / "test").rename(f / "tst"), "neither 'test' nor 'val'"),
    (lambda f: (f / "train").rename(f / "trian"), "no folder 'train'"),
])
def test_bad_folders(folder, change, message):
    change(folder)
    with pytest.raises(DataError, match=message):
        ng.data.load(folder)


def test_bad_sources(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        ng.data.load("digit")
    with pytest.raises(DataError, match="no file or folder"):
        ng.data.load(tmp_path / "absent")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(DataError, match="neither a .npz nor"):
        ng.data.load(tmp_path / "x.txt")
    with pytest.raises(DataError, match="resizes class folders only"):
        ng.data.load("digits", image_size=16)


def deep(path):
    levels = (np.arange(36).reshape(6, 6) * 1000).astype(np.uint16)
    Image.fromarray(levels).save(path)


def transparent(path):
    Image.fromarray(np.full((6, 6, 4), 100, np.uint8), "RGBA").save(path)


@pytest.mark.parametrize("save, message", [(deep, "more than 8 bits"), (transparent, "transparent")])
def test_pictures_that_would_lose_something(folder, save, message):
    save(folder / "train" / "bee" / "2.png")
    with pytest.raises(DataError, match=f"bee/2.png.*{message}"):
        ng.data.load(folder)


def test_opaque_alpha_is_dropped(folder):
    before = ng.data.load(folder)
    for file in (folder / "train" / "bee").iterdir():
        Image.open(file).convert("RGBA").save(file)
    assert ng.data.load(folder).fingerprint() == before.fingerprint()


def test_numbers_of_numpy(folder):
    assert ng.data.load(folder, image_size=np.int64(4), workers=np.int32(0)).size == (4, 4)
    image, drawn = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4), np.array([[0.1, 0.9, 0.5]])
    assert torch.equal(ng.data.Augmentation(np.int64(1))(image, drawn), ng.data.Augmentation(1)(image, drawn))
    for value in (0.5, "2", -1, True, np.bool_(True), np.float64(2)):
        with pytest.raises(InputError, match="workers must be a whole number"):
            ng.data.load(folder, workers=value)
        with pytest.raises(InputError, match="padding must be a whole number"):
            ng.data.Augmentation(value)


def test_bad_size(folder):
    for size in (0, -3, True, 2.5):
        with pytest.raises(InputError, match="image_size"):
            ng.data.load(folder, image_size=size)


def test_every_class_gives_its_fifth_images(tmp_path):
    """Without a test part each class holds out its own, however many images the others have."""
    for name, count in (("ant", 5), ("bee", 9), ("cow", 11)):
        for i in range(count):
            picture(tmp_path / name / f"{i:02}.png", i)
    data = ng.data.load(tmp_path)
    assert torch.bincount(data.train_labels, minlength=3).tolist() == [4, 8, 9]
    assert data.test_labels.tolist() == [0, 1, 2, 2]
    (tmp_path / "ant" / "03.png").unlink()
    with pytest.raises(DataError, match="the class ant has 4 images.*at least 5"):
        ng.data.load(tmp_path)
