"""Where images come from: the embedded digits, class folders, CIFAR-10's archive, a .npz."""

from __future__ import annotations

import hashlib
import io
import math
import os
import pickle
import tarfile
import warnings
from importlib import resources
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch

from .._files import Arrays, memory, printable, read_whole
from ..errors import DataError, InputError, UnknownNameError, listed
from .files import FileList, ImageFiles, available_workers, decode
from .images import ImageData, Images, whole_number
from .pictures import ENDINGS

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
                   "truck")
CIFAR10_MEAN, CIFAR10_STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_MD5 = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR10_MOST = 200_000_000  # bytes; the archive has 170 million
HELD_OUT = 5  # without a test split, every fifth image
IN_MEMORY = 2**31  # bytes; more than this stays on disk


def digits() -> ImageData:
    """The 1,797 embedded handwritten digits, 8x8 (see DIGITS.md); every fifth one is a test image.

    >>> data = digits()
    >>> len(data.train_images), len(data.test_images), data.size
    (1438, 359, (8, 8))
    """
    with resources.files(__package__).joinpath("digits.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        images, labels = arrays["images"], arrays["labels"]
    images = torch.from_numpy((images.astype(np.uint16) * 255 // 16).astype(np.uint8))[:, None]
    labels = torch.from_numpy(labels.astype(np.int64))
    test = _is_held_out(torch.arange(len(images)))
    return ImageData("digits", images[~test], labels[~test], images[test], labels[test],
                     tuple("0123456789"))


def class_folders(path: Path, image_size: int | None = None, resized_crop: bool = False,
                  workers: int | None = None) -> Images:
    """Images in one folder per class, below ``train`` and ``test`` (or ``val``) or right here.

    Without a test split every fifth image of each class, by file name, is held out. The class names are
    those of the folders, in alphabetical order. The images are decoded into memory at once, or, if
    they need more than 2 GiB or ``resized_crop`` is asked for, as they are needed;
    :func:`neuralgraph.data.pictures.read_picture` says how. Images have one of the endings
    :data:`neuralgraph.data.pictures.ENDINGS` and lie in the class folder itself; what else is there and
    not hidden is not used, and a warning says so.

    Args:
        path: the folder.
        image_size: resize to this many pixels on each side; by default all must have one size.
        resized_crop: see :class:`neuralgraph.data.ImageFiles`.
        workers: processes that decode; by default one per processor, at most 8.

    Raises:
        DataError: for fewer than two classes, a class without images in one of the splits, an
            unreadable image, one that 8 bits of grey or RGB cannot hold, or images of different size,
            naming the file.
        InputError: for ``resized_crop`` without ``image_size``.
    """
    train, test, classes, unused = _parts(path)
    if unused:
        warnings.warn(f"{len(unused)} files or folders in {printable(path)} are not used, such as "
                      f"{printable(unused[0])}: images lie in their class folder itself and end in "
                      f"{', '.join(sorted(ENDINGS))}.", stacklevel=4)
    workers = available_workers() if workers is None else workers
    pixels = (image_size or 1)**2  # of images as they are, decoding will tell
    if resized_crop or 3 * pixels * (len(train) + len(test)) > IN_MEMORY:
        if image_size is None:
            raise InputError("resized_crop needs image_size (--set image_size=N), in pixels.")
        return ImageFiles(printable(path), train, test, classes, image_size, resized_crop, workers)
    images = decode(train + test, image_size, workers, IN_MEMORY)
    cut = len(train)
    return ImageData(printable(path), images[:cut], train.labels, images[cut:], test.labels, classes)


def _parts(path: Path) -> tuple[FileList, FileList, tuple[str, ...], list[str]]:
    """Training and test files below a folder, the classes, and what is not used."""
    train = path / "train"
    tests = [path / name for name in ("test", "val") if (path / name).is_dir()]
    if not train.is_dir():
        if tests:
            raise DataError(f"{printable(path)} has a folder {tests[0].name!r} but no folder 'train' beside "
                            "it.")
        files, names, unused = FileList.below(path)
        counts = torch.bincount(files.labels)
        if counts.min() < HELD_OUT:
            few = int(counts.argmin())
            raise DataError(f"{printable(path)}: the class {printable(names[few])} has {counts[few]} images, "
                            f"but every fifth one becomes a test image: give it at least {HELD_OUT}, or put "
                            "the images in folders 'train' and 'test'.")
        held_out = _is_held_out(torch.cat([torch.arange(int(n)) for n in counts]))
        return files[~held_out], files[held_out], _class_names(names), unused
    if not tests:
        raise DataError(f"{printable(path)} has a folder 'train' but neither 'test' nor 'val' beside it.")
    files, names, unused = FileList.below(train)
    test_files, test_names, more_unused = FileList.below(tests[0])
    if names != test_names:
        odd = sorted(set(names) ^ set(test_names))
        raise DataError(f"{printable(path)}: the classes of 'train' and {tests[0].name!r} differ: "
                        f"{printable(listed(odd))} is only in one of them.")
    beside = sorted(entry.path for entry in os.scandir(path)
                    if entry.name not in ("train", tests[0].name) and not entry.name.startswith("."))
    return files, test_files, _class_names(names), beside + unused + more_unused


def _class_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of folders as they can be printed and stored."""
    return tuple(printable(name) for name in names)


def _is_held_out(place: torch.Tensor) -> torch.Tensor:
    """Whether an image becomes a test image: every fifth by its index."""
    return place % HELD_OUT == HELD_OUT - 1


def cifar10(path: Path) -> ImageData:
    """The official CIFAR-10 ("python version"): its archive, or the folder it unpacks to.

    Every file is compared with its published MD5 before it is read, and the reader accepts nothing but
    plain containers and arrays, so that a changed file runs no code.

    Raises:
        DataError: if a file is missing, truncated or not the official one.
    """
    names = [name for name in CIFAR10_MD5 if not name.endswith(".gz")]
    if path.is_dir():
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise DataError(f"{printable(path)} lacks {listed(missing)} of CIFAR-10; unpack the archive "
                            "again.")
        contents = {name: _official(name, path / name) for name in names}
    else:
        archive = _official("cifar-10-python.tar.gz", path)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            contents = {name: _checked(name, _extracted(tar, name), path) for name in names}
    batches = {name: _CifarUnpickler(io.BytesIO(data), encoding="bytes").load()
               for name, data in contents.items()}

    def stack(names):
        images = np.concatenate([batches[name][b"data"] for name in names]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([batches[name][b"labels"] for name in names])
        return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))

    train, train_labels = stack(names[:5])
    test, test_labels = stack(names[5:])
    return ImageData(str(path), train, train_labels, test, test_labels, CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD)


def _extracted(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(f"{CIFAR10_FOLDER}/{name}")
    assert member is not None  # a file of the official archive
    return member.read()


class _CifarUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and nothing else."""

    def find_class(self, module, name):
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise DataError(f"a CIFAR-10 file asks for {module}.{name}, which the official ones do not.")


def npz(path: Path) -> ImageData:
    """A NumPy archive with ``train_images``, ``train_labels``, ``test_images``, ``test_labels``.

    ``x_train``, ``y_train``, ``x_test``, ``y_test`` are understood too; other arrays are not read. Images
    are uint8, (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3; labels are integers from 0 without
    gaps, and the largest of the training labels says how many classes there are.

    Raises:
        DataError: for an archive that is unreadable, damaged or holds pickled objects, arrays that are
            missing or of another kind, more than fits in memory, or a class without images in one of
            the splits.
    """
    try:
        with path.open("rb") as file:
            images_and_labels = _read_npz(Arrays(file), path)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {printable(path)}: {error.strerror or error}.") from error
    except Exception as error:  # NumPy's reader passes on whatever its parsers raise
        raise DataError(f"{printable(path)} is not a readable .npz archive (truncated, damaged or with "
                        f"pickled objects): {error}") from error
    train, labels, test, test_labels = images_and_labels
    count = int(labels.max()) + 1 if len(labels) else 0
    if count > len(labels):
        raise DataError(f"{printable(path)}: the training labels ask for {count} classes, more than the "
                        f"{len(labels)} training images; labels count from 0 without gaps.")
    data = ImageData(printable(path), train, labels, test, test_labels,
                     classes=tuple(str(i) for i in range(count)))
    for part, given in (("training", labels), ("test", test_labels)):
        absent = (torch.bincount(given, minlength=count) == 0).nonzero().flatten().tolist()
        if absent:
            raise DataError(f"{printable(path)}: there are no {part} images of the classes {listed(absent)}; "
                            f"labels count from 0 to {count - 1} without gaps, in both splits.")
    return data


def _read_npz(arrays: Arrays, path: Path) -> list[torch.Tensor]:
    """Images and labels of both splits; what they are is checked before anything is read."""
    names: list[str] = []
    read: list[torch.Tensor] = []
    for part in ("train", "test"):
        short, long = (f"x_{part}", f"y_{part}"), (f"{part}_images", f"{part}_labels")
        names += short if short[0] in arrays.names else long
    for name in names:
        if name not in arrays.names:
            raise DataError(f"{printable(path)} has no array {name!r}; it has "
                            f"{printable(listed(arrays.names))}.")
    for images, labels in (names[:2], names[2:]):
        _check_images(*arrays.header(images), path, images)
        _check_labels(*arrays.header(labels), arrays.header(images)[1][0], path, labels)
    needed = sum(int(dtype.itemsize) * math.prod(shape) for dtype, shape in map(arrays.header, names))
    if needed > memory():
        raise DataError(f"the images in {printable(path)} need {needed:,} bytes, more than this machine's "
                        "memory; give a folder of images instead, which are decoded as they are needed.")
    for images, labels in (names[:2], names[2:]):
        read += [_channels_first(arrays.read(images)),
                 torch.from_numpy(arrays.read(labels).astype(np.int64).reshape(-1))]
    return read


DATASETS = {"digits": digits}


@overload
def load(source: Literal["digits"], image_size: int | None = None, resized_crop: bool = False,
         workers: int | None = None) -> ImageData: ...


@overload
def load(source: str | os.PathLike[str], image_size: int | None = None, resized_crop: bool = False,
         workers: int | None = None) -> Images: ...


def load(source: str | os.PathLike[str], image_size: int | None = None, resized_crop: bool = False,
         workers: int | None = None) -> Images:
    """Images by name or path.

    Args:
        source: a key of :data:`DATASETS`; or a folder of class folders, CIFAR-10's official archive or
            unpacked folder, or a ``.npz`` file.
        image_size: for class folders, resize to this many pixels on each side.
        resized_crop: for class folders, see :class:`neuralgraph.data.ImageFiles`.
        workers: processes that decode class folders; by default one per processor, at most 8.

    Raises:
        DataError: if the data cannot be read or used.
        InputError: for a size that is none.
        UnknownNameError: if there is neither such a name nor such a path.
    """
    image_size = None if image_size is None else whole_number("image_size", image_size, 1, "pixels")
    workers = None if workers is None else whole_number("workers", workers, 0, "processes")
    path = Path(source)
    try:
        return _load(str(source), path, image_size, resized_crop, workers)
    except OSError as error:
        raise DataError(f"cannot read {printable(error.filename or path)}: "
                        f"{error.strerror or error}.") from error


def _load(source: str, path: Path, image_size: int | None, resized_crop: bool, workers: int | None) -> Images:
    if source in DATASETS:
        if resized_crop:
            raise InputError(f"resized_crop needs class folders of images, but {source} is none; leave it "
                             "out.")
        return _no_resize(DATASETS[source](), image_size)
    if path.is_dir():
        for folder in (path, path / CIFAR10_FOLDER):
            if (folder / "data_batch_1").exists():
                path = folder
                break
        else:
            return class_folders(path, image_size, resized_crop, workers)
    if resized_crop:
        raise InputError(f"resized_crop needs class folders of images, but {printable(source)} is none; "
                         "leave it out.")
    if path.is_dir() or path.name.endswith((".tar.gz", ".tgz", ".tar")) and path.is_file():
        return _no_resize(cifar10(path), image_size)
    if path.suffix == ".npz" and path.is_file():
        return _no_resize(npz(path), image_size)
    if path.exists():
        raise DataError(f"{printable(path)} is neither a .npz nor CIFAR-10's archive; for images give the "
                        "folder that holds the class folders.")
    if len(path.parts) > 1 or path.suffix:
        raise DataError(f"there is no file or folder {printable(path)}.")
    raise UnknownNameError("data set or path", source, DATASETS)


def _no_resize(data: ImageData, image_size: int | None) -> ImageData:
    if image_size is not None and data.size != (image_size, image_size):
        raise DataError(f"image_size={image_size} resizes class folders only, but {data.name} has "
                        f"images of {data.size[0]}x{data.size[1]}; leave image_size out.")
    return data


def _official(name: str, path: Path) -> bytes:
    try:
        return _checked(name, read_whole(path, CIFAR10_MOST), path)
    except OSError as error:
        raise DataError(f"cannot read {printable(path)}: {error.strerror}.") from error


def _checked(name: str, content: bytes, path: Path) -> bytes:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != CIFAR10_MD5[name]:
        raise DataError(
            f"{printable(path)} is not the official CIFAR-10 file {name!r} ({len(content)} bytes, MD5 "
            f"{digest}, expected {CIFAR10_MD5[name]}): it is truncated or another file. Download it again; other "
            "archives must be unpacked, then give the folder."
        )
    return content


def _check_images(dtype: np.dtype, shape: tuple[int, ...], path: Path, name: str) -> None:
    if dtype != np.uint8 or len(shape) not in (3, 4):
        raise DataError(f"{printable(path)}: {name!r} must be uint8 (N, H, W), (N, H, W, C) or "
                        f"(N, C, H, W), got {dtype} of shape {shape}.")
    if 0 in shape[1:]:
        raise DataError(f"{printable(path)}: {name!r} has shape {shape}; expected at least one pixel.")
    if len(shape) == 4 and shape[1] not in (1, 3) and shape[3] not in (1, 3):
        raise DataError(f"{printable(path)}: {name!r} has shape {shape}; expected 1 or 3 channels.")


def _check_labels(dtype: np.dtype, shape: tuple[int, ...], count: int, path: Path, name: str) -> None:
    if dtype.kind not in "iu":
        raise DataError(f"{printable(path)}: {name!r} must be integers, got {dtype}.")
    if shape not in ((count,), (count, 1)):
        raise DataError(f"{printable(path)}: there are {count} images and {name!r} has shape {shape}; "
                        "expected (N,) or (N, 1), one label for each image.")


def _channels_first(array: np.ndarray) -> torch.Tensor:
    if array.ndim == 3:
        array = array[:, None]
    elif array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(array))
