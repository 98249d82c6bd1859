"""One image file to 8 bits of grey or RGB, or refused where that would lose something."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from .._files import printable, read_whole
from ..errors import DataError
from ..models.preprocessing import DEEP, WITH_ALPHA, check_opaque

KINDS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "AVIF")
Image.init()  # AVIF is not in every Pillow
FORMATS = tuple(kind for kind in KINDS if kind in Image.OPEN)
ENDINGS = frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS)
COLOURS = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"}  # Pillow's modes that become grey or RGB
BITS_PER_SAMPLE, SAMPLE_FORMAT, UNSIGNED = 258, 339, 1  # of TIFF
LARGEST = 2**30  # bytes of a file
PNG = b"\x89PNG\r\n\x1a\n"
UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
           4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
           6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}


def read_picture(path: str | Path) -> Image.Image:
    """The image of a file, upright, in Pillow's mode L if it is black and white or grey, else RGB.

    Its content, not its name, tells which of :data:`FORMATS` it is. It is turned as its EXIF orientation
    says. CMYK becomes RGB without a colour profile, R = (255 - C) (255 - K) / 255 and so on; profiles
    are not applied. Of a JPEG that also holds previews or other views (MPO) this is the main image.

    Raises:
        DataError: for a file that is unreadable or damaged, or that has more than 8 bits per channel,
            several frames, transparent pixels, or colours that are none of these.
    """
    try:
        content = read_whole(Path(path), LARGEST)
        if content.startswith(PNG):
            _check_png(content)
        if content[4:12] in (b"ftypavif", b"ftypavis"):
            _check_avif(content)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_header(image)
            image.load()
            check_opaque(image)
            grey = image.mode in ("1", "L")
            return _upright(image).convert("L" if grey else "RGB")
    except UnidentifiedImageError:
        why = f"it is damaged or none of {', '.join(FORMATS)} with 8 bits per channel"
    except struct.error:
        why = "it is truncated or damaged"
    except OSError as error:
        why = error.strerror or str(error)
    except Exception as error:  # Pillow passes on whatever its decoders raise
        why = str(error) or type(error).__name__
    raise DataError(f"cannot read the image {printable(path)}: {printable(why)}")


def _check_header(image: ImageFile.ImageFile) -> None:
    """Refuses what decoding would clip, round or leave out without a word."""
    if image.mode[0] in "IF" or _deep(image):
        raise ValueError(DEEP)
    if image.mode not in COLOURS | WITH_ALPHA:
        raise ValueError(f"its colours are {image.mode}; convert it to RGB first")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ValueError("it has several frames; save the one that is meant as an image of its own")


def _deep(image: ImageFile.ImageFile) -> bool:
    """Whether the file has more than 8 bits per channel, which Pillow's mode does not always tell."""
    decoder = [part for *_, settings in image.tile
               for part in (settings if isinstance(settings, tuple) else (settings,))]
    if image.format == "PNG":
        return any(isinstance(part, str) and ";16" in part for part in decoder)
    if image.format == "PPM":
        return any(isinstance(part, int) and part > 255 for part in decoder)  # the largest value
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        if set(image.tag_v2.get(SAMPLE_FORMAT, (UNSIGNED,))) != {UNSIGNED}:
            raise ValueError("its values are signed or fractions; convert it to 8 bits, unsigned, first")
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,))) > 8
    return False


def _check_png(content: bytes) -> None:
    """Refuses a file whose checksums are wrong; Pillow compares those of the pixels with nothing."""
    place, kind = len(PNG), b""
    while kind != b"IEND":
        length, = struct.unpack_from(">I", content, place)
        kind, end = content[place + 4:place + 8], place + 8 + length
        checksum, = struct.unpack_from(">I", content, end)
        if zlib.crc32(content[place + 4:end]) != checksum:
            raise ValueError(f"it is damaged: the checksum of its part {kind!r} is wrong")
        place = end + 4


def _check_avif(content: bytes) -> None:
    """Refuses a file of which a box "av1C" (AV1-ISOBMFF, section 2.3.3) says ``high_bitdepth``."""
    place = content.find(b"av1C")
    while place >= 0:
        version, _, flags = content[place + 4:place + 7].ljust(3, b"\0")
        if version == 0x81 and flags & 0x40:
            raise ValueError(DEEP)
        place = content.find(b"av1C", place + 1)


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF data tell no orientation; the picture itself is sound
        return image
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
