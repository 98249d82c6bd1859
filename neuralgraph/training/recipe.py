"""Recipes: frozen descriptions of training runs."""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._html import facts
from ..errors import InputError, UnknownNameError, lookup
from .checkpoint import RECIPE, newer_version, read_json
from .options import FIELDS, GROWERS, arguments, options, read, split
from .schedules import SCHEDULES, Schedule, steps

PRECISIONS = "float32", "high", "medium", "bfloat16"
MODES = "default", "reduce-overhead", "max-autotune"  # of torch.compile


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run.

    Args:
        name: of the recipe.
        description: one line for the list.
        data: a data set by name, or the path of one; see :func:`neuralgraph.data.load`. None where
            the images have to be named.
        image_size: resize class folders to this side in pixels; None keeps the size they have.
        model: a name of :func:`neuralgraph.models.names`.
        selector: a key of :data:`neuralgraph.selectors.SELECTORS`.
        k: number of real edges; None for the model's own, and for selectors that take none or
            find it themselves (:func:`neuralgraph.selectors.k_is`).
        width: of a MobileNet; this and the other options of models apply to those that have them,
            and None is the model's default.
        pool: of a tiny classifier's head, "authors" or "global".
        steps: of a discrete-time model, as is ``tied``.
        tied: whether its steps share kernels and norms.
        solver: of a continuous-time model, as are ``rtol``, ``atol``, ``time``, ``adjoint``,
            ``max_evaluations`` and ``solver_options``; see
            :class:`neuralgraph.ContinuousTimeNeuralGraph`.
        rtol: relative tolerance.
        atol: absolute tolerance.
        time: the end of the integration.
        adjoint: gradients from the adjoint equation.
        max_evaluations: of the derivative per solve.
        solver_options: what torchdiffeq's solver takes beside these, as text a JSON object.
        model_options: further arguments of the model by name; as settings ``model.NAME``.
        selector_options: further arguments of the selector by name; as settings ``selector.NAME``.
        drop: of targeted dropout, its probability.
        l1: of l1-anneal, the strength of the penalty.
        grow: "split" to train, split nodes (:func:`neuralgraph.growing.split`, on the training images) and train
            again, each time for all epochs; None trains once.
        grow_rounds: how often it is split; by default once.
        grow_options: further arguments of the splitting by name; as settings ``grow.NAME``.
        source: folder of a finished run of the same model, for the selectors "lottery-ticket" and
            "fine-tune": its largest weights are the wiring.
        backend: how sums over edges are computed: "dense", "sparse", "dgl" or "auto".
        epochs: passes over the training images.
        batch_size: images per step.
        lr: initial learning rate of SGD.
        schedule: "cosine" (to 0, per step), "step" or "constant".
        milestones: for "step", the epochs after which the rate is multiplied by ``lr_factor``.
        lr_factor: see ``milestones``.
        momentum: of SGD.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: on all parameters, as in the authors' code.
        precision: "float32"; "high" or "medium", float32 of which products of matrices may round their factors to 16 or 8
            bits on devices that are then faster (:func:`torch.set_float32_matmul_precision`: on a CPU the gradient of
            edges, on a GPU all products); or "bfloat16" to compute in it where PyTorch's autocast holds it safe, on
            devices that have it. Weights stay float32.
        torch_compile: a mode of :func:`torch.compile`, "default", "reduce-overhead" or "max-autotune", to train with:
            on a GPU steps are faster, the first takes a minute, and a run repeats to rounding, not to the bit. None
            for none; on a CPU it needs ``backend="dense"``.
        resized_crop: train on random resized crops and test on the centre, for class folders with
            ``image_size``; see :class:`neuralgraph.data.ImageFiles`.
        crop_padding: pixels of zero padding before a random crop; 0 for none.
        flip: random horizontal flips.
        seed: of initial values, data order and augmentation.
    """

    name: str
    description: str
    data: str | None = "digits"
    image_size: int | None = None
    model: str = "tiny-static"
    selector: str = "dnw"
    k: int | None = None
    width: float | None = None
    pool: str | None = None
    steps: int | None = None
    tied: bool | None = None
    solver: str | None = None
    rtol: float | None = None
    atol: float | None = None
    time: float | None = None
    adjoint: bool | None = None
    max_evaluations: int | None = None
    solver_options: dict | None = None
    model_options: dict | None = None
    selector_options: dict | None = None
    drop: float | None = None
    l1: float | None = None
    grow: str | None = None
    grow_rounds: int | None = None
    grow_options: dict | None = None
    source: str | None = None
    backend: str = "auto"
    epochs: int = 160
    batch_size: int = 128
    lr: float = 0.1
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    lr_factor: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    precision: str = "float32"
    torch_compile: str | None = None
    resized_crop: bool = False
    crop_padding: int = 4
    flip: bool = True
    seed: int = 0

    def __post_init__(self):
        for name, kind in typing.get_type_hints(Recipe).items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), kind))
        if self.name != Path(self.name).name:
            raise InputError(f"name must do for a folder too, got {self.name!r}.")
        for name, least in {"epochs": 0, "batch_size": 1, "lr": 0.0, "momentum": 0.0, "seed": 0,
                            "weight_decay": 0.0, "crop_padding": 0, "lr_factor": 0.0}.items():
            if not getattr(self, name) >= least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)!r}.")
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{name} must be finite, got {value!r}.")
        if self.seed >= 2**63:
            raise InputError(f"seed must be below 2**63, got {self.seed}.")
        lookup("schedule", self.schedule, {**SCHEDULES, "step": None})
        lookup("precision", self.precision, dict.fromkeys(PRECISIONS))
        if self.torch_compile is not None:
            lookup("mode of torch.compile", self.torch_compile, dict.fromkeys(MODES))
        if self.grow is not None:
            lookup("way to grow", self.grow, GROWERS)
            if self.grow_rounds is not None and self.grow_rounds < 1:
                raise InputError(f"grow_rounds must be at least 1, got {self.grow_rounds}; leave grow out to train "
                                 "once.")
        elif self.grow_rounds is not None or self.grow_options:
            raise InputError("grow_rounds and grow_options belong to growing: give grow=split too.")
        if self.resized_crop and (self.image_size is None or self.crop_padding):
            raise InputError("resized_crop=True needs image_size=N and crop_padding=0, got "
                             f"{self.image_size} and {self.crop_padding}.")
        if self.nesterov and self.momentum == 0:
            raise InputError("nesterov=True needs a momentum above 0.")

    def with_settings(self, settings: dict[str, str]) -> Recipe:
        """This recipe with fields replaced by values given as text.

        ``model.NAME``, ``selector.NAME`` and ``grow.NAME`` are arguments of the recipe's model, selector and
        way to grow.

        Raises:
            UnknownNameError: for a field or an argument that does not exist, with the nearest one.
            InputError: for a text that is no value of the field's type.

        >>> Recipe("mine", "", k=300).with_settings({"lr": "0.05", "k": "none"}).k
        >>> Recipe("mine", "").with_settings({"selector": "rigl", "selector.every": "50"}).selector_options
        {'every': 50}
        """
        types_ = typing.get_type_hints(Recipe)
        for key in settings:
            if "." not in key and (key not in types_ or key in ("name", "description")):
                raise UnknownNameError("setting", key, set(types_) - {"name", "description"})
        values: dict[str, Any] = {key: _parse(key, text, types_[key])
                                  for key, text in settings.items() if "." not in key}
        chosen = dataclasses.replace(self, **values)
        for key, text in settings.items():
            if "." in key:
                field, name, option = split(key, {part: getattr(chosen, part) for part in FIELDS})
                if option is None:
                    if field in settings:
                        raise InputError(f"{key} and {field} are the same setting: give one of them.")
                    value: Any = _parse(key, text, types_[field])
                else:
                    value = {**(getattr(chosen, field) or {}), name: option.parse(key, text)}
                chosen = dataclasses.replace(chosen, **{field: value})
        return chosen

    def settings(self) -> list[tuple[str, object, str, str]]:
        """Every key that :meth:`with_settings` takes: key, value, type and meaning."""
        rows = []
        for name, option in arguments(Recipe).items():
            if name not in ("name", "description", *(f"{part}_options" for part in FIELDS)):
                rows.append((name, getattr(self, name), option.type or "integers with commas between them",
                             option.meaning))
        for part in (part for part in FIELDS if getattr(self, part) is not None):
            given = getattr(self, f"{part}_options") or {}
            rows += [(f"{part}.{name}", given.get(name, option.default), option.type, option.meaning)
                     for name, option in options(part, getattr(self, part)).items() if name not in FIELDS[part]]
        return rows

    def _repr_html_(self) -> str:
        given = {name: str(value) for name, value, _, _ in self.settings() if value is not None}
        return facts(given, f"{self.name}: {self.description}")

    def to_json(self) -> dict:
        """The fields as JSON values; :meth:`from_json` is the inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict) -> Recipe:
        """A recipe from the fields that :meth:`to_json` wrote."""
        known = {field.name for field in dataclasses.fields(cls)}
        for key in fields:
            if key not in known:
                raise UnknownNameError("setting", key, known)
        if isinstance(fields.get("milestones"), list):
            fields = {**fields, "milestones": tuple(fields["milestones"])}
        return cls(**fields)

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """The recipe of a run (its folder, or ``recipe.json`` there), or fields written by hand.

        Raises:
            CheckpointError: if there is no such file or it holds no JSON object.
            InputError: for fields that make no recipe.
        """
        path = Path(path)
        path = path / RECIPE if path.is_dir() else path
        content = read_json(path)
        fields = content.get("recipe", content)
        try:
            return cls.from_json({"name": path.stem, "description": "", **fields})
        except (TypeError, InputError, UnknownNameError) as error:
            newer = newer_version(content)
            why = f" for this version, but one of neuralgraph {newer}, which is newer" if newer else ""
            raise InputError(f"{path} holds no recipe{why}: {error}") from error

    def shortened(self, epochs: int) -> Recipe:
        """This recipe in another number of epochs; milestones keep their share of the run.

        >>> Recipe("r", "", epochs=160, schedule="step", milestones=(80, 120)).shortened(20).milestones
        (10, 15)
        """
        share = epochs / self.epochs if self.epochs else 1.0
        return dataclasses.replace(self, epochs=epochs,
                                   milestones=tuple(round(m * share) for m in self.milestones))

    @property
    def factor(self) -> Schedule:
        """What ``lr`` is multiplied by, by step."""
        return steps(self.milestones, self.lr_factor) if self.schedule == "step" else SCHEDULES[self.schedule]

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """The rate of the update number ``step`` (from 0).

        cosine: lr/2 (1 + cos(pi t / T)) with t = step + 1 and T all steps of the run, as in the
        authors' code; step: lr times ``lr_factor`` for every milestone passed.
        """
        return self.lr * self.factor(step, steps_per_epoch, self.epochs)


def _checked(name: str, value: object, kind) -> object:
    """The value in Python's own type, as annotated; numbers of NumPy and integers for numbers are taken."""
    arms = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for arm in arms:
        if typing.get_origin(arm) is tuple:
            if isinstance(value, tuple) and all(isinstance(_plain(part, int), int) for part in value):
                return tuple(_plain(part, int) for part in value)
        else:
            plain = _plain(value, arm)
            if type(plain) is arm or (arm is float and type(plain) is int):
                return plain
    expected = " or ".join("None" if arm is type(None) else str(getattr(arm, "__name__", arm))
                           for arm in arms)
    raise InputError(f"{name} must be {expected}, got {value!r}.")


def _plain(value: Any, kind: type) -> object:
    """A number of another library as Python's, where it is one of this kind; anything else as it is."""
    if type(value) in (bool, int, float, str):
        return value
    if kind is bool and isinstance(value, np.bool_):
        return bool(value)
    if kind in (int, float) and not isinstance(value, np.bool_):
        try:
            return operator.index(value)
        except TypeError:
            if kind is float and isinstance(value, numbers.Real):
                return float(value)
    return value


def _parse(key: str, text: str, kind) -> Any:
    """A value of the annotated type from its text."""
    if isinstance(kind, types.UnionType):
        if text.lower() == "none":
            return None
        kind = next(arm for arm in typing.get_args(kind) if arm is not type(None))
    try:
        if kind is bool and text in ("0", "1"):
            return text == "1"
        if typing.get_origin(kind) is tuple:
            return tuple(int(part) for part in text.split(",") if part)
        return read(kind, text)
    except (ValueError, KeyError):
        name = {bool: "true or false", int: "an integer", float: "a number",
                dict: "a JSON object such as {\"step_size\": 0.1}"}.get(
            kind, "integers with commas between them")
        raise InputError(f"{key} must be {name}, got {text!r}.") from None
