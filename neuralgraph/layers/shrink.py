"""Smaller models of what is left of pruned ones."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .._html import table
from .._modules import Model
from ..errors import InputError
from .flow import CONVOLUTIONS, TRANSPOSED, Flow, TracedTensor
from .order import _evaluating
from .sparse import sparse_layers
from .sparsify import densify


@dataclass(frozen=True)
class Shrunk:
    """What :func:`shrink` took away; as text, a table.

    Args:
        layers: name, channels in and out before, and after, of every layer that became smaller.
        parameters: how many the model had, and has.
        left: what was not understood, around which every channel stays: name and reason.
    """

    layers: tuple[tuple[str, tuple[int, int], tuple[int, int]], ...]
    parameters: tuple[int, int]
    left: dict[str, str]

    def __str__(self):
        width = max([len(name) for name, *_ in self.layers] + [8])
        lines = [f"{'layer':{width}} {'channels in and out':>22} {'left':>14}"]
        lines += [f"{name:{width}} {f'{a} -> {b}':>22} {f'{c} -> {d}':>14}" for name, (a, b), (c, d) in self.layers]
        lines.append(f"parameters: {self.parameters[0]} before, {self.parameters[1]} after")
        lines += [f"left whole: {name}, {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [(name, f"{a} -> {b}", f"{c} -> {d}") for name, (a, b), (c, d) in self.layers]
        return table(("layer", "channels in and out", "left"), rows, notes=[
            f"parameters: {self.parameters[0]:,} before, {self.parameters[1]:,} after",
            *(f"left whole: {name}, {reason}" for name, reason in self.left.items())])


@torch.no_grad()
def shrink(module: Model, example: torch.Tensor | tuple[Any, ...]) -> tuple[Model, Shrunk]:
    """Removes dead channels for good: a smaller dense model whose outputs in evaluation are the same.

    A channel is dead if nobody reads it (all weights that would are 0), or if it is constant: nothing but zeros and
    constants make it. What a constant contributes goes into the biases of those that read it; where these pad with
    zeros, so that it is not constant at borders, the first such channel of each stays and stands for all. A channel that
    several layers share, as in the sums of residual connections or behind depthwise convolutions, goes where it is dead
    for all of them; groups of a grouped convolution go as a whole.

    Understood are convolutions (transposed ones too), fully connected layers of vectors, batch and instance norms,
    elementwise activations, pooling, flattening, sums and concatenations. Around everything else channels stay as they
    are. Sparse layers are made dense first.

    Args:
        module: the model, which :mod:`torch.fx` must be able to trace.
        example: an input, or a tuple of the arguments.

    Returns:
        A smaller copy of the same classes, and what was removed.

    Raises:
        InputError: for a model that cannot be traced, or that would compute something else.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> model[0].weight.data[2:] = 0
    >>> smaller, report = shrink(model, torch.zeros(1, 3, 8, 8))
    >>> smaller[0].out_channels, report.parameters
    (2, (524, 134))
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"expected a torch.nn.Module, got {type(module).__name__}.")
    small = densify(module) if sparse_layers(module) else copy.deepcopy(module)
    before = sum(parameter.numel() for parameter in small.parameters())
    arguments = example if isinstance(example, tuple) else (example,)
    rows = []
    with _evaluating(small):
        flow = Flow(small, example)
        values = _values(flow)
        readers = {step: _Reader(step, values) for step in flow.steps if step.kind == "linear"}
        removed = _removable(flow, readers)
        outputs = small(*arguments)
        for step in flow.steps:
            if step.layer is not None and step.kind in ("linear", "grouped", "norm", "channelwise"):
                change = _cut(step, readers.get(step), removed)
                rows += [] if change is None else [change]
        _check_outputs(outputs, small, arguments)
    after = sum(parameter.numel() for parameter in small.parameters())
    return small, Shrunk(tuple(rows), (before, after), flow.reasons)


# Which channels are constant


def _values(flow: Flow) -> dict[TracedTensor, torch.Tensor]:
    """Of each step the constants that its channels are, (C,) in double precision; NaN of those that are none."""
    values: dict[TracedTensor, torch.Tensor] = {}
    for step in flow.steps:
        given = [values[source] for source in step.sources]
        unknown = torch.full((len(step.channels),), math.nan, dtype=torch.float64)
        if step.kind in ("linear", "grouped"):
            values[step] = _sums_of(step, given[0])
        elif step.kind == "sum":
            values[step] = given[0] + given[1]
        elif step.kind == "join":
            values[step] = torch.cat(given)
        elif step.kind == "flatten":
            values[step] = given[0].repeat_interleave(len(unknown) // max(1, len(given[0])))
        else:
            is_applied = step.kind in ("channelwise", "norm") and not given[0].isnan().all()
            values[step] = _applied(step, given[0]) if is_applied else unknown
            if step.kind == "norm" and step.layer.weight is not None:  # silent, whatever it is given
                scale, shift = step.layer.weight.cpu(), step.layer.bias.double().cpu()
                values[step] = torch.where(scale == 0, shift, values[step])
    return values


def _sums_of(step: TracedTensor, given: torch.Tensor) -> torch.Tensor:
    """The outputs that depend on constants only, and on none that borders make another."""
    weight = _dense(step)
    reads = (weight != 0).flatten(2).any(2)
    varies = given.isnan() | (given != 0 if _pads(step.layer) else torch.zeros_like(given, dtype=torch.bool))
    total = weight.flatten(2).sum(2) @ given.nan_to_num(0.0)
    if step.layer.bias is not None:
        total = total + step.layer.bias.double()
    return total.masked_fill((reads & varies).any(1), math.nan)


def _applied(step: TracedTensor, given: torch.Tensor) -> torch.Tensor:
    """What a step makes of constant maps, larger than those of the example so that borders show."""
    like = next(step.layer.parameters(), None) if step.layer is not None else None
    like = torch.empty(0, dtype=torch.float64) if like is None else like
    sides = [2 * side + 7 for side in step.sources[0].space]
    x = given.nan_to_num(0.0).to(like).view(1, -1, *[1] * len(sides)).expand(1, -1, *sides).contiguous()
    low, high = step.again(x)[0].double().cpu().reshape(len(given), -1).aminmax(dim=1)
    varies = given.isnan() | (high - low > 1e-6 * torch.maximum(low.abs(), high.abs()))
    return ((low + high) / 2).masked_fill(varies, math.nan)


def _dense(step: TracedTensor) -> torch.Tensor:
    """The weight (out, in, ...) in double precision, on the CPU; of a grouped one with the zeros between groups."""
    weight = step.layer.weight.detach().double().cpu()
    if isinstance(step.layer, TRANSPOSED):
        return weight.transpose(0, 1)
    if step.kind != "grouped":
        return weight[..., None] if weight.dim() == 2 else weight
    groups = step.layer.groups
    whole = weight.new_zeros(len(weight), weight.shape[1] * groups, *weight.shape[2:])
    for rows, columns in zip(torch.arange(len(weight)).chunk(groups), torch.arange(whole.shape[1]).chunk(groups)):
        whole[rows[:, None], columns] = weight[rows]
    return whole


def _pads(layer: nn.Module) -> bool:
    """Whether a constant may be made another at borders."""
    if isinstance(layer, TRANSPOSED):
        return True
    if not isinstance(layer, CONVOLUTIONS) or layer.padding_mode != "zeros" or layer.padding == "valid":
        return False
    return layer.padding == "same" and any(side > 1 for side in layer.kernel_size) or \
        layer.padding != "same" and any(layer.padding)


# Which channels can go


class _Reader:
    """A layer that sums over channels, and what it knows of them."""

    def __init__(self, step: TracedTensor, values: dict[TracedTensor, torch.Tensor]):
        self.step, self.pads = step, _pads(step.layer)
        self.given, self.made = step.sources[0].channels, step.channels
        self.reads = (_dense(step) != 0).flatten(2).any(2)  # (out, in)
        self.value = values[step.sources[0]]
        self.is_constant = ~self.value.isnan()

    def read(self, removed: torch.Tensor) -> torch.Tensor:
        """The inputs that outputs which stay depend on, (in,)."""
        return self.reads[~removed[self.made]].any(0)

    def constants(self, removed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs that go but whose constant is read, and those that could stand for them; two masks (in,)."""
        counts, gone = self.is_constant & (self.value != 0), removed[self.given]
        return gone & self.read(removed) & counts, ~gone & counts


def _removable(flow: Flow, readers: dict[TracedTensor, _Reader]) -> torch.Tensor:
    """The channels that go, bool (num,)."""
    kept = flow.fixed.clone()
    while True:
        removed = _dead(readers, kept)
        more = [channel for step in flow.steps for channel in _needed(step, readers.get(step), removed)]
        if not more:
            return removed
        kept[torch.tensor(more)] = True


def _dead(readers: dict[TracedTensor, _Reader], kept: torch.Tensor) -> torch.Tensor:
    """The channels outside ``kept`` that are constant to all that read them and stay themselves."""
    removed = torch.zeros_like(kept)
    while True:
        needed = kept.clone()
        for reader in readers.values():
            needed[reader.given[reader.read(removed) & ~reader.is_constant]] = True
        if torch.equal(needed, ~removed):
            return removed
        removed = ~needed


def _needed(step: TracedTensor, reader: _Reader | None, removed: torch.Tensor) -> list[int]:
    """Channels that must stay so that a layer has some, or so that one constant stands for the others."""
    if step.layer is None or step.kind == "other":
        return []
    for channels in (step.channels, *(source.channels for source in step.sources)):
        if len(channels) and removed[channels].all():
            return [int(channels[0])]
    if reader is None or not reader.pads:
        return []
    gone, carriers = reader.constants(removed)
    return [] if not gone.any() or carriers.any() else [int(reader.given[gone.nonzero()[0]])]


# Taking them out


def _cut(step: TracedTensor, reader: _Reader | None, removed: torch.Tensor) -> tuple | None:
    """Takes channels out of one layer; its name and sizes before and after, or None if it stays as it is."""
    layer, given = step.layer, step.sources[0]
    columns, rows = ~removed[given.channels], ~removed[step.channels]
    if columns.all() and rows.all():
        return None
    sizes = (len(columns), len(rows)), (int(columns.sum()), int(rows.sum()))
    if step.kind in ("norm", "channelwise"):
        for name, tensor in [*layer._parameters.items(), *layer._buffers.items()]:
            if tensor is not None and tensor.shape == rows.shape:
                _put(layer, name, tensor.detach()[rows.to(tensor.device)])
        for name in ("num_features", "num_parameters"):
            if getattr(layer, name, None) == len(rows):
                setattr(layer, name, sizes[1][1])
        return (step.name, *sizes) if step.kind == "norm" else None
    if step.kind == "grouped":
        _put(layer, "weight", layer.weight.detach()[rows.to(layer.weight.device)])
        layer.groups = int(columns.view(layer.groups, -1).all(1).sum())
    else:
        assert reader is not None  # see _needed
        weight, bias = _folded(reader, removed)
        weight = weight[rows][:, columns]
        if isinstance(layer, TRANSPOSED):
            weight = weight.transpose(0, 1)
        shape = (len(weight), -1) if isinstance(layer, nn.Linear) else weight.shape
        if layer.bias is None and bias.any():
            layer.bias = nn.Parameter(bias.to(layer.weight))
        elif layer.bias is not None:
            layer.bias.copy_(bias)
        _put(layer, "weight", weight.reshape(shape).to(layer.weight).contiguous())
    if layer.bias is not None:
        _put(layer, "bias", layer.bias.detach()[rows.to(layer.bias.device)])
    for name, size in zip(("in_features", "out_features") if isinstance(layer, nn.Linear) else
                          ("in_channels", "out_channels"), sizes[1]):
        setattr(layer, name, size)
    return step.name, *sizes


def _folded(reader: _Reader, removed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole weight and bias, with the constants that go added to the bias, or to the constant that stays."""
    layer, weight, value = reader.step.layer, _dense(reader.step).clone(), reader.value
    bias = torch.zeros(len(weight), dtype=torch.float64) if layer.bias is None else layer.bias.double().cpu()
    gone, carriers = reader.constants(removed)
    if gone.any() and not reader.pads:
        bias = bias + weight[:, gone].flatten(2).sum(2) @ value[gone]
    elif gone.any():
        carrier = int(value.abs().where(carriers, value.new_zeros(())).argmax())
        share = (value[gone] / value[carrier]).view(1, -1, *[1] * (weight.dim() - 2))
        weight[:, carrier] += (weight[:, gone] * share).sum(1)
    return weight, bias


def _put(layer: nn.Module, name: str, value: torch.Tensor) -> None:
    old = getattr(layer, name)
    is_learned = isinstance(old, nn.Parameter)
    setattr(layer, name, nn.Parameter(value.clone(), requires_grad=old.requires_grad) if is_learned else value.clone())


def _check_outputs(wanted: object, small: nn.Module, arguments: tuple) -> None:
    """Holds the promise, whatever a model's own code does."""
    try:
        got = small(*arguments)
        flat, same = (torch.utils._pytree.tree_leaves(outputs) for outputs in (wanted, got))
        is_equal = len(flat) == len(same) and all(
            a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max().clamp(min=1e-6)))
            for a, b in zip(flat, same) if isinstance(a, torch.Tensor) and a.numel())
        why = "" if is_equal else "its outputs would be others"
    except RuntimeError as error:
        why = f"without them it raises {error}"
    if why:
        raise InputError("cannot take channels out of this model: its code depends on how many there are, in a way that "
                         f"its trace does not show ({why}).")
