"""Ways to choose edges against each other: equal k, epochs, initial weights and order of images."""

from __future__ import annotations

import dataclasses
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import models, selectors
from .._html import table
from ..analysis.speed import environment
from ..data import Images
from ..errors import InputError, RunError, lookup
from ..layers.sparse import choices_of, count
from .checkpoint import read_json, write_json
from .comparison import Comparison, Entry, images_as_json, spelled, spread
from .opening import describe, make_model
from .options import MODEL_OPTIONS
from .recipe import Recipe
from .watching import Watcher

RESULT = "arena.json"
LAYERS = "tiny-convnet"  # the model of ``on="layers"``
RESAMPLES, LEVEL = 10_000, 95  # of the bootstrap; per cent
OWN = ("seed", "source", "data", "epochs", "k", "selector", "selector_options", "drop", "l1")


@dataclass(frozen=True)
class Contender:
    """A selector with its options.

    Args:
        label: its name in tables.
        selector: a key of :data:`neuralgraph.selectors.SELECTORS`.
        options: as text, by name.
    """

    label: str
    selector: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Contender:
        """A contender from ``SELECTOR``, ``SELECTOR:OPTION=VALUE:...`` or ``LABEL=SELECTOR:...``.

        Raises:
            InputError: for another form.
            UnknownNameError: for a selector that does not exist.

        >>> Contender.parse("rigl:every=50:drop=0.5").options
        (('every', '50'), ('drop', '0.5'))
        >>> Contender.parse("often=rigl:every=10").label
        'often'
        """
        first, *options = text.strip().split(":")
        label, equals, selector = first.rpartition("=")
        pairs = [option.partition("=") for option in options]
        wrong = [option for option, (name, sign, value) in zip(options, pairs) if not (name and sign and value)]
        if wrong or not selector or (equals and not label):
            raise InputError(f"expected SELECTOR, SELECTOR:OPTION=VALUE:... or LABEL=SELECTOR:..., got {text!r}"
                             + (f": {wrong[0]!r} is no OPTION=VALUE." if wrong else "."))
        names = [name for name, _, _ in pairs]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise InputError(f"{text!r} gives {sorted(twice)[0]} twice.")
        lookup("selector", selector, selectors.SELECTORS)
        label = label if equals else text.strip()
        if not re.fullmatch(r"[\w.+:=-]*\w[\w.+:=-]*", label):
            raise InputError(f"the label {label!r} must do for a folder: letters, digits and . + - _ only; give one "
                             "as LABEL=SELECTOR:....")
        return cls(label, selector, tuple((name, value) for name, _, value in pairs))

    @property
    def folder(self) -> str:
        """The name of its folder.

        >>> Contender.parse("rigl:every=50").folder
        'rigl-every=50'
        """
        return self.label.replace(":", "-")


def parse_contenders(given: str | Sequence[str]) -> tuple[Contender, ...]:
    """Contenders from their names and options, one text with commas between them or several.

    Raises:
        InputError, UnknownNameError: as :meth:`Contender.parse`, and for one that is given twice.
    """
    texts = given.split(",") if isinstance(given, str) else given
    found = tuple(Contender.parse(text) for text in texts if text.strip())
    if not found:
        raise InputError(f"expected selectors with commas between them, got {given!r}.")
    for number, one in enumerate(found):
        for other in found[:number]:
            if one.folder == other.folder or (one.selector, sorted(one.options)) == (
                    other.selector, sorted(other.options)):
                raise InputError(f"{other.label!r} and {one.label!r} are the same: give each contender once, under "
                                 "a label of its own.")
    return found


class Arena:
    """A comparison of selectors, in folders ``OUT/CONTENDER/seed-N``, and what came out of it.

    For a seed all contenders begin with the same weights and see the same images in the same order, for as many
    epochs. ``OUT/arena.json`` holds the result so far. Selectors that take their wiring from a trained network
    begin with a run of the complete one; those that take no k say what they reached. A training that diverges is
    an outcome.

    Args:
        recipe: of model, images and schedule; its selector and its selector's options do not matter.
        contenders: as :func:`parse_contenders` takes them.
        out: the folder.
        data, epochs: instead of the recipe's.
        k: number of real edges, by default the recipe's or the model's.
        density: the same as a share of the candidates.
        seeds: how many, from 0.
        on: "graph", the recipe's own model, or "layers", the model "tiny-convnet" instead of it.
        settings: further fields of the recipe, as text.
        name: what ``neuralgraph train`` calls the recipe, by default its name.

    Raises:
        InputError, SelectionError, UnknownNameError: for what cannot be run.
        RunError: if the folder holds an arena with other settings.
    """

    def __init__(self, recipe: Recipe, contenders: str | Sequence[str], out: str | Path, *,
                 data: str | None = None, epochs: int | None = None, k: int | None = None,
                 density: float | None = None, seeds: int = 5, on: str = "graph",
                 settings: dict[str, str] | None = None, name: str | None = None):
        lookup("kind of candidates", on, dict.fromkeys(("graph", "layers")))
        if k is not None and density is not None:
            raise InputError(f"k and density say the same: give one of them, got {k} and {density}.")
        for key in settings or ():
            if key in OWN or key.startswith("selector."):
                raise InputError(f"{key} is not a setting of all contenders: options of a selector stand behind its "
                                 "name (rigl:every=50), k, data, epochs and seeds have options of their own.")
        self.contenders, self.on, self.density = parse_contenders(contenders), on, density
        self._base = name or recipe.name, recipe
        plain = dataclasses.replace(recipe, selector="complete", selector_options=None, drop=None, l1=None, source=None)
        if on == "layers":
            own: dict[str, Any] = dict.fromkeys(MODEL_OPTIONS)
            plain = dataclasses.replace(plain, model=LAYERS, model_options=None, **own)
            plain = dataclasses.replace(plain, k=recipe.k)
        if epochs is not None:
            plain = plain.shortened(epochs)
        if k is not None:
            plain = dataclasses.replace(plain, k=k)
        if data is not None:
            plain = dataclasses.replace(plain, data=data)
        self.plain = plain.with_settings(settings or {})
        self.k = self.plain.k
        self.out, self.seeds = Path(out), range(seeds)
        options = {"--data": data, "--epochs": epochs, "--k": k, "--density": density, "--seeds": seeds, "--out": out,
                   "--on": None if on == "graph" else on}
        listed = contenders if isinstance(contenders, str) else ",".join(contenders)
        self.command = spelled(["arena", self._base[0], "--selectors", listed], options, settings)
        self._asked = {"recipe": self._base[0], "on": on, "density": density, "settings": settings or {}}

    # Making the runs

    def run(self, watcher: Watcher | None = None, *, device: str = "cpu", workers: int | None = None,
            jobs: int = 1, threads: int | None = None, ray: str | bool | None = None) -> Iterator[dict]:
        """Makes, continues or skips the runs; yields the result so far after each.

        Beside what ``arena.json`` holds it has "newest", the label of the contender and its run. Arguments and
        errors are those of :meth:`~neuralgraph.training.comparison.Comparison.run`.
        """
        if self.plain.data is None:
            raise InputError(f"the recipe {self._base[0]!r} has no images of its own; name some with --data.")
        data = Comparison(self.out, [Entry("", self.plain, self._base)], 1).images(workers)
        comparison = Comparison(self.out, self._entries(data), len(self.seeds))
        fixed = self._description(data, jobs, ray)
        before = self._before(fixed)
        labels = {one.folder: one.label for one in [*self.contenders, *self.added]}
        for name, outcome, done in comparison.run(data, watcher, device=device, workers=workers, jobs=jobs,
                                                  threads=threads, ray=ray):
            if outcome["timed"] is None:  # it was finished before
                outcome["timed"] = before.get((name, outcome["seed"]))
            result = {**fixed, "contenders": self._summary(done)}
            write_json(self.out / RESULT, result)
            yield {**result, "newest": (labels[name], outcome)}

    def _entries(self, data: Images) -> list[Entry]:
        """The contenders behind those they start from, each of which has been made once."""
        images = describe(data)
        self.k = self._number(images)
        sourced = [one for one in self.contenders if one.selector in selectors.FROM_TRAINED]
        complete = next((one for one in self.contenders if one.selector == "complete"), None)
        source = complete or Contender("complete", "complete")
        self.added = [source] if sourced and complete is None else []
        if self.added and any(one.folder == source.folder for one in self.contenders):
            raise InputError(f"the label {source.label!r} is that of the runs that {sourced[0].label!r} begins with: "
                             "choose another.")
        order = sorted([*self.contenders, *self.added], key=lambda one: one in sourced)
        entries = []
        for one in order:
            recipe = self._recipe(one)
            make_model(dataclasses.replace(recipe, source=None), images)  # whatever it refuses, now
            entries.append(Entry(one.folder, recipe, self._base, source.folder if one in sourced else None,
                                 may_fail=True))
        return entries

    def _recipe(self, one: Contender) -> Recipe:
        """The recipe of a contender."""
        takes_k = selectors.k_is(one.selector) != "found"
        options = {f"selector.{name}": value for name, value in one.options if name != "k"}
        freed = dict(one.options).get("k")
        if freed is not None and (freed != "none" or selectors.k_is(one.selector) != "optional"):
            raise InputError(f"{one.label!r}: all contenders have the same k, by --k or --density; k=none, for one "
                             "that finds it itself, suits selectors that can.")
        recipe = self.plain.with_settings({"selector": one.selector, **options})
        if takes_k and freed is None:
            return dataclasses.replace(recipe, k=self.k)
        return dataclasses.replace(recipe, k=None, width=None)

    def _number(self, images: dict) -> int | None:
        """k for all, from the density where that is given."""
        known = models.options_of(self.plain.model)
        if "selector" not in known:
            raise InputError(f"the model {self.plain.model!r} keeps all its edges: there is nothing to choose.")
        if "k" not in known and self.density is None and self.plain.k is None:
            return None
        if "k" not in known:
            raise InputError(f"the model {self.plain.model!r} has no k or density; its number of edges follows from "
                             "other settings (--set width=0.225).")
        if self.plain.k is not None and self.density is None:
            return self.plain.k
        model = make_model(dataclasses.replace(self.plain, selector="dnw", k=None), images)  # with the model's own k
        chosen = [*(network.selector for network in model.networks), *(one.selector for _, one in choices_of(model))]
        if self.density is None:
            return sum(selector.num_real or 0 for selector in chosen)
        return count(self.density, sum(selector.candidates.num for selector in chosen))

    def _before(self, fixed: dict) -> dict[tuple[str, int], dict]:
        """How the runs of an earlier result were timed.

        Raises:
            RunError: if that was an arena with other settings.
        """
        if not (self.out / RESULT).exists():
            return {}
        old = read_json(self.out / RESULT)
        differing = [f"{key}={old.get(key)} (asked for {fixed[key]})"
                     for key in ("recipe", "on", "k", "density", "epochs", "settings") if old.get(key) != fixed[key]]
        if old.get("data", {}).get("fingerprint") != fixed["data"]["fingerprint"]:
            differing.append(f"images of {old.get('data', {}).get('name')}")
        if differing:
            raise RunError(f"{self.out} holds an arena with {', '.join(differing)}: ask for the same, or choose "
                           "another folder with --out.")
        return {(row["folder"], run["seed"]): run["timed"]
                for row in old.get("contenders", []) for run in row["runs"]}

    # What came out

    def _repr_html_(self) -> str:
        """The result so far."""
        path = self.out / RESULT
        found = read_json(path)["contenders"] if path.exists() else []
        rows = [(row["label"], row["last"]["mean"], row["last"]["std"],
                 *((row["difference"] or {}).get(key) for key in ("mean", "low", "high")),
                 *((row[key] or {}).get("mean") for key in ("k", "multiply_adds", "dead_nodes")),
                 f"{len(row['runs'])} of {len(self.seeds)}") for row in found]
        first = self.contenders[0].label
        return table(("", "test %", "std", f"against {first}", "low", "high", "k", "multiply-adds", "dead", "runs"),
                     rows, f"arena of {self._base[0]} in {self.out}", [] if rows else [
                         f"no run is finished; contenders: {', '.join(one.label for one in self.contenders)}"])

    def _description(self, data: Images, jobs: int, ray: str | bool | None) -> dict:
        """What all contenders have in common."""
        return {
            "command": self.command, **self._asked, "model": self.plain.model, "k": self.k,
            "epochs": self.plain.epochs, "seeds": list(self.seeds),
            "data": images_as_json(data),
            "baseline": self.contenders[0].label, "jobs": jobs, "ray": bool(ray),
            "statistics": f"of the test accuracy after the last epoch, in per cent: mean and sample standard deviation "
                          f"over seeds; difference: mean over seeds of the paired differences to the baseline, with "
                          f"a {LEVEL} % percentile bootstrap interval of {RESAMPLES} resamples of the seeds",
            "versions": {**environment(), "platform": platform.platform()},
        }

    def _summary(self, done: dict[str, list[dict]]) -> list[dict]:
        first = done[self.contenders[0].folder]
        rows = []
        for one in [*self.contenders, *self.added]:
            runs = done[one.folder]
            rows.append({
                "label": one.label, "selector": one.selector, "options": dict(one.options), "folder": one.folder,
                "last": spread(runs, "last"), "best": spread(runs, "best"),
                "difference": None if one is self.contenders[0] else paired_difference(first, runs),
                **{key: _range(runs, key) for key in ("k", "multiply_adds", "dead_nodes")},
                "step_seconds": spread(runs, "step_seconds", digits=6), "runs": runs})
        return rows


def paired_difference(first: Sequence[dict], runs: Sequence[dict], key: str = "last") -> dict | None:
    """The mean difference of runs to those of the baseline with the same seeds, and its bootstrap interval.

        d_s = a_s - b_s over the seeds s;   mean d;   percentiles of mean d* over resamples d* of the d_s

    ("An Introduction to the Bootstrap", Efron and Tibshirani, 1993, section 13.3). Of few seeds the interval is
    too narrow, and of one there is none. The resamples are the same whenever they are drawn.

    >>> one, other = [[{"seed": s, "last": v} for s, v in enumerate(values)] for values in ([90, 91], [92, 95])]
    >>> paired_difference(one, other)
    {'mean': 3.0, 'low': 2.0, 'high': 4.0, 'seeds': 2}
    """
    theirs = {run["seed"]: run[key] for run in first if run[key] is not None}
    pairs = [run[key] - theirs[run["seed"]] for run in runs if run[key] is not None and run["seed"] in theirs]
    if not pairs:
        return None
    low, high = bootstrap_interval(pairs) if len(pairs) > 1 else (None, None)
    return {"mean": round(float(np.mean(pairs)), 3), "low": low, "high": high, "seeds": len(pairs)}


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean."""
    numbers = np.asarray(values, dtype=float)
    chosen = np.random.default_rng(0).integers(0, len(numbers), (RESAMPLES, len(numbers)))
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(numbers[chosen].mean(1), [tail, 100 - tail])
    return round(float(low), 3), round(float(high), 3)


def _range(runs: Sequence[dict], key: str) -> dict | None:
    """The mean, the least and the greatest of whole numbers; None where there are none."""
    values = [run[key] for run in runs if run[key] is not None]
    return {"mean": round(float(np.mean(values)), 1), "low": min(values), "high": max(values)} if values else None
