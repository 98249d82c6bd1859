"""Labelled images, and batches of them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import DataError, InputError, whole
from ..models.preprocessing import normalise


class Images(ABC):
    """What a run asks of a set of images: labels, batches of unsigned bytes, and their statistics."""

    name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    if TYPE_CHECKING:  # only read, fields or properties; dataclasses would take a property for a field's default
        @property
        def channels(self) -> int: ...

        @property
        def size(self) -> tuple[int, int]: ...

        @property
        def train_labels(self) -> torch.Tensor: ...

        @property
        def test_labels(self) -> torch.Tensor: ...

    @property
    def num_train(self) -> int:
        return len(self.train_labels)

    @property
    def num_test(self) -> int:
        return len(self.test_labels)

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash that tells whether the images, labels or classes are others."""

    @abstractmethod
    def train_batches(self, batches: Sequence[torch.Tensor], augmentation: Augmentation, seed: int,
                      epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Augmented images uint8 (B, C, H, W) and labels (B,) of each batch of numbers.

        What becomes of an image depends on seed, epoch and its number only.
        """

    @abstractmethod
    def test_batches(self, batches: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Test images uint8 (B, C, H, W) and labels (B,) of each batch of numbers."""

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images to (x / 255 - mean) / std, float32."""
        return normalise(images, self.mean, self.std)

    def on(self, device: torch.device) -> Images:
        """The same images, kept on a device where that spares its steps a wait; by default they stay where they are."""
        return self


@dataclass(frozen=True, eq=False)
class ImageData(Images):
    """Training and test images as unsigned bytes.

    Args:
        name: where they come from, for messages.
        train_images: uint8 (N, C, H, W).
        train_labels: int64 (N,), 0 <= label < len(classes).
        test_images: uint8 (M, C, H, W).
        test_labels: int64 (M,).
        classes: the name of each class.
        mean: of each channel, in units of the full range 255; by default of the training images.
        std: standard deviation likewise.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self):
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            if images.dtype != torch.uint8 or images.dim() != 4:
                raise DataError(f"{self.name}: {part} images must be uint8 (N, C, H, W), got "
                                f"{images.dtype} of shape {tuple(images.shape)}.")
            if labels.dtype != torch.int64:
                raise DataError(f"{self.name}: {part} labels must be int64, got {labels.dtype}.")
            if len(images) == 0 or labels.shape != (len(images),):
                raise DataError(f"{self.name}: {part} has {len(images)} images and "
                                f"{tuple(labels.shape)} labels; expected as many, and at least one.")
            if labels.min() < 0 or labels.max() >= len(self.classes):
                raise DataError(f"{self.name}: {part} labels run from {labels.min()} to "
                                f"{labels.max()}, but there are {len(self.classes)} classes "
                                f"(0 to {len(self.classes) - 1}).")
        if len(self.classes) < 2:
            raise DataError(f"{self.name} has {len(self.classes)} class; a classifier needs two or "
                            "more.")
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise DataError(f"{self.name}: training images are {tuple(self.train_images.shape[1:])} "
                            f"(C, H, W) but test images {tuple(self.test_images.shape[1:])}.")
        if not self.mean and not self.std:
            mean, std = channel_statistics(self.train_images)
            object.__setattr__(self, "mean", mean)
            object.__setattr__(self, "std", std)
        if not len(self.mean) == len(self.std) == self.channels:
            raise DataError(f"{self.name}: mean and std need one value for each of the {self.channels} "
                            f"channels, got {self.mean} and {self.std}.")
        if not min(self.std) > 0:
            raise DataError(f"{self.name}: std must be above 0, got {self.std}.")

    @property
    def channels(self) -> int:
        return self.train_images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        height, width = self.train_images.shape[2:]
        return height, width

    def fingerprint(self) -> str:
        """A hash of all images, labels and class names: tells whether data have changed."""
        digest = hashlib.sha256()
        for part in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(str(tuple(part.shape)).encode())
            digest.update(part.contiguous().numpy().data)
        digest.update("\0".join(self.classes).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]

    def train_batches(self, batches: Sequence[torch.Tensor], augmentation: Augmentation, seed: int,
                      epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for chosen in batches:
            drawn = draws(seed, epoch, chosen.numpy(), 3)
            chosen = chosen.to(self.train_images.device)
            yield augmentation(self.train_images[chosen], drawn), self.train_labels[chosen]

    def test_batches(self, batches: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for chosen in batches:
            chosen = chosen.to(self.test_images.device)
            yield self.test_images[chosen], self.test_labels[chosen]

    def on(self, device: torch.device) -> ImageData:
        if device == self.train_images.device:
            return self
        return replace(self, train_images=self.train_images.to(device), train_labels=self.train_labels.to(device),
                       test_images=self.test_images.to(device), test_labels=self.test_labels.to(device))


def channel_statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images, in units of 255."""
    levels = torch.stack([torch.bincount(images[:, c].flatten(), minlength=256)
                          for c in range(images.shape[1])]).double()
    share, value = levels / levels.sum(1, keepdim=True), torch.arange(256).double() / 255
    mean = share @ value
    std = (share @ value**2 - mean**2).clamp(min=0).sqrt()
    return (tuple(round(m, 6) for m in mean.tolist()),
            tuple(round(s, 6) or 1.0 for s in std.tolist()))


@dataclass(frozen=True)
class Augmentation:
    """A random crop after zero padding, and a horizontal flip with probability one half.

    Args:
        padding: pixels of zeros on each side before the crop back to the old size; 0 for no crop.
        flip: whether to flip.

    Raises:
        InputError: for a padding that is no number of pixels.
    """

    padding: int = 0
    flip: bool = False

    def __post_init__(self):
        object.__setattr__(self, "padding", whole_number("padding", self.padding, 0, "pixels"))

    def __call__(self, images: torch.Tensor, drawn: np.ndarray) -> torch.Tensor:
        """Augments uint8 images (B, C, H, W) by three numbers in [0, 1) each, (B, 3)."""
        offsets = (drawn[:, :2] * (2 * self.padding + 1)).astype(int)
        flipped = drawn[:, 2] < (0.5 if self.flip else 0)
        if images.device.type != "cpu":
            return gathered(images, self.padding, offsets, flipped)
        batch, channels, height, width = images.shape
        if self.padding:
            p = self.padding
            padded = np.zeros((batch, channels, height + 2 * p, width + 2 * p), dtype=np.uint8)
            padded[:, :, p:p + height, p:p + width] = images.numpy()
            cropped = np.empty((batch, channels, height, width), dtype=np.uint8)
            for image, (top, left) in enumerate(offsets.tolist()):
                cropped[image] = padded[image, :, top:top + height, left:left + width]
            images = torch.from_numpy(cropped)
        if self.flip:
            images = images.where(~torch.from_numpy(flipped).view(-1, 1, 1, 1), images.flip(-1))
        return images


def gathered(images: torch.Tensor, padding: int, offsets: np.ndarray, flipped: np.ndarray) -> torch.Tensor:
    """Crops of padded images (B, C, H, W) from these rows and columns (B, 2) on, flipped where the mask (B,) says so.

    One gather for all of them, as suits a GPU; on a CPU copies of rectangles take half the time.
    """
    height, width = images.shape[2:]
    numbers = torch.from_numpy(np.concatenate([offsets, flipped[:, None]], axis=1)).to(images.device)
    rows = numbers[:, :1] + torch.arange(height, device=images.device)
    columns = numbers[:, 1:2] + torch.arange(width, device=images.device)
    columns = columns.flip(1).where(numbers[:, 2:] > 0, columns)
    padded = F.pad(images, [padding] * 4)
    pixels = (rows[:, :, None] * padded.shape[3] + columns[:, None]).flatten(1)
    return padded.flatten(2).gather(2, pixels[:, None].expand(-1, images.shape[1], -1)).view_as(images)


DRAWS = 32  # at most, for one image in one epoch


def draws(seed: int, epoch: int, index: np.ndarray, count: int) -> np.ndarray:
    """Uniform numbers in [0, 1) for each of these images in this epoch, (B, count).

    Number j of image i is the output 32 i + j of SplitMix64 ("Fast Splittable Pseudorandom Number
    Generators", Steele, Lea and Flood, 2014), which starts from a hash of seed and epoch: the draws of
    an image do not depend on which others are drawn, by whom or in which order.
    """
    if count > DRAWS:
        raise InputError(f"expected at most {DRAWS} draws for one image, got {count}.")
    start = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    place = index.astype(np.uint64)[:, None] * np.uint64(DRAWS) + np.arange(1, count + 1, dtype=np.uint64)
    return (splitmix64(start + place * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)) * 2.0**-53


def splitmix64(state: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 on states of 64 bits."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def training_order(num_images: int, seed: int, epoch: int) -> torch.Tensor:
    """The order of the training images in one epoch; depends on nothing but seed and epoch."""
    return torch.randperm(num_images, generator=generator_for(seed, epoch))


def generator_for(*numbers: int) -> torch.Generator:
    """A generator whose stream depends on all of the numbers (seed, epoch, step, ...)."""
    words = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def whole_number(name: str, value: int, least: int, unit: str) -> int:
    """A whole number of any type, NumPy's too, as an ``int``.

    Raises:
        InputError: for anything else, or less than ``least``.
    """
    number = whole(value)
    if number is not None and number >= least:
        return number
    raise InputError(f"{name} must be a whole number of {unit}, at least {least}, got {value!r}.")
