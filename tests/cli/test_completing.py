"""What a shell completes after ``neuralgraph``, asked of click as a shell asks it."""

import pytest
from click.shell_completion import ShellComplete

from neuralgraph.backends import BACKENDS
from neuralgraph.cli import main
from neuralgraph.training import RECIPES
from neuralgraph.wiring.files import FORMATS


def completions(*words):
    """(kind, text) for the last word, after the others."""
    *before, incomplete = words
    shell = ShellComplete(main, {}, "neuralgraph", "_NEURALGRAPH_COMPLETE")
    return [(item.type, item.value) for item in shell.get_completions(before, incomplete)]


def plain(names):
    return [("plain", name) for name in sorted(names)]


@pytest.mark.parametrize("command", ["train", "recipes", "arena"])
def test_recipes(command):
    assert completions(command, "") == plain(RECIPES)
    assert completions(command, "tiny-s") == [("plain", "tiny-static")]
    assert completions(command, "runs/mi") == [("file", "runs/mi")]


def test_formats_and_backends():
    assert completions("export", "run", "--format", "") == plain([*FORMATS, "onnx"])
    assert completions("export", "run", "--format", "g") == plain(["gexf", "graphml"])
    assert completions("evaluate", "run", "--backend", "") == plain(BACKENDS)
    assert completions("evaluate", "run", "--backend", "s") == [("plain", "sparse")]


def test_commands():
    assert ("plain", "doctor") in completions("d") and ("plain", "train") in completions("t")
