"""CONTRIBUTING.md does what it says: its diffs apply to the library and what they add works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from pages import blocks, check_command, commands

PAGE = ROOT / "CONTRIBUTING.md"


def called(folder: Path, *words: str, **environment: str) -> None:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(shutil.which("git") is None, reason="git applies the diffs")
def test_additions(tmp_path):
    """All five diffs together; each adds a member that passes the check of its family."""
    shutil.copytree(ROOT / "neuralgraph", tmp_path / "neuralgraph")
    found = blocks(PAGE)
    diffs = [text for language, text in found if language == "diff"]
    checks = [text for language, text in found if language == "python"]
    assert len(diffs) == len(checks) == 5
    for number, text in enumerate(diffs):
        (tmp_path / f"{number}.diff").write_text(text)
        called(tmp_path, "git", "apply", f"{number}.diff", GIT_CEILING_DIRECTORIES=str(tmp_path.parent))
    code = "\n".join(["import neuralgraph as ng", f"assert ng.__file__.startswith({str(tmp_path)!r})", *checks])
    called(tmp_path, sys.executable, "-c", code, PYTHONPATH=str(tmp_path))


def test_commands_and_files_exist():
    for language, text in blocks(PAGE):
        if language == "console":
            for words in commands(text):
                check_command(words)
            for word in text.split():
                assert not word.startswith("tests/") or (ROOT / word).exists()
