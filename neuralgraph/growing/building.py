"""The model with some nodes and channels split in two."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .._modules import Model
from ..errors import InputError
from ..networks import DiscreteTimeNeuralGraph, NeuralGraph
from ..nodes import is_learned
from ..wiring import Wiring
from ..wiring.ends import Entries
from ..wiring.graph import Graph
from ..wiring.wiring import INPUT, OUTPUT
from .carrying import carry, grown_selector
from .chain import Link, Weighted, channels_of, links
from .units import Units, has_kernel_last


@dataclass
class Division:
    """What happens to one graph.

    Args:
        split: nodes that become two, (V,).
        step: what is added to the weights into them, and taken from those into their copies, (E,).
        halves_kernel: nodes whose kernels are halved, (V,).
        halves_edges: nodes whose out-edges are halved, (V,).
    """

    split: torch.Tensor
    step: torch.Tensor
    halves_kernel: torch.Tensor
    halves_edges: torch.Tensor


def build(model: Model, units: Units, chosen: torch.Tensor, step: dict[str, torch.Tensor],
          halve: str) -> Model:
    """A copy of a model in which the chosen units are two.

    Args:
        chosen: a mask (U,).
        step: of the weights by part, as :meth:`Units.spread` gives it; 0 where nothing is chosen.
        halve: "kernel" or "edges".
    """
    return _build(model, numbers_by_part(units, chosen), {part.name: part.link for part in units.parts}, step, halve, None)


def numbers_by_part(units: Units, chosen: torch.Tensor) -> dict[str, torch.Tensor]:
    """By the names of graphs and layers the numbers of the chosen nodes and channels."""
    return {part.name: part.nodes[mask] for part, mask in zip(units.parts, units.split(chosen)) if mask.any()}


def regrow(model: Model, growth: Sequence[dict[str, Any]]) -> Model:
    """A model of the size that another like it has grown to, whose values it takes by ``load_state_dict``.

    Args:
        model: as the other was before it grew; it is not changed.
        growth: of each splitting in turn, :attr:`SplitReport.growth`.

    Returns:
        The model itself where there is no growth. What is split in another has the values of the copied node.

    Raises:
        InputError: for a growth that is not of this model.

    >>> import neuralgraph as ng
    >>> net = ng.StaticNeuralGraph(ng.wirings.blocks([2, 3, 1]), ng.TopK(k=8))
    >>> regrow(net, [{"split": {"": [3]}, "k": {"": 11}}]).wiring
    Wiring(7 nodes: 2 input, 4 hidden, 1 output; 14 candidate edges)
    """
    for entry in growth:
        modules = dict(model.named_modules())
        try:
            split = {name: torch.tensor(nodes) for name, nodes in entry["split"].items()}
            budgets = {name: entry["k"][name] for name in entry["k"]}
            sizes = {name: modules[name].wiring.num_nodes if isinstance(modules[name], NeuralGraph) else
                     channels_of(modules[name]) for name in split}
            if any(nodes.dtype != torch.long or nodes.min() < 0 or nodes.max() >= sizes[name]
                   for name, nodes in split.items()):
                raise ValueError("numbers that the model does not have")
            model = _build(model, split, links(model)[0], None, "kernel", budgets)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
            raise InputError(f"this growth is not of this model: {type(error).__name__}: {error}.") from error
    return model


def _build(model, chosen, readable, step, halve, budgets):
    """``budgets``: k of each graph, where values and real edges are to be loaded."""
    grown = copy.deepcopy(model)
    modules = dict(grown.named_modules())
    divisions = {name: _undivided(module) for name, module in modules.items() if isinstance(module, NeuralGraph)}
    made = []  # what reads channels of which some are two, and which these are
    for name, nodes in chosen.items():
        link, module = readable.get(name), modules[name]
        if name in divisions:
            division, wiring = divisions[name], module.wiring
            division.split[nodes] = True
            if step is not None:
                division.step = step[name].detach().cpu()
            _halve(division, module, nodes[wiring.role[nodes] != OUTPUT], halve)
            split = division.split[wiring.outputs]
        else:
            split = torch.zeros(len(module.weight), dtype=torch.bool)
            split[nodes] = True
            _split_rows(module, split, torch.zeros_like(module.weight) if step is None else step[name])
        if split.any():
            made.append((link, split))
    for link, split in made:  # last: a column is halved of what its row has become
        _split_readers(link, split, modules, divisions, halve)
    for name, division in divisions.items():
        if division.split.any():
            network = grown_network(modules[name], division, None if budgets is None else budgets[name])
            if not name:
                return network
            parent, _, child = name.rpartition(".")
            setattr(grown.get_submodule(parent), child, network)
    return grown


def _undivided(network: NeuralGraph) -> Division:
    nodes = network.wiring.num_nodes
    step = torch.zeros(network.wiring.num_edges, dtype=network.weight.dtype)
    return Division(torch.zeros(nodes, dtype=torch.bool), step, *torch.zeros(2, nodes, dtype=torch.bool))


def _halve(division: Division, network: NeuralGraph, nodes: torch.Tensor, halve: str, receives: bool = True) -> None:
    by_kernel = has_kernel_last(network, receives)[nodes] & (halve == "kernel")
    division.halves_kernel[nodes] = by_kernel
    division.halves_edges[nodes] = ~by_kernel


def _split_readers(link: Link, split: torch.Tensor, modules, divisions, halve: str) -> None:
    """Gives what stands behind a part two of each split channel, of half the weight."""
    for name in link.between:
        _split_channels(modules[name], split)
    reader = modules[link.reader]
    if isinstance(reader, NeuralGraph):
        nodes = reader.wiring.inputs[split]
        divisions[link.reader].split[nodes] = True
        _halve(divisions[link.reader], reader, nodes, halve, receives=False)
        return
    columns = reader.weight.shape[1]
    each = split.repeat_interleave(columns // len(split))
    # the two columns of a channel that was flattened into several stand as its pixels do, channel by channel
    origin = _doubled(torch.arange(columns).view(len(split), -1), split).flatten()
    factor = torch.where(each, 0.5, 1.0)[origin].to(reader.weight)
    shape = (1, -1, *[1] * (reader.weight.dim() - 2))
    _set(reader, "weight", reader.weight[:, origin.to(reader.weight.device)] * factor.view(shape))
    setattr(reader, "in_features" if isinstance(reader, nn.Linear) else "in_channels", len(origin))


def _doubled(values: torch.Tensor, split: torch.Tensor) -> torch.Tensor:
    """Rows of values, those that are split twice in a row."""
    return values.repeat_interleave(1 + split.long().to(values.device), dim=0)


def _split_rows(layer: Weighted, split: torch.Tensor, step: torch.Tensor) -> None:
    """The rows of a layer: those that are split become w + step and w - step."""
    step = step.detach().to(layer.weight)
    _set(layer, "weight", _doubled(layer.weight, split) + _signed(_doubled(step, split), split))
    if layer.bias is not None:
        _set(layer, "bias", _doubled(layer.bias, split))
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", len(layer.weight))


def _signed(steps: torch.Tensor, split: torch.Tensor) -> torch.Tensor:
    """The steps of doubled rows, those of copies with the other sign."""
    sign = 1 - 2 * is_copy(split).to(steps)
    return steps * sign.view(-1, *[1] * (steps.dim() - 1))


def is_copy(split: torch.Tensor) -> torch.Tensor:
    """Which of the doubled rows are copies."""
    copies = 1 + split.long()
    mask = torch.zeros(int(copies.sum()), dtype=torch.bool)
    mask[copies.cumsum(0)[split] - 1] = True
    return mask


def _split_channels(module: nn.Module, split: torch.Tensor) -> None:
    """A norm or a depthwise convolution with two of each split channel."""
    size: int = getattr(module, "in_channels" if hasattr(module, "in_channels") else "num_features")
    each = split.repeat_interleave(size // len(split))
    origin = _doubled(torch.arange(size).view(len(split), -1), split).flatten()
    for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if value.shape[:1] == (size,):
            _set(module, name, value[origin.to(value.device)])
    new = size + int(each.sum())
    for name in ("num_features", "in_channels", "out_channels", "groups"):
        if hasattr(module, name):
            setattr(module, name, new)


def _set(module: nn.Module, name: str, value: torch.Tensor) -> None:
    old = getattr(module, name)
    value = value.detach().clone()
    setattr(module, name, nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)


# Graphs


@torch.no_grad()
def grown_network(network: NeuralGraph, division: Division, k: int | None) -> NeuralGraph:
    """A network with some nodes split in two: v, and a copy that stands behind it.

    With ``k`` given its real edges are what a new selector makes them: they are yet to be loaded.
    """
    wiring, edge, sign = grown_wiring(network.wiring, division.split)
    device, old_real = network.weight.device, network.selection().real.cpu()
    factor = torch.where(division.halves_edges[network.wiring.src], 0.5, 1.0)
    weight, real = network.weight.detach().cpu(), old_real[edge]
    weight = ((weight[edge] + sign.to(weight) * division.step[edge].to(weight)) * factor[edge].to(weight)).to(device)
    options: dict[str, Any] = {"backend": network.backend, "dtype": network.weight.dtype, "dims": network.dims}
    if isinstance(network, DiscreteTimeNeuralGraph):
        options |= {"steps": network.steps, "tied": network.tied}
    added = int(real.sum()) - int(old_real.sum()) if k is None else k - (network.selector.k or k)
    grown = grown_selector(network.selector, added, edge,
                           lambda selector: type(network)(wiring, selector, **options))
    every = [(network.functions, grown.functions)]
    every += zip(getattr(network, "later_functions", ()), getattr(grown, "later_functions", ()))
    for old, new in every:
        values = {name: _doubled(value.cpu(), division.split) for name, value in old.export().items()}
        if "kernel" in values:
            values["kernel"][_doubled(division.halves_kernel, division.split)] *= 0.5
        new.load(values)
    grown.to(device).train(network.training)
    grown.weight.copy_(weight)
    if k is None:
        carry(network.selector, grown, edge.to(device), real.to(device))
    flags = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    for name, parameter in grown.named_parameters():
        parameter.requires_grad_(flags.get(name, parameter.requires_grad))
    return grown


def grown_wiring(wiring: Wiring, split: torch.Tensor) -> tuple[Wiring, torch.Tensor, torch.Tensor]:
    """The candidate edges of a graph some of whose nodes are two, without learned values.

    A copy has the number after its node's, its block and its function, and every candidate edge of it; among
    inputs and outputs the channel after its own. Edges that were sorted by destination, then source, are so
    again; others stand where the edge stands that they are copies of.

    Returns:
        The wiring; the old number of each edge, (E',); -1 for edges into copies and 1 for others, (E',).
    """
    copies = 1 + split.long()
    first = copies.cumsum(0) - copies
    src, dst = wiring.src, wiring.dst
    count = copies[src] * copies[dst]
    edge = torch.arange(wiring.num_edges).repeat_interleave(count)
    within = torch.arange(len(edge)) - (count.cumsum(0) - count)[edge]
    into_copy = within // copies[src[edge]]
    new_src, new_dst = first[src[edge]] + within % copies[src[edge]], first[dst[edge]] + into_copy
    number = int(copies.sum())
    if _is_sorted(dst * wiring.num_nodes + src):
        order = (new_dst * number + new_src).argsort()
        edge, into_copy, new_src, new_dst = edge[order], into_copy[order], new_src[order], new_dst[order]
    old = wiring.data
    graph = Graph(Entries(new_src, new_dst, (number, number)), number)
    for name, value in old.ndata.items():
        if not is_learned(name):
            graph.ndata[name] = _doubled(value, split)
    for name, value in old.edata.items():
        if name != "weight":
            graph.edata[name] = value[edge]
    channel = graph.ndata["channel"]
    for role in (INPUT, OUTPUT):
        nodes = (graph.ndata["role"] == role).nonzero().flatten()
        channel[nodes[channel[nodes].argsort(stable=True)]] = torch.arange(len(nodes))
    return Wiring(graph, labels=_labels(wiring, split)), edge, 1 - 2 * into_copy


def _is_sorted(keys: torch.Tensor) -> bool:
    return bool((keys[1:] > keys[:-1]).all())


def _labels(wiring: Wiring, split: torch.Tensor) -> list | None:
    """The names of the nodes; a copy of a node with a number gets the next free one, others a prime."""
    if wiring.labels is None:
        return None
    taken, labels = set(wiring.labels), []
    free = max((label for label in taken if isinstance(label, int)), default=-1) + 1
    for label, twice in zip(wiring.labels, split.tolist()):
        labels.append(label)
        if twice:
            if isinstance(label, int):
                copy_, free = free, free + 1
            else:
                copy_ = f"{label}'"
                while copy_ in taken:
                    copy_ += "'"
            taken.add(copy_)
            labels.append(copy_)
    return labels
