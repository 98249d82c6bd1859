"""From a picture to the input of a model, as the model was trained on it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import InputError

DEEP = "it has more than 8 bits per channel; convert it to 8 bits first"
WITH_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}  # of Pillow's modes


@dataclass(frozen=True)
class Preprocessing:
    """What turns an image into the input of a classifier, and the names of its answers.

        input = (x / 255 - mean) / std,    x the bytes of each channel

    A picture is first made grey or RGB and resized to the square the model was trained on, or cut from its
    centre if the model was trained on resized crops.

    Args:
        mean: of each channel, in units of the full range 255.
        std: standard deviation likewise, above 0.
        classes: the name of each class, in the order of the logits.
        image_size: side of the model's images, in pixels.
        channels: of them.
        resized_crop: take the centre of a picture (:func:`centre_crop`) instead of all of it.

    Raises:
        InputError: for a value of the wrong kind.

    >>> grey = Preprocessing(mean=(0.5,), std=(0.25,), classes=("no", "yes"), image_size=2, channels=1)
    >>> grey(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)).flatten()
    tensor([2., 2., 2., 2.])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    image_size: int
    channels: int
    resized_crop: bool = False

    def __post_init__(self):
        for name in ("image_size", "channels"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InputError(f"{name} must be a positive integer, got {value!r}.")
        for name, least in (("mean", -math.inf), ("std", 0)):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != self.channels or not all(
                    type(value) in (int, float) and math.isfinite(value) and value > least
                    for value in values):
                raise InputError(f"{name} must be {self.channels} finite numbers"
                                 f"{' above 0' if least == 0 else ''}, one per channel, got {values!r}.")
        if not isinstance(self.classes, tuple) or not self.classes or \
                not all(isinstance(name, str) for name in self.classes):
            raise InputError(f"classes must be the names of the classes, got {self.classes!r}.")
        if type(self.resized_crop) is not bool:
            raise InputError(f"resized_crop must be True or False, got {self.resized_crop!r}.")

    def __call__(self, images: torch.Tensor | Image.Image) -> torch.Tensor:
        """float32 (B, C, S, S) of images uint8 (B, C, S, S), or (1, C, S, S) of a decoded picture.

        Raises:
            InputError: for images of another type or shape, and for a picture with transparent pixels, or
                of more than 8 bits a channel, which would be clipped.
        """
        if isinstance(images, Image.Image):
            images = torch.from_numpy(self._pixels(images))[None]
        wanted = (self.channels, self.image_size, self.image_size)
        if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8 or \
                images.dim() != 4 or tuple(images.shape[1:]) != wanted:
            got = f"{images.dtype} of shape {tuple(images.shape)}" if isinstance(images, torch.Tensor) \
                else type(images).__name__
            raise InputError(f"expected a picture, or images uint8 (batch, {', '.join(map(str, wanted))}), "
                             f"got {got}.")
        return normalise(images, self.mean, self.std)

    def _pixels(self, image: Image.Image) -> np.ndarray:
        """uint8 (C, S, S)."""
        mode = {1: "L", 3: "RGB"}.get(self.channels)
        if mode is None:
            raise InputError(f"a picture has 1 or 3 channels, but the model takes {self.channels}; give it "
                             "tensors.")
        try:
            check_loses_nothing(image)
        except ValueError as error:
            raise InputError(f"this picture cannot be used: {error}.") from error
        image, size = image.convert(mode), self.image_size
        return channels_first(centre_crop(image, size) if self.resized_crop else resized(image, (size, size)))

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; :meth:`from_json` is the inverse."""
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, fields: object) -> Preprocessing:
        """What :meth:`to_json` wrote.

        Raises:
            InputError: for anything else.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(fields, dict) or fields.keys() != names:
            raise InputError(f"expected an object with {', '.join(sorted(names))}, got {fields!r}.")
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        return cls(**values)


def normalise(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """uint8 images (B, C, H, W) to (x / 255 - mean) / std, float32."""
    shift, scale = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (mean, std))
    return images.float().div_(255).sub_(shift).div_(scale)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre of an image whose shorter side is resized to 256 / 224 of ``size``."""
    width, height = image.size
    short = round(size * 256 / 224)
    if width <= height:
        image = resized(image, (short, int(short * height / width)))
    else:
        image = resized(image, (int(short * width / height), short))
    left, top = (round((side - size) / 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bilinear, with antialiasing."""
    return image.resize(size, Image.Resampling.BILINEAR)


def channels_first(image: Image.Image) -> np.ndarray:
    """uint8 (C, H, W)."""
    array = np.asarray(image)
    return array[None].copy() if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def check_loses_nothing(image: Image.Image) -> None:
    """Refuses what a conversion to 8 bits of grey or RGB would clip or drop without a word.

    Raises:
        ValueError: that says what would be lost.
    """
    if image.mode[0] in "IF":
        raise ValueError(DEEP)
    check_opaque(image)


def check_opaque(image: Image.Image) -> None:
    """Refuses transparent pixels, which have no colour of their own."""
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        if np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
            raise ValueError("it has transparent pixels; put it on a background first")
