"""Images on disk: listed once, decoded by several processes, all at the start or as they are needed."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from .._files import printable
from ..errors import DataError, listed
from ..models.preprocessing import centre_crop, channels_first, resized
from .images import Augmentation, Images, draws
from .pictures import ENDINGS, read_picture

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # of the random resized crop
WORTH_PROCESSES = 4000  # fewer images are decoded sooner than processes start


@dataclass(frozen=True, eq=False)
class FileList:
    """Files of images, their labels, and what they were when they were listed.

    Args:
        paths: as bytes, an array (N,), which processes share without copying.
        labels: int64 (N,).
        sizes, times: in bytes, and of the last change in nanoseconds, int64 (N,).
    """

    paths: np.ndarray
    labels: torch.Tensor
    sizes: np.ndarray
    times: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        return os.fsdecode(bytes(self.paths[index]))

    def check_unchanged(self, index: int) -> None:
        """Raises DataError if a file was removed or written since it was listed."""
        path = self.path(index)
        try:
            now = os.stat(path)
        except OSError as error:
            raise DataError(f"the image {printable(path)} can no longer be read ({error.strerror}): the "
                            "data have changed during the run; restore them and continue with --resume.") from None
        if (now.st_size, now.st_mtime_ns) != (self.sizes[index], self.times[index]):
            raise DataError(f"the image {printable(path)} has changed during the run; restore it and "
                            "continue with --resume.")

    @classmethod
    def below(cls, folder: Path) -> tuple[FileList, tuple[str, ...], list[str]]:
        """The images in one folder per class, by name, the names of the classes, and what is not used.

        Nothing that is hidden (``.name``) counts, unless it is an image in a class folder.
        """
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            entries = [entry for entry in entries if not entry.name.startswith(".")]
            names = [entry.name for entry in entries if entry.is_dir()]
            unused = [entry.path for entry in entries if not entry.is_dir()]
            if len(names) < 2:
                raise DataError(f"{printable(folder)} must hold one folder of images per class, at least "
                                f"two; found {len(names)} ({printable(listed(names)) or 'none'}).")
            paths, labels, sizes, times = [], [], [], []
            for number, name in enumerate(names):
                inside, others = _images_and_others(folder / name)
                if not inside:
                    raise DataError(f"the class folder {printable(folder / name)} holds no image "
                                    f"({', '.join(sorted(ENDINGS))})" + _instead(others))
                for entry in inside:
                    status = entry.stat()
                    paths.append(os.fsencode(entry.path))
                    sizes.append(status.st_size)
                    times.append(status.st_mtime_ns)
                labels += [number] * len(inside)
                unused += [entry.path for entry in others]
        except OSError as error:
            raise DataError(f"cannot list the images in {printable(folder)}: "
                            f"{error.strerror} ({printable(error.filename)}).") from error
        files = cls(np.array(paths), torch.tensor(labels), np.array(sizes), np.array(times))
        return files, tuple(names), unused

    def __add__(self, other: FileList) -> FileList:
        return FileList(np.concatenate([self.paths, other.paths]), torch.cat([self.labels, other.labels]),
                        np.concatenate([self.sizes, other.sizes]),
                        np.concatenate([self.times, other.times]))

    def __getitem__(self, chosen: torch.Tensor) -> FileList:
        """Those of a mask (N,)."""
        mask = chosen.numpy()
        return FileList(self.paths[mask], self.labels[chosen], self.sizes[mask], self.times[mask])


def _images_and_others(folder: Path) -> tuple[list[os.DirEntry], list[os.DirEntry]]:
    """The images in a class folder by name, and what else lies there and is not hidden."""
    images, others = [], []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if os.path.splitext(entry.name)[1].lower() in ENDINGS and (entry.is_file() or entry.is_symlink()) \
                and not entry.is_dir():
            images.append(entry)
        elif not entry.name.startswith("."):
            others.append(entry)
    return images, others


def _instead(others: list[os.DirEntry]) -> str:
    """What a class folder without images holds."""
    folders = [entry.name for entry in others if entry.is_dir()]
    if folders:
        return f"; images in folders inside it, here {printable(listed(folders, 2))}, are not looked for."
    return f", only {printable(listed([entry.name for entry in others], 2))}." if others else "."


@dataclass(frozen=True, eq=False)
class ImageFiles(Images):
    """Images that stay on disk and are decoded when a batch needs them.

    Always three channels, normalised with ImageNet's mean and standard deviation. What an image becomes
    depends on seed, epoch and its number only, not on how many processes read.

    Args:
        name: where they come from, for messages.
        train, test: the files.
        classes: the name of each class.
        image_size: side in pixels of what the model sees.
        resized_crop: train on random resized crops and test on the centre (see
            :func:`random_resized_crop` and :func:`centre_crop`); otherwise images are resized to the
            square as they are.
        workers: processes that decode; 0 to decode in this one.
    """

    name: str
    train: FileList
    test: FileList
    classes: tuple[str, ...]
    image_size: int
    resized_crop: bool = False
    workers: int = 0
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channels: int = 3

    @property
    def train_labels(self) -> torch.Tensor:
        return self.train.labels

    @property
    def test_labels(self) -> torch.Tensor:
        return self.test.labels

    @property
    def size(self) -> tuple[int, int]:
        return self.image_size, self.image_size

    def fingerprint(self) -> str:
        """A hash of the files' names and sizes; their contents are not read for it."""
        digest = hashlib.sha256(f"{self.image_size} {self.resized_crop}\n".encode())
        for part in (self.train, self.test):
            for index in range(len(part)):
                inside = "/".join(part.path(index).split(os.sep)[-2:])
                line = f"{part.labels[index]} {inside} {part.sizes[index]}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))  # names need not be text
        digest.update("\0".join(self.classes).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]

    def train_batches(self, batches: Sequence[torch.Tensor], augmentation: Augmentation, seed: int,
                      epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        reader = Reader(self.train, _ForTraining(self.image_size, self.resized_crop, augmentation, seed,
                                                 epoch))
        return self._tensors(reader, batches)

    def test_batches(self, batches: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self._tensors(Reader(self.test, _ForTest(self.image_size, self.resized_crop)), batches)

    def _tensors(self, reader, batches):
        for images, chosen in zip(read_batches(reader, batches, self.workers), batches):
            yield images, reader.files.labels[chosen]


@dataclass(frozen=True)
class _ForTraining:
    """A training image: crop, resize, flip, by the draws of its number in this epoch."""

    size: int
    resized_crop: bool
    augmentation: Augmentation
    seed: int
    epoch: int

    def __call__(self, image: Image.Image, index: int) -> np.ndarray:
        drawn = draws(self.seed, self.epoch, np.array([index]), 3 + 2 * TRIES + 2)
        image = image.convert("RGB")
        image = random_resized_crop(image, self.size, drawn[0, 3:]) if self.resized_crop \
            else resized(image, (self.size, self.size))
        array = torch.from_numpy(channels_first(image))
        return self.augmentation(array[None], drawn[:, :3])[0].numpy()


@dataclass(frozen=True)
class _ForTest:
    """A test image: the centre of the resized image, or all of it."""

    size: int
    resized_crop: bool

    def __call__(self, image: Image.Image, index: int) -> np.ndarray:
        image = image.convert("RGB")
        return channels_first(centre_crop(image, self.size) if self.resized_crop
                              else resized(image, (self.size, self.size)))


@dataclass(frozen=True)
class WholeImage:
    """The whole image, of one channel if it is grey, resized to a square or as it is."""

    size: int | None

    def __call__(self, image: Image.Image, index: int) -> np.ndarray:
        return channels_first(image if self.size is None else resized(image, (self.size, self.size)))


def random_resized_crop(image: Image.Image, size: int, drawn: np.ndarray) -> Image.Image:
    """A random part of an image, resized to ``size`` x ``size``.

    Its area is the image's times U(0.08, 1) and its width over height exp(U(log 3/4, log 4/3)), drawn
    up to ten times until it fits, and its position uniform; if none fits, the largest centred part whose
    ratio is as near as possible. ("Going Deeper with Convolutions", Szegedy et al., 2015, section 6, as
    torchvision's RandomResizedCrop defines it.)

    Args:
        image: of any size.
        size: in pixels.
        drawn: 22 numbers in [0, 1): area and ratio of each try, and the position.
    """
    width, height = image.size
    for area, ratio in drawn[:2 * TRIES].reshape(TRIES, 2):
        area = width * height * (SCALE[0] + (SCALE[1] - SCALE[0]) * area)
        ratio = math.exp(math.log(RATIO[0]) + math.log(RATIO[1] / RATIO[0]) * ratio)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(drawn[-2] * (width - w + 1))
            top = int(drawn[-1] * (height - h + 1))
            break
    else:
        w, h = width, height
        if width / height < RATIO[0]:
            h = round(width / RATIO[0])
        elif width / height > RATIO[1]:
            w = round(height * RATIO[1])
        left, top = (width - w) // 2, (height - h) // 2
    return resized(image.crop((left, top, left + w, top + h)), (size, size))


class Reader(Dataset):
    """Decodes and transforms the image of a number; an unreadable one is returned as the error."""

    def __init__(self, files: FileList, transform):
        self.files, self.transform = files, transform

    def __getitem__(self, index: int) -> np.ndarray | DataError:
        file = self.files.path(index)
        try:
            self.files.check_unchanged(index)
            return self.transform(read_picture(file), index)
        except DataError as error:
            return error


def read_batches(reader: Reader, batches: Sequence[torch.Tensor],
                 workers: int) -> Iterator[torch.Tensor | list[np.ndarray]]:
    """The images of each batch of numbers in turn: a tensor (B, C, H, W), or a list if shapes differ.

    Raises:
        DataError: for an image that cannot be read, or if a process that reads is lost.
    """
    workers = min(workers, len(batches))
    # from Python 3.14 on every process would import PyTorch anew, at every epoch
    context = "fork" if workers and sys.platform == "linux" else None
    loader = DataLoader(reader, batch_sampler=[batch.tolist() for batch in batches], collate_fn=_collate,
                        num_workers=workers, multiprocessing_context=context, worker_init_fn=_leave_interrupts,
                        generator=torch.Generator())  # or it would draw from the global one
    with lost_readers():
        for images in loader:
            if isinstance(images, DataError):
                raise images
            yield images


@contextlib.contextmanager
def lost_readers() -> Iterator[None]:
    """Turns the loss of a process that reads images, which PyTorch reports at any time, into DataError."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(f"a process that reads images was lost ({str(error).splitlines()[0]}); fewer "
                        "--workers need less memory.") from error


def available_workers() -> int:
    """As many processes as there are processors for us, at most 8; with one only, none beside this."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, processors) if processors > 1 else 0


def decode(files: FileList, image_size: int | None, workers: int, most: int) -> torch.Tensor:
    """All images in memory, uint8 (N, C, H, W), C = 1 if all are grey, in at most that many bytes.

    Raises:
        DataError: for an unreadable image, or one of another size than the first, naming the file.
    """
    chunks = torch.arange(len(files)).split(500)
    if len(files) < WORTH_PROCESSES:
        workers = 0
    images: np.ndarray | None = None
    grey, done = True, 0
    for part in read_batches(Reader(files, WholeImage(image_size)), chunks, workers):
        for array in part:
            array = np.asarray(array)
            if images is None:
                if 3 * array[0].size * len(files) > most:
                    raise DataError(f"{len(files)} images of {array.shape[2]}x{array.shape[1]} pixels are "
                                    "too many to keep in memory: give image_size (--set image_size=N), "
                                    "and they are decoded as they are needed.")
                images = np.empty((len(files), 3, *array.shape[1:]), dtype=np.uint8)
            if array.shape[1:] != images.shape[2:]:
                raise DataError(f"{printable(files.path(done))} is {array.shape[2]}x{array.shape[1]} pixels "
                                f"but {printable(files.path(0))} {images.shape[3]}x{images.shape[2]}; give "
                                "image_size (--set image_size=N) to resize.")
            images[done] = array
            grey = grey and len(array) == 1
            done += 1
    assert images is not None  # there are files
    return torch.from_numpy(images[:, :1].copy() if grey else images)


def _collate(images: list) -> torch.Tensor | list[np.ndarray] | DataError:
    for image in images:
        if isinstance(image, DataError):
            return image
    if len({image.shape for image in images}) == 1:
        return torch.from_numpy(np.stack(images))
    return images


def _leave_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal, but the run itself decides what to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
