"""Arrays in one file: read, or refused before they cost memory."""

import tracemalloc
import zipfile

import numpy as np
import pytest

import neuralgraph as ng
from neuralgraph.data import sources
from neuralgraph.errors import DataError


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
