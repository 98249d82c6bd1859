"""The options of models, selectors and growing as settings of a recipe: ``model.steps``, ``grow.fraction``."""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .. import growing, models, selectors
from ..errors import InputError, UnknownNameError, lookup

# recipe fields that models take if they have them, and those that selectors take, by their names there
MODEL_OPTIONS = ("k", "width", "pool", "steps", "tied", "solver", "rtol", "atol", "time", "adjoint",
                 "max_evaluations", "solver_options")
SELECTOR_OPTIONS = {"drop": "drop", "l1": "strength"}
# the same by part and by the name there: what has a field of its own is kept in it
FIELDS = {"model": {name: name for name in MODEL_OPTIONS},
          "selector": {"k": "k", **{option: field for field, option in SELECTOR_OPTIONS.items()}},
         "grow": {"rounds": "grow_rounds"}}
GROWERS = {"split": growing.split}
GIVEN = {"num_classes", "in_channels", "image_size", "backend", "seed", "selector", "selector_options"}
KINDS = {bool: "true or false", int: "an integer", float: "a number", dict: "a JSON object", str: "a word"}


@dataclass(frozen=True)
class Option:
    """An argument that can be given as text.

    Args:
        kinds: the types it may have, NoneType among them.
        default: its value where none is given.
        meaning: as the docstring has it.
    """

    kinds: tuple[type, ...]
    default: object
    meaning: str

    @property
    def type(self) -> str:
        """The types in words."""
        words = [words for kind, words in KINDS.items() if kind in self.kinds]
        return " or ".join([*words, *(["none"] if type(None) in self.kinds else [])])

    def parse(self, key: str, text: str) -> object:
        """Its value from a text.

        Raises:
            InputError: for a text that is no value of its types.
        """
        if text.lower() == "none" and type(None) in self.kinds:
            return None
        for kind in (kind for kind in KINDS if kind in self.kinds):
            try:
                return read(kind, text)
            except (ValueError, KeyError):
                continue
        raise InputError(f"{key} must be {self.type}, got {text!r}.")


def read(kind: type, text: str) -> object:
    """A value of one kind from its text; ValueError or KeyError where it is none."""
    if kind is bool:
        return {"true": True, "yes": True, "false": False, "no": False}[text.lower()]
    if kind is dict:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError
        return value
    return kind(text)


def options(part: str, name: str) -> dict[str, Option]:
    """What can be set of a model, a selector or a way to grow, by name; tensors and the like cannot.

    Args:
        part: "model", "selector" or "grow".
        name: of it.
    """
    families: dict[str, Mapping[str, Callable]] = {"model": models.MODELS, "selector": selectors.SELECTORS, "grow": GROWERS}
    build = lookup(part, name, families[part])
    if part == "grow":
        return {option: made for option, made in arguments(build).items() if made.kinds}
    taken = models.options_of(name) - GIVEN if part == "model" else selectors.options_of(name)
    build = models.mobilenet_dnw if build is models.mobilenet_dnw_small else getattr(build, "kind", build)
    return {option: made for option, made in arguments(build).items() if option in taken and made.kinds}


def arguments(build: Callable) -> dict[str, Option]:
    """The arguments of a function or a class, by name."""
    called = build.__init__ if inspect.isclass(build) else build
    hints = typing.get_type_hints(called)
    meanings = _meanings(build)
    return {name: Option(_kinds(hints.get(name)), parameter.default, meanings.get(name, ""))
            for name, parameter in inspect.signature(build).parameters.items()}


def _kinds(hint: object) -> tuple[type, ...]:
    """The types that can be given as text; none, if there is nothing but None."""
    arms = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = tuple(arm for arm in arms if arm in KINDS or arm is type(None))
    return kinds if any(kind in KINDS for kind in kinds) else ()


def _meanings(build: Callable) -> dict[str, str]:
    """What a docstring says of each argument, on one line."""
    found: dict[str, str] = {}
    for base in (build.__mro__[:-1] if inspect.isclass(build) else [build]):
        text = inspect.cleandoc(base.__doc__ or "").partition("Args:\n")[2]
        text = re.split(r"\n\S|\n\n", text)[0]
        for names, meaning in re.findall(r"^    ([\w, ]+): (.*(?:\n {8,}.*)*)", text, re.M):
            for name in names.split(", "):
                found.setdefault(name, re.sub(r"\s+", " ", meaning).replace("``", ""))
    return found


def split(key: str, names: dict[str, str | None]) -> tuple[str, str | None, Option | None]:
    """The recipe's field of a key such as ``selector.per``; of options without a field also name and option.

    Args:
        names: of the recipe's model, selector and way to grow, by part.

    Raises:
        UnknownNameError: if there is no such option, with the nearest one.
        InputError: for a part that the recipe does not have.
    """
    part, _, name = key.partition(".")
    fields = lookup("setting", part, FIELDS, " Write model.NAME, selector.NAME or grow.NAME.")
    if name in fields:
        return fields[name], None, None
    chosen = names[part]
    if chosen is None:
        raise InputError(f"{key} belongs to growing: give grow=split too.")
    known = options(part, chosen)
    if name not in known:
        raise UnknownNameError(f"option of the {part} {names[part]!r}", name, {*known, *fields})
    return f"{part}_options", name, known[name]
