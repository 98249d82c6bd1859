"""The documentation: its code runs, its commands exist, and its own parts do what they say."""

import re

import pytest
import torch
from checkout import ROOT
from pages import blocks, check_command, commands, run_page

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not {"_build", "_made"} & set(path.parts))
WITH_CODE = [path for path in PAGES if any(language in ("python", "console") for language, _ in blocks(path))]
TRAIN = ["--set", "batch_size=128", "--epochs"]
COMMANDS = {  # pages whose commands are run as well, and what is added to them to be quick
    "start": {"train": [*TRAIN, "1"], "inspect": [], "export": [], "explore": [], "report": []},
    "student": {"train": [*TRAIN, "3"]},
}


def uses_dgl(path):
    """Whether its Python makes DGL graphs or runs the backend."""
    return any(language == "python" and re.search(r"\.graph\b|\bdgl\b", text) for language, text in blocks(path))


@pytest.mark.parametrize("path", [pytest.param(path, marks=[pytest.mark.dgl] * uses_dgl(path)) for path in WITH_CODE],
                         ids=lambda path: path.relative_to(DOCS).as_posix())
def test_page(path, tmp_path):
    torch.manual_seed(0)
    names = run_page(path, tmp_path, COMMANDS.get(path.stem))
    if path.stem == "overview":
        assert names["rnn"].wiring.num_nodes == 30 and names["state"].steps == 40


def test_blocks_say_what_they_are():
    """Python and console; other languages only where nothing is to be run."""
    for path in PAGES:
        assert {language for language, _ in blocks(path)} <= {"python", "console", "text", "html", "json", "csv"}, path


@pytest.mark.parametrize("line", ["neuralgraph trane tiny-static", "neuralgraph train tiny-static --epoch-s 3"])
def test_commands_that_do_not_exist_are_found(line):
    with pytest.raises(Exception, match="No such"):
        for words in commands(line):
            check_command(words)


def test_the_build_asks_nobody_for_anything():
    """What pages link to may be elsewhere; what they load is here."""
    built = DOCS / "_build"
    if not built.exists():
        pytest.skip("not built: sphinx-build -W -b html docs docs/_build")
    loads = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"((?:https?:)?//[^\"]*)\"|@import|url\(\s*[\"']?(?:https?:)?//")
    for path in [*built.rglob("*.html"), *built.rglob("*.css")]:
        if path.name != "explorer.html":
            assert not loads.search(path.read_text()), path
