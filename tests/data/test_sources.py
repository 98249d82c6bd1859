"""Images in, errors for what cannot be used."""

import hashlib
import os
import pickle
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import neuralgraph as ng
from neuralgraph.data import sources
from neuralgraph.errors import DataError, InputError, UnknownNameError


def picture(path, value, size=(6, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(value)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode).save(path)


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 6), ("test", 2)):
        for c, name in enumerate(("ant", "bee", "cow")):
            for i in range(count):
                picture(tmp_path / part / name / f"{i}.png", 100 * c + i)
    return tmp_path


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


@pytest.mark.parametrize("names", [("train_images", "train_labels", "test_images", "test_labels"),
                                   ("x_train", "y_train", "x_test", "y_test")])
@pytest.mark.parametrize("layout", ["nhw", "nhwc", "nchw"])
def test_npz(tmp_path, names, layout):
    shape = {"nhw": (5, 6), "nhwc": (5, 6, 3), "nchw": (3, 5, 6)}[layout]
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, *shape), dtype=np.uint8) for n in (8, 4))
    np.savez(tmp_path / "d.npz", **dict(zip(names, (train, np.arange(8) % 3, test, np.arange(4) % 3))))
    data = ng.data.load(tmp_path / "d.npz")
    assert data.train_images.shape == (8, 1 if layout == "nhw" else 3, 5, 6)
    expected = train[:, None] if layout == "nhw" else \
        train.transpose(0, 3, 1, 2) if layout == "nhwc" else train
    assert np.array_equal(data.train_images.numpy(), expected)
    assert data.classes == ("0", "1", "2")


def write_npz(path, **changes):
    arrays = {"train_images": np.zeros((4, 5, 5), np.uint8), "train_labels": np.array([0, 1, 0, 1]),
              "test_images": np.zeros((2, 5, 5), np.uint8), "test_labels": np.array([0, 1]), **changes}
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})


@pytest.mark.parametrize("changes, message", [
    ({"train_labels": None}, "no array 'train_labels'"),
    ({"train_labels": np.array([0, 1, 0])}, "4 images and"),
    ({"train_labels": np.array([0, 1, 0, -1])}, "labels run from -1"),
    ({"train_labels": np.array([0.0, 1, 0, 1])}, "must be integers"),
    ({"train_images": np.zeros((4, 5, 5))}, "must be uint8"),
    ({"train_images": np.zeros((4, 2, 5, 5), np.uint8)}, "1 or 3 channels"),
    ({"test_images": np.zeros((2, 6, 6), np.uint8)}, "test images"),
    ({"train_labels": np.zeros(4, int), "test_labels": np.zeros(2, int)}, "1 class"),
    ({"train_images": np.array([None] * 4)}, "pickled objects"),
    ({"test_labels": np.array([1, 1])}, "no test images of the classes 0"),
    ({"train_labels": np.array([0, 2, 0, 2]), "test_labels": np.array([0, 2])}, "no training images of the classes 1"),
    ({"test_images": np.zeros((0, 5, 5), np.uint8), "test_labels": np.zeros(0, int)}, "0 images"),
])
def test_bad_npz(tmp_path, changes, message):
    write_npz(tmp_path / "d.npz", **changes)
    with pytest.raises(DataError, match=message):
        ng.data.load(tmp_path / "d.npz")


def test_arrays_of_no_use_are_not_read(tmp_path):
    """Neither what they hold nor what they claim matters: a bomb, objects, or no array at all."""
    write_npz(tmp_path / "d.npz")
    expected = ng.data.load(tmp_path / "d.npz").fingerprint()
    write_npz(tmp_path / "d.npz", names=np.array([None, {}], dtype=object))
    with zipfile.ZipFile(tmp_path / "d.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README", "no array")
        with archive.open("zeros.npy", "w", force_zip64=True) as member:
            for _ in range(64):
                member.write(bytes(2**20))
    tracemalloc.start()
    assert ng.data.load(tmp_path / "d.npz").fingerprint() == expected
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def npy(shape, dtype="|u1", body=b""):
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + body


@pytest.mark.parametrize("content, message", [
    (npy((10**6, 10**3, 10**3)), "does not fit its 128 bytes"),
    (npy((10**11,), "<i8"), "does not fit"),
    (npy((-4, 5, 5)), "does not fit|negative"),
    (npy((4, 5, 5), body=bytes(99)), "does not fit"),
    (npy((4, 5, 5), body=bytes(101)), "does not fit"),
    (npy((4, 5, 5))[:50], "EOF|truncated"),
    (b"no array at all", "magic"),
])
def test_claims_of_arrays(tmp_path, content, message):
    write_npz(tmp_path / "d.npz", train_images=None)
    with zipfile.ZipFile(tmp_path / "d.npz", "a") as archive:
        archive.writestr("train_images.npy", content)
    with pytest.raises(DataError, match=message):
        ng.data.load(tmp_path / "d.npz")


def test_more_images_than_memory(tmp_path, monkeypatch):
    write_npz(tmp_path / "d.npz")
    monkeypatch.setattr(sources, "memory", lambda: 100)
    with pytest.raises(DataError, match="need 198 bytes, more than this machine's memory"):
        ng.data.load(tmp_path / "d.npz")


def test_claims_of_the_archive(tmp_path):
    """A member that says it unpacks to more than its bytes can become."""
    write_npz(tmp_path / "d.npz")
    content = bytearray((tmp_path / "d.npz").read_bytes())
    size = (128 + 100).to_bytes(4, "little")
    places = [place for place in range(len(content)) if content[place:place + 8] == size + size]
    assert places  # in the directory
    for place in places:
        content[place + 4:place + 8] = (2**31).to_bytes(4, "little")
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError, match="claims 2,147,483,648 bytes"):
        ng.data.load(tmp_path / "d.npz")


def test_truncated_npz(tmp_path):
    write_npz(tmp_path / "d.npz")
    content = (tmp_path / "d.npz").read_bytes()
    for cut in (0, 10, len(content) // 2, len(content) - 5):
        (tmp_path / "d.npz").write_bytes(content[:cut])
        with pytest.raises(DataError, match="not a readable .npz"):
            ng.data.load(tmp_path / "d.npz")


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


def test_statistics_and_normalisation():
    data = ng.data.load("digits")
    x = data.normalise(data.train_images).double()
    assert abs(x.mean()) < 1e-4 and abs(x.std(unbiased=False) - 1) < 1e-4
    flat = data.train_images.double() / 255
    assert data.mean[0] == pytest.approx(flat.mean().item(), abs=1e-6)
    assert data.std[0] == pytest.approx(flat.std(unbiased=False).item(), abs=1e-6)


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


@pytest.mark.parametrize("changes, message", [
    ({"train_labels": np.array([0, 1, 0, 10**12])}, "4 training images"),
    ({"test_labels": np.array([0, 2])}, "test labels run from 0 to 2, but there are 2 classes"),
    ({"train_labels": np.array([[0, 1], [0, 1]])}, r"\(N,\)"),
    ({"train_labels": np.array([0, 1, 0, 2**63], np.uint64)}, "labels run"),
    ({"train_images": np.zeros((4, 0, 5), np.uint8), "test_images": np.zeros((2, 0, 5), np.uint8)},
     "at least one pixel"),
])
def test_bad_npz_labels(tmp_path, changes, message):
    write_npz(tmp_path / "d.npz", **changes)
    with pytest.raises(DataError, match=message):
        ng.data.load(tmp_path / "d.npz")


def test_damaged_npz_is_refused_or_read(tmp_path):
    """Random bytes changed or cut, in both kinds of archive: never another error than DataError."""
    rng = np.random.default_rng(0)
    arrays = {"train_images": rng.integers(0, 256, (4, 5, 5), dtype=np.uint8),
              "train_labels": np.array([0, 1, 0, 1]),
              "test_images": np.zeros((2, 5, 5), np.uint8), "test_labels": np.array([0, 1])}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "good.npz", **arrays)
        good = (tmp_path / "good.npz").read_bytes()
        for _ in range(300):
            content = bytearray(good)
            for place in rng.integers(0, len(content), rng.integers(1, 5)):
                content[place] = rng.integers(256)
            (tmp_path / "d.npz").write_bytes(bytes(content[:rng.integers(len(good) // 2, 2 * len(good))]))
            try:
                ng.data.load(tmp_path / "d.npz")
            except DataError:
                pass


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
