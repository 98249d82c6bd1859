"""What a shell completes: names of recipes, backends and formats, read where they are registered."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _completes(names: Callable[[], Iterable[str]], *types: str) -> Completer:
    """A completer of names, and of what ``types`` the shell knows itself ("file", "dir")."""
    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        own = [CompletionItem(name) for name in sorted(names()) if name.startswith(incomplete)]
        return own or [CompletionItem(incomplete, type=kind) for kind in types]
    return complete


def _recipes() -> Iterable[str]:
    from ..training import RECIPES

    return RECIPES


def _backends() -> Iterable[str]:
    from ..backends import BACKENDS

    return BACKENDS


def _formats() -> Iterable[str]:
    from ..wiring.files import FORMATS

    return [*FORMATS, "onnx"]


RECIPE = _completes(_recipes, "file")  # or a JSON file, or the folder of a run
BACKEND = _completes(_backends)
FORMAT = _completes(_formats)
