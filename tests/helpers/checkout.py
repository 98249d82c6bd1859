"""Where things lie in the checkout, and beside it."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Numbers and images that are too large or not ours to ship lie beside the checkout; tests that
# compare with them are skipped where they are absent.
SHARED = ROOT.parent / "shared"
GOLDEN = SHARED / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="no golden numbers beside the checkout")
