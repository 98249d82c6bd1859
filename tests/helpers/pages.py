"""The code in pages of Markdown (README.md and docs), to be run as a reader would."""

import os
import re
import shlex
from pathlib import Path

import click
import torch
from click.testing import CliRunner

from neuralgraph.cli import main
from neuralgraph.nodes import ACTIVATIONS, OPERATIONS
from neuralgraph.selectors import SELECTORS

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(path: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block of code; directives are none."""
    return [(language, text) for language, text in FENCE.findall(path.read_text()) if not language.startswith("{")]


def commands(text: str) -> list[list[str]]:
    """The words after ``neuralgraph`` of every line of a console that calls it."""
    lines = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    return [words[words.index("neuralgraph") + 1:] for words in lines if "neuralgraph" in words]


def check_command(words: list[str]) -> None:
    """The command and its options exist; what stands for something of the reader's is not looked at."""
    context = click.Context(main)
    name, command, rest = main.resolve_command(context, words)
    command.make_parser(click.Context(command, info_name=name, parent=context)).parse_args(list(rest))


def is_complete(words: list[str]) -> bool:
    """Whether nothing stands for something of the reader's (RUN, FOLDER, IMAGE...)."""
    return not any(re.fullmatch(r"[A-Z][A-Z0-9]+(\.\.\.)?|.*=[A-Z]+", word) for word in words)


def run_command(words: list[str], more: list[str]) -> str:
    result = CliRunner().invoke(main, [*words, *more])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, f"neuralgraph {shlex.join(words)}: {result.output}"
    return result.output


def run_page(path: Path, folder: Path, also_commands: dict[str, list[str]] | None = None) -> dict:
    """Runs the blocks of a page one after the other in ``folder``, Python in one namespace, which is returned.

    Args:
        path: of the page.
        folder: to run in.
        also_commands: the commands of neuralgraph that are run where they are complete, and what is added to them.
    """
    families = [(family, dict(family)) for family in (ACTIVATIONS, OPERATIONS, SELECTORS)]
    before, state, names = Path.cwd(), torch.get_rng_state(), {"__name__": "page"}
    os.chdir(folder)
    try:
        for language, text in blocks(path):
            if language == "python":
                exec(compile(text, str(path), "exec"), names)
            elif language in ("console", ""):
                for words in commands(text):
                    check_command(words)
                    if also_commands and words[0] in also_commands and is_complete(words):
                        run_command(words, also_commands[words[0]])
    finally:
        os.chdir(before)
        torch.set_rng_state(state)
        for family, members in families:
            family.clear()
            family.update(members)
    return names
