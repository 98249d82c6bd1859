"""Where images come from: the embedded digits, class folders, CIFAR-10's archive, a .npz."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from ..errors import DataError, InputError, UnknownNameError, listed
from .files import FileList, ImageFiles, available_workers, decode
from .images import ImageData, Images

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
HELD_OUT = 5  # without a test part, every fifth image
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

    Without a test part every fifth image of each class, by file name, is held out. The class names are
    those of the folders, in alphabetical order. The images are decoded into memory at once, or, if
    they need more than 2 GiB or ``resized_crop`` is asked for, as they are needed.

    Args:
        path: the folder.
        image_size: resize to this many pixels on each side; by default all must have one size.
        resized_crop: see :class:`neuralgraph.data.ImageFiles`.
        workers: processes that decode; by default one per processor, at most 8.

    Raises:
        DataError: for fewer than two classes, a class that is only in one part, an unreadable image,
            one with transparent pixels or more than 8 bits per channel, or images of different
            size, naming the file.
        InputError: for ``resized_crop`` without ``image_size``.
    """
    train, test, classes = _parts(path)
    workers = available_workers() if workers is None else workers
    pixels = (image_size or 1)**2  # of images as they are, decoding will tell
    if resized_crop or 3 * pixels * (len(train) + len(test)) > IN_MEMORY:
        if image_size is None:
            raise InputError("resized_crop needs image_size (--set image_size=N), in pixels.")
        return ImageFiles(str(path), train, test, classes, image_size, resized_crop, workers)
    images = decode(train + test, image_size, workers, IN_MEMORY)
    cut = len(train)
    return ImageData(str(path), images[:cut], train.labels, images[cut:], test.labels, classes)


def _parts(path: Path) -> tuple[FileList, FileList, tuple[str, ...]]:
    """Training and test files below a folder, and the classes."""
    train = path / "train"
    tests = [path / name for name in ("test", "val") if (path / name).is_dir()]
    if not train.is_dir():
        if tests:
            raise DataError(f"{path} has a folder {tests[0].name!r} but no folder 'train' beside it.")
        files, classes = FileList.below(path)
        place = torch.cat([torch.arange(int(n)) for n in torch.bincount(files.labels)])
        held_out = _is_held_out(place)
        return files[~held_out], files[held_out], classes
    if not tests:
        raise DataError(f"{path} has a folder 'train' but neither 'test' nor 'val' beside it.")
    files, classes = FileList.below(train)
    test_files, test_classes = FileList.below(tests[0])
    if classes != test_classes:
        odd = sorted(set(classes) ^ set(test_classes))
        raise DataError(f"{path}: the classes of 'train' and {tests[0].name!r} differ: "
                        f"{listed(odd)} is only in one of them.")
    return files, test_files, classes


def _is_held_out(place: torch.Tensor) -> torch.Tensor:
    """Whether an image becomes a test image: every fifth by its place."""
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
            raise DataError(f"{path} lacks {listed(missing)} of CIFAR-10; unpack the archive again.")
        contents = {name: _checked(name, (path / name).read_bytes(), path / name) for name in names}
    else:
        archive = _checked("cifar-10-python.tar.gz", path.read_bytes(), path)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            contents = {name: _checked(name, tar.extractfile(f"{CIFAR10_FOLDER}/{name}").read(), path)
                        for name in names}
    batches = {name: _CifarUnpickler(io.BytesIO(data), encoding="bytes").load()
               for name, data in contents.items()}

    def stack(names):
        images = np.concatenate([batches[name][b"data"] for name in names]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([batches[name][b"labels"] for name in names])
        return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))

    return ImageData(str(path), *stack(names[:5]), *stack(names[5:]), CIFAR10_CLASSES, CIFAR10_MEAN,
                     CIFAR10_STD)


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

    ``x_train``, ``y_train``, ``x_test``, ``y_test`` are understood too. Images are uint8, (N, H, W),
    (N, H, W, C) or (N, C, H, W) with C = 1 or 3; labels are integers from 0, and the largest of the
    training labels says how many classes there are. Pickled content is refused.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # NumPy's reader passes on whatever its parsers raise
        raise DataError(f"{path} is not a readable .npz archive (truncated, or with pickled objects): "
                        f"{error}") from error
    parts = []
    for part in ("train", "test"):
        short = f"x_{part}", f"y_{part}"
        long = f"{part}_images", f"{part}_labels"
        names = short if short[0] in arrays else long
        for name in names:
            if name not in arrays:
                raise DataError(f"{path} has no array {name!r}; it has {listed(sorted(arrays))}.")
        parts += [_channels_first(arrays[names[0]], path, names[0]),
                  _integer_labels(arrays[names[1]], path, names[1])]
    count = int(parts[1].max()) + 1 if len(parts[1]) else 0
    if count > len(parts[1]):
        raise DataError(f"{path}: {names[1].replace('test', 'train')!r} asks for {count} classes, more "
                        f"than the {len(parts[1])} training images; labels count from 0 without gaps.")
    return ImageData(str(path), *parts, classes=tuple(str(i) for i in range(count)))


DATASETS = {"digits": digits}


def load(source: str | os.PathLike, image_size: int | None = None, resized_crop: bool = False,
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
    if image_size is not None and (isinstance(image_size, bool) or not isinstance(image_size, int)
                                   or image_size < 1):
        raise InputError(f"image_size must be a number of pixels, at least 1, got {image_size!r}.")
    if workers is not None and workers < 0:
        raise InputError(f"workers must be at least 0, got {workers!r}.")
    path = Path(source)
    if path.is_dir() and str(source) not in DATASETS:
        for folder in (path, path / CIFAR10_FOLDER):
            if (folder / "data_batch_1").exists():
                path = folder
                break
        else:
            return class_folders(path, image_size, resized_crop, workers)
    if resized_crop:
        raise InputError(f"resized_crop needs class folders of images, but {source} is none; leave it out.")
    if str(source) in DATASETS:
        return _no_resize(DATASETS[str(source)](), image_size)
    if path.is_dir() or path.name.endswith((".tar.gz", ".tgz", ".tar")) and path.is_file():
        return _no_resize(cifar10(path), image_size)
    if path.suffix == ".npz" and path.is_file():
        return _no_resize(npz(path), image_size)
    if path.is_file():
        raise DataError(f"{path} is neither a .npz nor CIFAR-10's archive; for images give the folder "
                        "that holds the class folders.")
    if len(path.parts) > 1 or path.suffix:
        raise DataError(f"there is no file or folder {path}.")
    raise UnknownNameError("data set or path", str(source), DATASETS)


def _no_resize(data: ImageData, image_size: int | None) -> ImageData:
    if image_size is not None and data.size != (image_size, image_size):
        raise DataError(f"image_size={image_size} resizes class folders only, but {data.name} has "
                        f"images of {data.size[0]}x{data.size[1]}; leave image_size out.")
    return data


def _checked(name: str, content: bytes, path: Path) -> bytes:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != CIFAR10_MD5[name]:
        raise DataError(
            f"{path} is not the official CIFAR-10 file {name!r} ({len(content)} bytes, MD5 {digest}, "
            f"expected {CIFAR10_MD5[name]}): it is truncated or another file. Download it again; other "
            "archives must be unpacked, then give the folder."
        )
    return content


def _channels_first(array: np.ndarray, path: Path, name: str) -> torch.Tensor:
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        raise DataError(f"{path}: {name!r} must be uint8 (N, H, W), (N, H, W, C) or (N, C, H, W), got "
                        f"{array.dtype} of shape {array.shape}.")
    if 0 in array.shape[1:]:
        raise DataError(f"{path}: {name!r} has shape {array.shape}; expected at least one pixel.")
    if array.ndim == 3:
        array = array[:, None]
    elif array.shape[1] not in (1, 3):
        if array.shape[3] not in (1, 3):
            raise DataError(f"{path}: {name!r} has shape {array.shape}; expected 1 or 3 channels.")
        array = array.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(array))


def _integer_labels(array: np.ndarray, path: Path, name: str) -> torch.Tensor:
    if array.dtype.kind not in "iu":
        raise DataError(f"{path}: {name!r} must be integers, got {array.dtype}.")
    if array.shape not in ((array.size,), (array.size, 1)):
        raise DataError(f"{path}: {name!r} must have shape (N,) or (N, 1), got {array.shape}.")
    return torch.from_numpy(array.astype(np.int64).reshape(-1))
