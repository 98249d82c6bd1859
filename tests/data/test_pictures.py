"""Pictures in, 8 bits out: each kind right, or refused with the reason; nothing is lost without a word."""

import io
import json
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

import neuralgraph as ng
from neuralgraph.data import pictures
from neuralgraph.data.pictures import read_picture
from neuralgraph.errors import DataError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
RGB = Image.fromarray(PIXELS)
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "BMP": {}, "PPM": {}}
WITH_EXIF = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "TIFF": {}, "WEBP": {"lossless": True},
             "AVIF": {"quality": 100, "subsampling": "4:4:4"}}
needs_avif = pytest.mark.skipif("AVIF" not in pictures.FORMATS, reason="a Pillow without AVIF")


def read(tmp_path, content):
    (tmp_path / "picture").write_bytes(content)
    return read_picture(str(tmp_path / "picture"))


def saved(image, kind, **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(colour, values, depth=16):
    """A PNG of arrays of integers (H, W, C), written by hand: Pillow writes none of these."""
    rows = values.astype(f">u{depth // 8}").reshape(len(values), -1)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))) + chunk(b"IEND", b""))


def tiff(values, bits, sample_format=1, photometric=2):
    """An uncompressed TIFF of an array (H, W, C), written by hand."""
    height, width, channels = values.shape
    body = values.tobytes()
    many = struct.pack(f"<{channels}H", *[bits] * channels)
    at = 8 + len(body)

    def entry(tag, kind, count, value):
        return struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    short = lambda value: struct.pack("<H", value)
    entries = [entry(256, 3, 1, short(width)), entry(257, 3, 1, short(height)),
               entry(258, 3, channels, many if channels < 3 else struct.pack("<I", at)),
               entry(259, 3, 1, short(1)),
               entry(262, 3, 1, short(photometric)), entry(273, 4, 1, struct.pack("<I", 8)),
               entry(277, 3, 1, short(channels)), entry(278, 3, 1, short(height)),
               entry(279, 4, 1, struct.pack("<I", len(body)))]
    if sample_format != 1:
        entries.append(entry(339, 3, 1, short(sample_format)))
    table = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", at + len(many)) + body + many + table


DEEP = RNG.integers(0, 2**16, (5, 4, 4)).astype(np.uint16)


@pytest.mark.parametrize("content", [
    png(0, DEEP[..., :1]), png(2, DEEP[..., :3]), png(4, DEEP[..., :2]), png(6, DEEP),
    tiff(DEEP[..., :1], 16, photometric=1), tiff(DEEP[..., :3], 16),
    b"P5 4 5 65535\n" + DEEP[..., :1].tobytes(), b"P6 4 5 65535\n" + DEEP[..., :3].tobytes(),
    b"P6\n# a comment\n4 5\n1023\n" + (DEEP[..., :3] % 1024).astype(">u2").tobytes(),
    b"P3 1 1 256 1 2 256", b"P2 1 1 65535 7", b"Pf 1 1 -1.0\n" + struct.pack("<f", 0.5),
    saved(Image.fromarray(DEEP[..., 0]), "TIFF"), saved(Image.fromarray(np.float32(DEEP[..., 0])), "TIFF"),
    saved(Image.fromarray(np.int32(DEEP[..., 0])), "TIFF"),
])
def test_more_than_8_bits(tmp_path, content, monkeypatch):
    """Refused before decoding: by the header, whatever mode Pillow makes of it."""
    monkeypatch.setattr(Image.Image, "convert", None)
    with pytest.raises(DataError, match="more than 8 bits per channel|signed or fractions"):
        read(tmp_path, content)


def test_the_writers_of_these_tests(tmp_path):
    """8 bits by the same hands are read as they are."""
    eight = (DEEP % 256).astype(np.uint8)
    assert np.array_equal(np.asarray(read(tmp_path, png(2, eight[..., :3], 8))), eight[..., :3])
    assert np.array_equal(np.asarray(read(tmp_path, tiff(eight[..., :3], 8))), eight[..., :3])


def test_signed_values(tmp_path):
    with pytest.raises(DataError, match="signed"):
        read(tmp_path, tiff((DEEP[..., :1] % 256).astype(np.uint8), 8, sample_format=2, photometric=1))


@needs_avif
def test_deep_avif(tmp_path):
    content = bytearray(saved(RGB, "AVIF"))
    assert read(tmp_path, content).size == (9, 6)
    content[content.index(b"av1C") + 6] |= 0x40
    with pytest.raises(DataError, match="more than 8 bits"):
        read(tmp_path, content)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_pixels_are_those_of_the_file(tmp_path, kind):
    image = read(tmp_path, saved(RGB, kind, **LOSSLESS[kind]))
    assert image.mode == "RGB" and np.array_equal(np.asarray(image), PIXELS)
    if kind != "WEBP":
        grey = read(tmp_path, saved(RGB.convert("L"), kind))
        assert grey.mode == "L" and np.array_equal(np.asarray(grey), np.asarray(RGB.convert("L")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", WITH_EXIF)
def test_orientation(tmp_path, kind, orientation):
    """Rows and columns of the stored picture are the sides that the EXIF standard names."""
    if kind not in pictures.FORMATS:
        pytest.skip("a Pillow without AVIF")
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :16], stored[:16, 32:], stored[16:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x112] = orientation
    image = np.asarray(read(tmp_path, saved(Image.fromarray(stored), kind, exif=exif, **WITH_EXIF[kind])))
    rows_first = stored if orientation < 5 else stored.transpose(1, 0, 2)
    down, right = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1),
                   5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}[orientation]
    expected = rows_first[::down, ::right]
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 3


def test_damaged_exif_data_tell_no_orientation(tmp_path):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(40)
    for broken in (exif, exif[:16], b"Exif\0\0no header at all"):
        assert read(tmp_path, saved(RGB, "JPEG", exif=broken)).size == (9, 6)


FRAMES = [RGB, RGB.transpose(Image.Transpose.FLIP_TOP_BOTTOM)]


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "AVIF"])
def test_further_frames(tmp_path, kind):
    if kind not in pictures.FORMATS:
        pytest.skip("a Pillow without AVIF")
    with pytest.raises(DataError, match="several frames"):
        read(tmp_path, saved(FRAMES[0], kind, save_all=True, append_images=FRAMES[1:]))


def test_the_main_image_of_a_camera(tmp_path):
    main = read(tmp_path, saved(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:]))
    assert np.array_equal(np.asarray(main), np.asarray(read(tmp_path, saved(FRAMES[0], "JPEG"))))


def transparent(mode):
    image = RGB.convert("RGBA")
    image.putpixel((2, 3), (10, 20, 30, 254))
    return image.convert(mode)


@pytest.mark.parametrize("content, message", [
    (saved(transparent("RGBA"), "PNG"), "transparent"), (saved(transparent("LA"), "PNG"), "transparent"),
    (saved(transparent("RGBA"), "WEBP", lossless=True), "transparent"),
    (saved(transparent("RGBA"), "TIFF"), "transparent"),
    (saved(RGB.quantize(8), "PNG", transparency=0), "transparent"),
    (saved(RGB.quantize(8), "PNG", transparency=bytes([255, 128])), "transparent"),
    (saved(RGB.quantize(8), "GIF", transparency=0), "transparent"),
    (saved(RGB, "PNG", transparency=tuple(int(x) for x in PIXELS[0, 0])), "transparent"),
    (saved(RGB.convert("L"), "PNG", transparency=int(np.asarray(RGB.convert("L"))[0, 0])), "transparent"),
    (saved(Image.new("LAB", (4, 4)), "TIFF"), "its colours are LAB; convert it to RGB"),
    (saved(RGB, "PCX"), "none of BMP, GIF"), (b"", "none of BMP, GIF"), (saved(RGB, "PNG")[:60], "truncated"),
])
def test_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=f"cannot read the image .*picture: .*({message})"):
        read(tmp_path, content)


def test_palettes_and_inks(tmp_path):
    """Palette colours, with transparency that no pixel has; black and white; ink as the formula says."""
    palette = RGB.quantize(8)
    for kind in ("PNG", "GIF", "BMP"):
        assert np.array_equal(np.asarray(read(tmp_path, saved(palette, kind))), np.asarray(palette.convert("RGB")))
    assert read(tmp_path, saved(palette, "PNG", transparency=200)).mode == "RGB"
    black = read(tmp_path, saved(RGB.convert("1"), "PNG"))
    assert black.mode == "L" and set(np.unique(black)) == {0, 255}
    ink = RNG.integers(0, 256, (6, 9, 4), dtype=np.uint8)
    got = np.asarray(read(tmp_path, saved(Image.fromarray(ink, "CMYK"), "TIFF")))
    expected = (255.0 - ink[..., :3]) * (255.0 - ink[..., 3:]) / 255
    assert np.abs(got - expected).max() <= 1


def test_checksums_of_pixels(tmp_path):
    """Pillow takes the changed pixels of this one."""
    row = b"\0" + PIXELS[0].tobytes()
    whole = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 1, 8, 2, 0, 0, 0))
             + chunk(b"IDAT", zlib.compress(row, 0)) + chunk(b"IEND", b""))
    assert np.array_equal(np.asarray(read(tmp_path, whole))[0], PIXELS[0])
    for place in range(len(whole)):
        damaged = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1:]
        with pytest.raises(DataError):
            read(tmp_path, damaged)


def test_files_that_are_no_pictures_by_their_size(tmp_path):
    (tmp_path / "picture").write_bytes(saved(RGB, "BMP"))
    os.truncate(tmp_path / "picture", 2**40)
    with pytest.raises(DataError, match="File too large"):
        read_picture(str(tmp_path / "picture"))


@pytest.fixture
def folder(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(5):
            RGB.save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_what_is_not_used_is_told_once(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (folder / "ant" / ".hidden").write_text("")
        before = ng.data.load(folder)
    (folder / "ant" / "inside").mkdir()
    RGB.save(folder / "ant" / "inside" / "9.png")
    (folder / "bee" / "a.jp2").write_text("")
    (folder / "README").write_text("")
    with pytest.warns(UserWarning, match="3 files or folders in .* are not used, such as .*README") as told:
        data = ng.data.load(folder)
    assert len(told) == 1 and data.fingerprint() == before.fingerprint()


def test_a_second_test_part_is_told(folder):
    for part in ("train", "test", "val"):
        for name in ("ant", "bee"):
            (folder / part / name).mkdir(parents=True)
            RGB.save(folder / part / name / "1.png")
    with pytest.warns(UserWarning, match="not used"):
        ng.data.load(folder)


def test_every_ending_of_a_known_kind(folder):
    """What Pillow registers for the kinds that are read; the content tells which it is."""
    assert {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
            ".pbm", ".pnm"} <= pictures.ENDINGS and ".eps" not in pictures.ENDINGS
    before = ng.data.load(folder)
    for number, ending in enumerate(sorted(pictures.ENDINGS)):
        (folder / "bee" / f"{number + 10}{ending.upper()}").write_bytes(saved(RGB, "PNG"))
    data = ng.data.load(folder)
    assert data.num_train + data.num_test == before.num_train + before.num_test + len(pictures.ENDINGS)


def test_names_that_are_no_text(folder):
    """Folders and files may have any bytes as names; what is stored and printed of them is text."""
    before = ng.data.load(folder, image_size=4, resized_crop=True).fingerprint()
    os.rename(os.fsencode(folder) + b"/bee", os.fsencode(folder) + b"/b\xe9\x1b[31m")
    os.rename(os.fsencode(folder) + b"/ant/1.png", os.fsencode(folder) + b"/ant/\xff1.png")
    for data in (ng.data.load(folder), ng.data.load(folder, image_size=4, resized_crop=True)):
        assert data.classes == ("ant", "b\\udce9\\x1b[31m")
        assert json.loads(json.dumps(data.classes).encode()) == list(data.classes)
        assert data.fingerprint() != before
        assert len(list(data.train_batches([data.train_labels[:2]], ng.data.Augmentation(), 0, 0))) == 1
    (folder / "ant" / os.fsdecode(b"\xff1.png")).write_bytes(b"")
    with pytest.raises(DataError) as caught:
        ng.data.load(folder)
    assert str(caught.value).encode().decode().isprintable() and "\\udcff1.png" in str(caught.value)


def test_permission_denied_is_called_so(folder, tmp_path, monkeypatch):
    np.savez(tmp_path / "d.npz", x=1)

    def denied(path, *arguments, **settings):
        raise PermissionError(13, "Permission denied", os.fspath(path) if not isinstance(path, int) else None)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", denied)
        with pytest.raises(DataError, match="cannot read the image .*0.png: Permission denied"):
            ng.data.load(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", denied)
        with pytest.raises(DataError, match="cannot list .*: Permission denied"):
            ng.data.load(folder)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", denied)
        with pytest.raises(DataError, match="cannot read .*d.npz: Permission denied"):
            ng.data.load(tmp_path / "d.npz")
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.is_dir", denied)
        with pytest.raises(DataError, match="cannot read .*: Permission denied"):
            ng.data.load(folder)
