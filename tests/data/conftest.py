"""Class folders, for all files of this folder."""

import pytest
from noise import picture


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 6), ("test", 2)):
        for c, name in enumerate(("ant", "bee", "cow")):
            for i in range(count):
                picture(tmp_path / part / name / f"{i}.png", 100 * c + i)
    return tmp_path
