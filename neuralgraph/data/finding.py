"""Pictures that nobody has sorted, found below folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import DataError
from .pictures import ENDINGS


def find_pictures(places: Iterable[str | Path]) -> list[Path]:
    """The files as given, and for a folder all images below it, by name; hidden ones are left out.

    Raises:
        DataError: for a folder that holds none or cannot be read, and for what is not there.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            inside = _below(place)
            if not inside:
                raise DataError(f"there is no image below {place} ({', '.join(sorted(ENDINGS))}).")
            found += inside
        elif place.exists():
            found.append(place)
        else:
            raise DataError(f"there is no file or folder {place}.")
    return found


def _below(folder: Path) -> list[Path]:
    def refuse(error: OSError):
        raise DataError(f"cannot list the images in {error.filename}: {error.strerror}.") from error

    found = []
    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(root, name) for name in sorted(files)
                  if not name.startswith(".") and os.path.splitext(name)[1].lower() in ENDINGS]
    return found
