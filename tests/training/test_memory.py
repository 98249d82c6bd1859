"""Memory that was freed is kept for the next step."""

import os
import platform
import resource
import subprocess
import sys

import pytest
from checkout import ROOT


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_kept():
    """64 MiB, freed and asked for again, are the same pages: none is fetched once more.

    Several times, as the system may take pages away from any process meanwhile.
    """
    code = """
import resource, torch
from neuralgraph.training import keep_freed_memory
assert keep_freed_memory()
for _ in range(4):
    torch.ones(2**24)
fetched = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    fetched.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(fetched))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert int(done.stdout) < 1000 < 2**26 // resource.getpagesize(), done.stderr
