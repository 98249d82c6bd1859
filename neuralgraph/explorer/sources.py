"""What the explorer shows, from whatever it is given."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .._files import printable
from ..errors import CheckpointError, InputError
from ..networks import NeuralGraph
from ..rewiring import History, Observed
from ..rewiring.recording import observed_in, state_of
from ..rewiring.records import first_record, step_record
from ..training import history, read_wirings
from ..training.checkpoint import RECIPE, read_json
from ..training.folder import HISTORY, WIRINGS, last_round
from ..training.log import read_metrics
from ..training.opening import recipe_in, trained
from ..wiring import Wiring
from ..wiring.layout import positions

MOST_EDGES = 3_000_000  # that were ever real
LONGEST = 200  # characters of a name

Shown = str | Path | nn.Module | Wiring | History


@dataclass(eq=False)
class DrawnGraph:
    """One neural graph as it is drawn.

    Args:
        name: in the model.
        position: of every node, (V, 2), each from 0 to 1.
        role, block: of every node, (V,).
        label: of every node.
        function: what every node computes, as text; empty where that is not known.
        edges: the numbers of the history's edges among all candidates, ascending.
        num_candidates: how many there are.
        kernel: of nodes with a two-dimensional one, by number, as a list of rows.
    """

    name: str
    position: torch.Tensor
    role: torch.Tensor
    block: torch.Tensor
    label: list[str]
    function: list[str]
    edges: torch.Tensor
    num_candidates: int
    kernel: dict[int, list] = field(default_factory=dict)

    def to_json(self) -> dict:
        return {"name": self.name, "x": self.position[:, 0].tolist(), "y": self.position[:, 1].tolist(),
                "role": self.role.tolist(), "block": self.block.tolist(), "label": self.label,
                "function": self.function, "kernel": self.kernel}


@dataclass(eq=False)
class Source:
    """Something to explore.

    Args:
        title: of it.
        graphs: that are drawn, in the order of the history's parts.
        history: the content of a history file of these parts alone, of edges that were ever real alone.
        unit: what its steps are, "step" or "epoch".
        metrics: a dict per epoch, with "step" beside them.
        notes: what is missing, in words.
        path: of the history's file, where the page reads that itself.
    """

    title: str
    graphs: list[DrawnGraph]
    history: bytes
    unit: str = "step"
    metrics: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    path: Path | None = None


def source_of(what: Shown) -> Source:
    """What there is to see of a run's folder, a history, a model, a network or a wiring.

    Raises:
        InputError: for anything else, something without a graph, or more than 3,000,000 edges.
        CheckpointError: for a damaged run or history.
    """
    if isinstance(what, Wiring):
        edges = np.arange(what.num_edges)
        weight = np.ones(len(edges), np.float32) if what.weight is None else what.weight.float().numpy()
        part = _observed("wiring", what)
        return _source(repr(what), [part], [(0, [(edges, weight)])], {0: what})
    if isinstance(what, nn.Module):
        return _of_model(what)
    if isinstance(what, History):
        return _of_history(what, printable(what.path), {})
    if not isinstance(what, (str, Path)):
        raise InputError("expected the folder of a run, a history, a network, a model or a wiring, got "
                         f"{type(what).__name__}.")
    path = Path(what)
    if path.is_file():
        return _of_history(History(path), printable(path), {})
    return _of_run(path)


def _of_model(model: nn.Module) -> Source:
    parts = list(observed_in(model))
    kind = type(model).__name__
    if not any(isinstance(owner, NeuralGraph) for _, owner in parts):
        raise InputError(f"the {kind} has no neural graph inside; layers are not drawn.")
    return _source(kind, [part for part, _ in parts], [(0, [state_of(owner) for _, owner in parts])], _wirings(parts))


def _wirings(parts) -> dict[int, Wiring]:
    """By the number of the part, the wiring of all candidate edges with the learned values of its nodes."""
    return {number: owner.complete_wiring() for number, (_, owner) in enumerate(parts) if isinstance(owner, NeuralGraph)}


def _of_run(folder: Path) -> Source:
    if not folder.is_dir():
        raise InputError(f"there is neither a run nor a history {folder}.")
    folder, notes = last_round(folder), []
    description = read_json(folder / RECIPE)
    steps = _steps_per_epoch(folder, description)
    try:
        metrics = _metrics(folder, steps)
    except CheckpointError as error:
        metrics, notes = [], [f"metrics are missing: {error}"]
    if "fit" in description:  # the model is in somebody's program
        source = _of_history(history(folder), printable(folder), {})
        source.metrics, source.notes = metrics, [*source.notes, *notes]
        return source
    recipe = recipe_in(description, folder)
    model, _ = trained(recipe, description, folder)
    parts = list(observed_in(model))
    title = f"{recipe.name} ({printable(folder)})"
    path = folder / HISTORY
    if path.exists():
        try:
            source = _of_history(history(folder), title, _wirings(parts))
            source.metrics, source.notes = metrics, [*source.notes, *notes]
            return source
        except CheckpointError as error:
            notes.append(f"the history cannot be read: {error}")
    else:
        notes.append(f"there is no {HISTORY} in the run: it has not begun to train, or did so before there were histories; "
                     "what is shown is the wiring after each epoch.")
    moments = []
    for file in sorted((folder / WIRINGS).glob("epoch-*.npz")):
        wirings = read_wirings(file)
        if len(wirings) != len(parts):
            raise CheckpointError(f"{file} is damaged: it holds {len(wirings)} wirings of {len(parts)}.")
        moments.append((int(file.stem.removeprefix("epoch-")) * steps,
                        [(real.nonzero().flatten().numpy(), weight.numpy()) for real, weight in wirings]))
    if not moments:
        source = _of_model(model)
        source.title, source.notes = title, [*notes, "there is no wiring of an epoch either: this is the last one."]
        return source
    source = _source(title, [part for part, _ in parts], moments, _wirings(parts))
    source.metrics, source.notes = metrics, [*source.notes, *notes]
    return source


def metrics_of(folder: Path) -> list[dict]:
    """The rows of a run's metrics, each with the number of steps that were done."""
    return _metrics(folder, _steps_per_epoch(folder, read_json(folder / RECIPE)))


def _metrics(folder: Path, steps: int) -> list[dict]:
    return [{**row, "step": row["epoch"] * steps} for row in read_metrics(folder)]


def _steps_per_epoch(folder: Path, description: dict) -> int:
    if "fit" not in description:
        recipe = recipe_in(description, folder)
        return math.ceil(description["data"]["train"] / recipe.batch_size)
    try:
        return int(description["fit"]["steps_per_epoch"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / RECIPE} is damaged: {error}") from error


def live_source(folder: Path) -> Source:
    """A run whose history the page reads itself, while it grows.

    Raises:
        InputError: for a run without a history, or one with sparse layers beside its graphs.
    """
    path = last_round(folder) / HISTORY
    if not path.exists():
        raise InputError(f"there is no {path} to follow; without --live what there is of the run is shown.")
    source, history = _of_run(folder), History(path)
    if any(part.role is None for part in history.parts):
        raise InputError("a run with sparse layers cannot be followed; leave --live out.")
    source.history, source.path = b"", path
    return source


def _of_history(found: History, title: str, wirings: dict[int, Wiring]) -> Source:
    if not found.steps:
        raise InputError(f"{found.path} has no record yet: wait until the training has begun.")
    moments = []
    for step in found.steps:
        states = []
        for number in range(len(found.parts)):
            moment = found.at(step, number)
            weight = moment.weight[moment.real].numpy()
            states.append((moment.real.nonzero().flatten().numpy(), None if np.isnan(weight).any() else weight))
        moments.append((step, states))
    return _source(title, found.parts, moments, wirings)


def _source(title: str, parts: list[Observed], moments: list[tuple[int, list]], wirings: dict[int, Wiring]) -> Source:
    graphs = [number for number, part in enumerate(parts) if part.role is not None]
    if not graphs:
        raise InputError(f"{title} has no neural graph to draw, only layers.")
    notes = [] if len(graphs) == len(parts) else [f"{len(parts) - len(graphs)} sparse layers are not drawn."]
    reduced, kept, drawn = [], {}, []
    for number in graphs:
        part = parts[number]
        ever = np.unique(np.concatenate([found[number][0] for _, found in moments]))
        if len(ever) > MOST_EDGES:
            raise InputError(f"{part.name} has {len(ever):,} edges, more than the {MOST_EDGES:,} that can be shown: explore "
                             "a part of it, such as a learned wiring of fewer edges.")
        kept[number] = ever
        ends = torch.from_numpy(ever)
        role, block, src, dst = part.graph()
        reduced.append(Observed(part.name, len(ever), role, block, src[ends], dst[ends]))
        drawn.append(_drawn(part, reduced[-1], ends, _strength(ever, number, moments), wirings.get(number)))
    content, before = first_record(reduced), None
    for step, found in moments:
        record, before = step_record(step, [(np.searchsorted(kept[number], found[number][0]), found[number][1])
                                            for number in graphs], before)
        content += record
    return Source(title, drawn, content, notes=notes)


def _strength(ever: np.ndarray, number: int, moments: Iterable) -> torch.Tensor:
    """How much each edge counts in the layout: its magnitude, over all moments."""
    total = np.zeros(len(ever))
    for _, found in moments:
        real, weight = found[number]
        total[np.searchsorted(ever, real)] += 1.0 if weight is None else np.abs(weight)
    return torch.from_numpy(total)


def _observed(name: str, wiring: Wiring) -> Observed:
    return Observed(name, wiring.num_edges, wiring.role, wiring.block, wiring.src, wiring.dst, wiring.labels)


def _drawn(part: Observed, ever: Observed, edges: torch.Tensor, strength: torch.Tensor, wiring: Wiring | None) -> DrawnGraph:
    role, block, _, _ = part.graph()
    number = len(role)
    labels = [printable(str(label))[:LONGEST] for label in (part.labels or range(number))]
    functions, kernels = [""] * number, {}
    if wiring is not None:
        texts = [_text(function) for function in wiring.functions]
        functions = [texts[which] for which in wiring.function.tolist()]
        kernels = _kernels(wiring)
    return DrawnGraph(part.name, positions(*ever.graph()[1:], strength), role, block, labels, functions,
                 edges, part.candidates, kernels)


def _text(function) -> str:
    parts = [f"sends {function.send}" if function.send else "", f"receives {function.receive}" if function.receive else ""]
    named = " ".join(filter(None, parts)) or "identity"
    if "norm" in named:
        named += f" ({function.norm} norm)"
    return named + (f", {function.activation}" if "activation" in named else "")


def _kernels(wiring: Wiring) -> dict[int, list]:
    """The kernels of nodes with two-dimensional ones, as rows of numbers."""
    kernel = wiring.parameters.get("kernel")
    if kernel is None or kernel.dim() != 3:
        return {}
    found = {}
    for number, function in enumerate(wiring.functions):
        if "conv" not in f"{function.send} {function.receive}".split():
            continue
        margin = (kernel.shape[1] - function.kernel_size) // 2
        inner = slice(margin, kernel.shape[1] - margin)
        for node in (wiring.function == number).nonzero().flatten().tolist():
            found[node] = [[float(f"{value:.4g}") for value in row] for row in kernel[node, inner, inner].tolist()]
    return found
