"""What can be split: nodes of graphs and channels of layers, with the weights into each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from ..analysis.cost import executed
from ..networks import DiscreteTimeNeuralGraph, NeuralGraph, StaticNeuralGraph
from ..nodes.conv import DepthwiseConv
from ..plan import reduced
from ..wiring.wiring import INPUT, OUTPUT
from .chain import Link, channels_of, is_layer, links
from .probing import Probe


@dataclass
class Part:
    """A graph or layer some of whose nodes or channels can be split.

    Args:
        name: in the model, "" for the model itself.
        module: it.
        nodes: the numbers of the nodes or channels, (U,).
        entries: the numbers of the weights into them among all of the part, node by node, (N,).
        owner: whose they are, indices in ``nodes``, (N,).
        link: what reads the part's outputs, None where these cannot be split.
    """

    name: str
    module: nn.Module
    nodes: torch.Tensor
    entries: torch.Tensor
    owner: torch.Tensor
    link: Link | None

    def label(self, node: int) -> str:
        """A node or channel as reports and messages name it."""
        if isinstance(self.module, NeuralGraph):
            name = self.module.wiring.label(node)
            own = f"node {name!r}"
        else:
            own = f"channel {node}"
        return f"{self.name} {own}" if self.name else own


@dataclass
class Units:
    """All that can be split in a model, numbered part by part, and why the rest cannot.

    Args:
        parts: see there.
        refused: reason to labels.
    """

    parts: list[Part]
    refused: dict[str, list[str]] = field(default_factory=dict)

    @property
    def number(self) -> int:
        return sum(len(part.nodes) for part in self.parts)

    @property
    def labels(self) -> list[str]:
        return [part.label(int(node)) for part in self.parts for node in part.nodes]

    @property
    def layers(self) -> torch.Tensor:
        """The layer that each unit is in, or the block of a graph, as numbers (U,)."""
        found: list[torch.Tensor] = []
        for part in self.parts:
            own = part.module.wiring.block[part.nodes] if isinstance(part.module, NeuralGraph) else part.nodes * 0
            found.append(torch.stack([torch.full_like(own, len(found)), own], 1))
        return torch.cat(found).unique(dim=0, return_inverse=True)[1]

    @property
    def owner(self) -> torch.Tensor:
        """The unit that each weight belongs to, (N,), ascending."""
        first, owners = 0, []
        for part in self.parts:
            owners.append(part.owner + first)
            first += len(part.nodes)
        return torch.cat(owners)

    def split(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Values of all units (U,) by part."""
        return list(values.split([len(part.nodes) for part in self.parts]))

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sums over the weights of each unit (..., U) of numbers for all weights (..., N)."""
        return values.new_zeros(*values.shape[:-1], self.number).index_add(-1, self.owner, values)

    def spread(self, values: torch.Tensor, leaves: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Numbers for all weights (N,) as tensors of the shapes of their parts, 0 elsewhere."""
        spread = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        for part, own in zip(self.parts, values.split([len(part.entries) for part in self.parts])):
            spread[part.name].view(-1)[part.entries] = own.to(spread[part.name])
        return spread

    def gather(self, spread: dict[str, torch.Tensor]) -> torch.Tensor:
        """The inverse of :meth:`spread`, in double precision on the CPU."""
        return torch.cat([spread[part.name].reshape(-1)[part.entries].double().cpu() for part in self.parts])


def find(model: nn.Module) -> Units:
    """What of a model can be split.

    Raises:
        InputError: if it is a module that is no chain of layers and holds no neural graph.
    """
    readable, reasons = links(model)
    parts, read = [], {link.reader for link in readable.values()}
    refused: dict[str, list[str]] = {}
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, NeuralGraph):
            part = _of_graph(name, module, readable.get(name), reasons.get(name), modules, refused, name in read)
        elif is_layer(module) and (name in readable or name in reasons):
            part = _of_layer(name, module, readable.get(name), reasons.get(name), modules, refused)
        else:
            continue
        if len(part.nodes):
            parts.append(part)
    return Units(parts, refused)


def _of_graph(name, network, link, reason, modules, refused, is_read) -> Part:
    wiring = network.wiring
    real = network.selection().real.cpu()
    dst = wiring.dst
    none = torch.zeros(0, dtype=torch.long)
    part = Part(name, network, none, none, none, link)
    can = torch.ones(wiring.num_nodes, dtype=torch.bool)

    def refuse(nodes, why):
        nodes = nodes & can
        can[nodes] = False
        for node in nodes.nonzero().flatten().tolist():
            refused.setdefault(why, []).append(part.label(node))

    if not isinstance(network, (StaticNeuralGraph, DiscreteTimeNeuralGraph)):
        refuse(can, f"the states of a {type(network).__name__} bend over time, which no splitting matrix says")
        return part
    if is_read:  # an input node is split with what makes its channel
        can &= wiring.role != INPUT
    refuse(wiring.role == INPUT, "input nodes: nothing before them makes their channels")
    if link is None:
        refuse(wiring.role == OUTPUT, f"output nodes: {reason}")
    else:
        followers = multiplied(modules[link.reader]) if isinstance(modules[link.reader], NeuralGraph) else None
        if followers is not None:
            reader = modules[link.reader].wiring
            into = torch.zeros(wiring.num_nodes, dtype=torch.bool)
            into[wiring.outputs] = followers[reader.inputs]
            refuse(into, "their messages are factors of a product")
    refuse(multiplied(network), "their messages are factors of a product")
    fed = torch.zeros(wiring.num_nodes, dtype=torch.bool)
    fed[dst[real]] = True
    refuse(~fed, "no real edge leads to them")
    part.nodes = can.nonzero().flatten()
    edges = (real & can[dst]).nonzero().flatten()
    part.entries = edges[dst[edges].argsort(stable=True)]
    place = torch.full((wiring.num_nodes,), -1)
    place[part.nodes] = torch.arange(len(part.nodes))
    part.owner = place[dst[part.entries]]
    return part


def multiplied(network: NeuralGraph) -> torch.Tensor:
    """Nodes whose message a real edge takes into a product, (V,)."""
    wiring = network.wiring
    is_product = torch.tensor([function.aggregate == "product" for function in wiring.functions])[wiring.function]
    is_product &= ~((wiring.role == INPUT) & torch.tensor(isinstance(network, StaticNeuralGraph)))
    edges = network.selection().real.cpu() & is_product[wiring.dst]
    found = torch.zeros(wiring.num_nodes, dtype=torch.bool)
    found[wiring.src[edges]] = True
    return found


def _of_layer(name, layer, link, reason, modules, refused) -> Part:
    channels, columns = len(layer.weight), layer.weight[0].numel()
    can = torch.zeros(channels, dtype=torch.bool) if link is None else torch.ones(channels, dtype=torch.bool)
    none = torch.zeros(0, dtype=torch.long)
    part = Part(name, layer, can.nonzero().flatten(), none, none, link)
    if link is None:
        refused.setdefault(f"channels of a layer: {reason}", []).append(name or "the model")
    elif isinstance(modules[link.reader], NeuralGraph):
        reader = modules[link.reader]
        can &= ~multiplied(reader)[reader.wiring.inputs]
        for channel in (~can).nonzero().flatten().tolist():
            refused.setdefault("their messages are factors of a product", []).append(part.label(channel))
    part.nodes = can.nonzero().flatten()
    part.owner = torch.arange(len(part.nodes)).repeat_interleave(columns)
    part.entries = (part.nodes[:, None] * columns + torch.arange(columns)).flatten()
    return part


def has_kernel_last(network: NeuralGraph, receives: bool = True) -> torch.Tensor:
    """Nodes whose message is linear in their kernel: the convolution is the last that they do, (V,)."""
    last = []
    for group in network.functions.groups:
        operations = [*(group.receive if receives else ()), *group.send]
        last.append(bool(operations) and isinstance(operations[-1], DepthwiseConv))
    return torch.tensor(last)[network.wiring.function]


def costs(model: nn.Module, units: Units, probe: Probe) -> torch.Tensor:
    """Multiply-adds of one more copy of each unit, (U,): its in-edges, its kernel and its out-edges."""
    found = []
    modules = dict(model.named_modules())
    for part in units.parts:
        degree = torch.bincount(part.owner, minlength=len(part.nodes))
        if not isinstance(part.module, NeuralGraph):
            assert part.link is not None  # else it has no units
            found.append(degree * probe.pixels[part.name] + _reading(part.link, modules, probe)[part.nodes])
            continue
        wiring = part.module.wiring
        real = part.module.selection().real.cpu()
        out = torch.bincount(wiring.src[real], minlength=wiring.num_nodes)
        space = probe.spaces[part.name]
        receives, sends = _kernels(part.module, space)
        after = receives + sends + _pixels(space, wiring.message_scale()) * out
        if part.link is not None:
            after[wiring.outputs] = receives[wiring.outputs] + _reading(part.link, modules, probe)
        here = degree * _pixels(space, wiring.scale[part.nodes]) + after[part.nodes]
        found.append(here * (getattr(part.module, "steps", None) or 1))
    return torch.cat(found).double()


def _pixels(space: tuple[int, ...], scale: torch.Tensor) -> torch.Tensor:
    """Of maps that are so many times smaller than those of these sides."""
    sides = torch.tensor([math.prod(reduced(space, int(s))) for s in range(1, 1 + int(scale.max()))])
    return sides[scale - 1]


def _kernels(network: NeuralGraph, space: tuple[int, ...]) -> torch.Tensor:
    """Multiply-adds of what each node does when it receives and when it sends, (2, V)."""
    found = torch.zeros(2, network.wiring.num_nodes, dtype=torch.long)
    for nodes, sides, operation, is_receive in executed(network, network.functions, space):
        found[0 if is_receive else 1, nodes] += operation.multiply_adds(sides)
    return found


def _weight(layer: nn.Module) -> torch.Tensor:
    assert isinstance(layer.weight, torch.Tensor)
    return layer.weight


def _reading(link: Link, modules: dict[str, nn.Module], probe: Probe) -> torch.Tensor:
    """Multiply-adds of what reads each channel."""
    reader = modules[link.reader]
    if isinstance(reader, NeuralGraph):
        wiring = reader.wiring
        out = torch.bincount(wiring.src[reader.selection().real.cpu()], minlength=wiring.num_nodes)
        space = probe.spaces[link.reader]
        here = (_kernels(reader, space)[1] + _pixels(space, wiring.message_scale()) * out)[wiring.inputs]
    else:
        channels = channels_of(modules[link.maker])
        here = torch.full((channels,), probe.pixels[link.reader] * _weight(reader).numel() // channels)
    between = sum(probe.pixels[name] * _weight(modules[name])[0].numel() for name in link.between
                  if name in probe.pixels)
    return here + between
