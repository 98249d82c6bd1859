"""A few hundred damaged files of each kind; ``benchmarks/fuzz.py`` makes any number."""

import importlib.util

import pytest
from checkout import ROOT

spec = importlib.util.spec_from_file_location("fuzz", ROOT / "benchmarks" / "fuzz.py")
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_damaged_files_are_refused_or_read_as_they_are(tmp_path, kind):
    counts = fuzz.fuzz(kind, 200, 0, tmp_path)
    assert counts["read"] + counts["refused"] == 200 and counts["refused"]
