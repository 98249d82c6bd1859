"""Damaged and hostile files: are they refused with an error of ours, or read as what they are?

    python benchmarks/fuzz.py [--cases N] [--kind K...] [--seed S] [--keep FOLDER]

Each kind of file is changed N times at random and read. It must raise an error of ``neuralgraph.errors``, or
give what the unchanged file gives, or what another reader makes of the changed one. Every kind runs in a
process of its own, so that a crash is seen; the file that caused a failure is kept.
"""

import argparse
import io
import json
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as save_tensors

import neuralgraph as ng
from neuralgraph._files import UNPRINTABLE, read_tensors
from neuralgraph.compat.torch_files import read_state_dict
from neuralgraph.data.pictures import FORMATS, read_picture
from neuralgraph.errors import NeuralGraphError

NUMBERS = [0, 1, 7, 8, 9, 16, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]


def changed(content: bytes, rng: random.Random) -> bytes:
    """A few random changes, more of them near the beginning and the end, where headers are."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        size = max(1, len(content))
        place = rng.choice([rng.randrange(size), rng.randrange(min(size, 64)), rng.randrange(min(size, 300)),
                            size - 1 - rng.randrange(min(size, 120))])
        length = rng.choice([1, 1, 2, 4, 8])
        what = rng.randrange(7)
        if what == 0:
            content[place:place + 1] = rng.randbytes(1)
        elif what == 1:
            number = rng.choice(NUMBERS).to_bytes(8, "little")[:length]
            content[place:place + length] = number if rng.random() < 0.5 else number[::-1]
        elif what == 2:
            del content[place:place + rng.choice([length, size])]
        elif what == 3:
            content[place:place] = rng.randbytes(length)
        elif what == 4:
            other = rng.randrange(size)
            content[place:place + length] = content[other:other + length]
        elif what == 5:
            content[place:place] = content[place:place + rng.randrange(64)]
        elif place < len(content):
            content[place] ^= 1 << rng.randrange(8)
    return bytes(content)


def must(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


# What a kind is: files to change, a reader, and what must hold for what was read


def saved(image: Image.Image, kind: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
RGB = Image.fromarray(PIXELS)


def png(depth: int, colour: int, channels: int) -> bytes:
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS[:, :channels * depth // 8, 0])  # one pixel each
    header = struct.pack(">IIBBBBB", 1, len(PIXELS), depth, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def pixels(path: Path) -> np.ndarray:
    image = read_picture(str(path))
    must(image.mode in ("L", "RGB"), f"an image of the mode {image.mode}")
    return np.asarray(image)


def same_pixels(content, good, array):
    """A PNG has checksums: what is read of it is what was written."""
    must(good is not None and np.array_equal(array, good), "other pixels were accepted")


def eight_bits_ppm(content, good, array):
    """The largest value is the last of the header's numbers."""
    if content[:2] in (b"P2", b"P3", b"P5", b"P6"):
        header = b" ".join(line.partition(b"#")[0] for line in content[2:200].split(b"\n"))
        numbers = header.split()[:3]
        if b"#" not in content[:200] and len(numbers) == 3 and numbers[2].isdigit():
            must(int(numbers[2]) <= 255, f"values up to {numbers[2]} were accepted")


def eight_bits_tiff(content, good, array):
    """By the tags of the first directory."""
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None or struct.unpack(order + "H", content[2:4]) != (42,):
        return
    at, = struct.unpack(order + "I", content[4:8])
    count, = struct.unpack(order + "H", content[at:at + 2])
    for entry in range(min(count, 100)):
        entry = content[at + 2 + 12 * entry:at + 14 + 12 * entry]
        if len(entry) == 12 and struct.unpack(order + "HHI", entry[:8]) == (258, 3, 1):
            must(struct.unpack(order + "H", entry[8:10])[0] <= 8, "more than 8 bits were accepted")


def no_more(content, good, result):
    """Nothing but that it ends with a result or an error of ours."""


def same_tensors(content, good, tensors):
    must(good is not None and list(tensors) == list(good) and all(
        torch.equal(tensors[name], good[name]) for name in good), "other tensors were accepted")


def sound_tensors(content, good, tensors):
    """Every number can be read, and is the file's."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors.values()}
    must(sum(storages.values()) <= len(content), "more numbers than the file has")
    for tensor in tensors.values():
        tensor.clone()


def by_hand(content, good, result):
    """Name, shape and bytes of each tensor as the format says, read without its library."""
    tensors, metadata = result
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8:8 + size])
    must(metadata == header.pop("__metadata__", {}), "other metadata were accepted")
    must(header.keys() == tensors.keys(), "other names were accepted")
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        data = tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        must(list(tensors[name].shape) == entry["shape"] and data == content[8 + size + begin:8 + size + end],
             f"other numbers of {name!r} were accepted")


def same_images(content, good, data):
    must(good is not None and data.fingerprint() == good.fingerprint(), "other images were accepted")


def npz_files() -> list[bytes]:
    arrays = {"train_images": PIXELS[:8], "train_labels": np.arange(8) % 2, "test_images": PIXELS[8:12],
              "test_labels": np.arange(4) % 2, "more": np.arange(1000.0)}
    files = []
    for write in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        write(file, **arrays)
        files.append(file.getvalue())
    return files


def torch_file(**settings) -> bytes:
    file = io.BytesIO()
    base = torch.arange(30.0)
    torch.save({"model": {"a": base.view(5, 6), "b": base[3:9], "c": torch.arange(4)}, "lr": 0.1,
                "meters": [argparse.Namespace(values=[1.0, torch.ones(2)])]}, file, **settings)
    return file.getvalue()


def unpacked_again(content: bytes, rng: random.Random) -> bytes:
    """The pickle inside a file of ``torch.save`` changed, with right checksums around it."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for info in old.infolist():
            inside = old.read(info)
            if info.filename.endswith("data.pkl"):
                inside = changed(inside, rng)
            new.writestr(info.filename, inside)
    return file.getvalue()


def of_state(path: Path) -> dict:
    return read_state_dict(path, "model")


LOSSY = [saved(RGB, kind, **settings) for kind, settings in [
    ("JPEG", {}), ("JPEG", {"progressive": True}), ("GIF", {}), ("BMP", {}), ("WEBP", {}),
    ("WEBP", {"lossless": True}), ("AVIF", {})] if kind in FORMATS]
LOSSY += [saved(RGB.convert(mode), "JPEG") for mode in ("CMYK", "L")]
KINDS = {  # files, reader, what must hold, how they are changed
    "png": ([saved(RGB, "PNG"), saved(RGB.convert("L"), "PNG"), saved(RGB.quantize(8), "PNG"),
             saved(RGB.convert("1"), "PNG"), saved(RGB.convert("RGBA"), "PNG"), png(16, 0, 1), png(16, 4, 2)],
            pixels, same_pixels, changed),
    "ppm": ([saved(RGB, "PPM"), saved(RGB.convert("L"), "PPM"), saved(RGB.convert("1"), "PPM"),
             b"P3 2 1 255 1 2 3 4 5 6\n", b"P2 2 2 9 1 2 3 4\n", b"P5 3 2 1023 " + bytes(12),
             b"P6\n# x\n1 1\n65535\n" + bytes(6)],
            pixels, eight_bits_ppm, changed),
    "tiff": ([saved(RGB, "TIFF"), saved(RGB.convert("L"), "TIFF"), saved(RGB, "TIFF", compression="tiff_lzw"),
              saved(RGB, "TIFF", compression="tiff_adobe_deflate"), saved(RGB.quantize(8), "TIFF"),
              saved(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200), "TIFF")],
             pixels, eight_bits_tiff, changed),
    "pictures": (LOSSY, pixels, no_more, changed),
    "npz": (npz_files(), ng.data.load, same_images, changed),
    "torch": ([torch_file()], of_state, same_tensors, changed),
    "torch-pickle": ([torch_file()], of_state, sound_tensors, unpacked_again),
    "torch-legacy": ([torch_file(_use_new_zipfile_serialization=False)], of_state, sound_tensors, changed),
    "tensors": ([save_tensors({"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4),
                               "empty": torch.zeros(0, 3)}, metadata={"who": "me", "n": "1"})],
                lambda path: read_tensors(path, "file"), by_hand, changed),
}


def fuzz(kind: str, cases: int, seed: int, folder: Path) -> dict[str, int]:
    """How many changed files of a kind were read and how many refused.

    Raises:
        AssertionError: for another error than ours, or for what must not be accepted; the file stays.
    """
    files, read, check, change = KINDS[kind]
    path = folder / f"{kind}.{'npz' if kind == 'npz' else 'file'}"
    goods = []
    for content in files:
        path.write_bytes(content)
        try:
            goods.append(read(path))
        except NeuralGraphError:
            goods.append(None)  # a file that is refused stays so
    counts = {"read": 0, "refused": 0}
    rng = random.Random(f"{seed} {kind}")
    for case in range(cases):
        which = rng.randrange(len(files))
        content = change(files[which], rng)
        path.write_bytes(content)
        began = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = read(path)
        except NeuralGraphError as error:
            must(not UNPRINTABLE.search(str(error)), f"case {case}: a message with codes in it: {error!r}")
            counts["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{kind}, case {case}: {type(error).__name__}: {error} ({path})") from error
        else:
            try:
                check(content, goods[which], result)
            except AssertionError as error:
                raise AssertionError(f"{kind}, case {case}: {error} ({path})") from error
            counts["read"] += 1
        must(time.monotonic() - began < 20, f"{kind}, case {case}: more than 20 seconds ({path})")
    path.unlink()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for files that failed")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    if len(arguments.kind) == 1:
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        counts = fuzz(arguments.kind[0], arguments.cases, arguments.seed, folder)
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"{arguments.kind[0]:14}{counts['read']:>8} read{counts['refused']:>8} refused"
              f"{time.monotonic() - began:>8.0f} s{more:>8.0f} MiB", flush=True)
        return
    failed = []
    for kind in arguments.kind:
        command = [sys.executable, __file__, "--cases", str(arguments.cases), "--kind", kind, "--seed",
                   str(arguments.seed), "--keep", str(folder)]
        done = subprocess.run(command, stderr=subprocess.PIPE, check=False)  # decoders say much there
        if done.returncode:
            print(f"{kind}: ended with {done.returncode}\n{done.stderr.decode(errors='replace')[-1500:]}")
            failed.append(kind)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the files are in {folder}")


if __name__ == "__main__":
    main()
