"""Soft parameter sharing: weights that are mixtures of a few templates."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import nn

from .._modules import Model
from ..errors import InputError, UnknownNameError, listed, lookup, whole
from ..layers import Sparse
from ..networks import DiscreteTimeNeuralGraph, NeuralGraph
from ..networks.network import as_generator
from ..nodes import DepthwiseConv
from .templates import Assembled, Mixed, MixedPart, check_can_share, check_only_chooses, kaiming_normal, orthogonal

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


def share(model: Model, templates: int, what: str = "layers", *, skip: Collection[str] = (),
          seed: int | torch.Generator = 0, inplace: bool = False) -> Model:
    """Makes weights of one shape mixtures of the same few templates, learned together.

        V_i = sum over j = 1..K of a_ij T_j

    "Learning Implicitly Recurrent CNNs Through Parameter Sharing" (Savarese and Maire, ICLR 2019). What can share a
    bank of templates:

    - "layers": convolutions and fully connected layers of any model whose weights have one shape; a layer with a
      shape of its own keeps its weight;
    - "kernels": of the nodes of each neural graph, theta_v = sum_j a_vj T_j;
    - "blocks": the matrices of edge weights between two blocks of a neural graph, of equal shape and complete;
    - "steps": of each discrete-time network with ``tied=False``, theta_v(l) = sum_j a_lj T_vj, which is tied for
      K = 1 and as free as before for K = L.

    Weights are drawn anew: templates from Kaiming's normal distribution, coefficients as orthogonal rows of length 1
    (of more rows than templates, the columns are orthogonal before). They are read under the name they had
    (``network.weight``), as mixtures, and selection acts on them; parameters are templates and coefficients instead
    (:mod:`torch.nn.utils.parametrize`). Make the optimizer afterwards, of :func:`parameter_groups`: coefficients
    have no weight decay. A copy is made by :func:`copy.deepcopy`; to pickle, or to assign weights, :func:`bake`
    first. Costs are those of the baked model. Sparse layers share what they had before selection: call
    :func:`neuralgraph.sparsify` first.

    Args:
        model: any module; a network alone too.
        templates: K, at least 1, of each bank.
        what: a key of :data:`WHAT`.
        skip: names of layers, operations or networks, or patterns such as ``"stem.*"``, that keep their weights.
        seed: of templates and coefficients; an integer or a generator.
        inplace: change ``model`` itself instead of a copy.

    Returns:
        The model.

    Raises:
        InputError: if nothing in the model can share, and for weights that are frozen or computed already.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    >>> model = share(model, templates=2)
    >>> sum(p.numel() for p in model[1:].parameters())      # two templates, three times (coefficients and biases)
    1182
    >>> model[1].weight.shape
    torch.Size([8, 8, 3, 3])
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module, got {type(model).__name__}.")
    number = whole(templates)
    if number is None or number < 1:
        raise InputError(f"templates must be an integer of at least 1, got {templates!r}.")
    find = lookup("what to share", what, WHAT)
    if isinstance(skip, str):
        raise InputError(f"skip must be a list of names, got {skip!r}.")
    if not inplace:
        model = copy.deepcopy(model)
    names = [name for name, _ in model.named_modules()]
    for pattern in skip:
        if not any(name == pattern or fnmatchcase(name, pattern) for name in names):
            raise UnknownNameError("part of the model", pattern, filter(None, names))
    generator = as_generator(seed)
    # all that may fail first, so that it leaves a model as it was
    banks = find(model, number, lambda name: any(
        name == pattern or fnmatchcase(name, pattern) for pattern in skip))
    for fill in banks:
        fill(generator)
    return model


Skips = Callable[[str], bool]
Fill = Callable[[torch.Generator], None]


def _layers(model: nn.Module, templates: int, skips: Skips) -> list[Fill]:
    inside = {part for network in model.modules() if isinstance(network, NeuralGraph) for part in network.modules()}
    groups = defaultdict(list)
    for name, layer in model.named_modules():
        if isinstance(layer, LAYERS) and layer not in inside and not skips(name):
            kind = next(kind for kind in LAYERS if isinstance(layer, kind))
            groups[kind, tuple(layer.weight.shape)].append((name, layer))
    found = {key: members for key, members in groups.items() if len(members) > 1}
    if not found:
        shapes = [f"{kind.__name__} {shape}" for kind, shape in groups]
        raise InputError("no two layers have weights of one shape and can share: " + (
            f"there are {listed(shapes)}." if shapes else "the model has no convolution or fully connected layer."))
    for members in found.values():
        _check(model, [(name, layer, "weight") for name, layer in members])
        for name, layer in members:
            if isinstance(layer, Sparse):
                check_only_chooses(layer._choices["weight"][0].selector, repr(name))
    return [_vectors([(name, layer, "weight") for name, layer in members], templates) for members in found.values()]


def _kernels(model: nn.Module, templates: int, skips: Skips) -> list[Fill]:
    """A bank for each shape in each network; a row of coefficients for each node."""
    groups = defaultdict(list)
    for name, network in _networks(model, NeuralGraph, skips):
        for path, operation in network.named_modules():
            full = f"{name}.{path}".lstrip(".")
            if isinstance(operation, DepthwiseConv) and operation.weight.requires_grad and not skips(full):
                groups[name, tuple(operation.weight.shape[1:])].append((full, operation, "weight"))
    if not groups:
        raise InputError("no node of the model has a kernel that is trained; give nodes the step 'conv', or share "
                         "something else.")
    for members in groups.values():
        _check(model, members)

    def fill(members, generator):
        first = members[0][1].weight
        bank = kaiming_normal(templates, first.shape[1:], math.prod(first.shape[1:]), generator, first)
        sizes = [len(operation.weight) for _, operation, _ in members]
        parts = orthogonal(sum(sizes), templates, generator, first).split(sizes)
        for (name, operation, own), part in zip(members, parts):
            rows = [f"{name}[{number}]" for number in range(len(part))]
            Mixed(bank, rows).mix(operation, own, part.clone())
    return [partial(fill, members) for members in groups.values()]


def _steps(model: nn.Module, templates: int, skips: Skips) -> list[Fill]:
    """A bank for each operation with kernels; a vector of coefficients for each step."""
    found = []
    for name, network in _networks(model, DiscreteTimeNeuralGraph, skips):
        if network.tied or network.steps < 2:
            continue
        steps = [dict(functions.named_modules()) for functions in (network.functions, *network.later_functions)]
        for path, operation in steps[0].items():
            if isinstance(operation, DepthwiseConv):
                found.append([(f"{name}.{path} at step {number + 1}".lstrip("."), step[path], "weight")
                              for number, step in enumerate(steps)])
    if not found:
        raise InputError("no discrete-time network of the model has kernels of each step: make it with tied=False "
                         "and nodes with the step 'conv'.")
    for members in found:
        _check(model, members)
    return [_vectors(members, templates) for members in found]


def _blocks(model: nn.Module, templates: int, skips: Skips) -> list[Fill]:
    """A bank for each shape of complete matrices between two blocks of a network."""
    fills: list[Fill] = []
    for name, network in _networks(model, NeuralGraph, skips):
        groups = _matrices(network)
        if not groups:
            continue
        _check(model, [(name, network, "weight")])
        check_only_chooses(network.selector, name or "the network")
        fills.append(partial(_assemble, network, groups, templates))
    if not fills:
        raise InputError("no network of the model has two matrices of edges of one shape: pairs of blocks of equal "
                         "sizes with all edges between them, as blocks([3, 16, 16, 16, 2]) has.")
    return fills


def _matrices(network: NeuralGraph) -> dict[tuple[int, int], list[tuple[str, torch.Tensor]]]:
    """By shape [dst, src], the pairs of blocks that are joined completely and the numbers of their edges in order."""
    wiring = network.wiring
    size = torch.bincount(wiring.block)
    pair = wiring.block[wiring.src] * len(size) + wiring.block[wiring.dst]
    order = (wiring.dst * wiring.num_nodes + wiring.src).argsort()
    groups = defaultdict(list)
    for number in pair.unique().tolist():
        i, j = divmod(number, len(size))
        edges = order[pair[order] == number]
        if len(edges) == size[i] * size[j]:
            groups[int(size[j]), int(size[i])].append((f"block {i} -> {j}", edges))
    return {shape: pairs for shape, pairs in groups.items() if len(pairs) > 1}


def _assemble(network, groups, templates, generator):
    weight, parts, places = network.weight.detach(), [], []
    fan_in = network._num_sources()
    for shape, pairs in groups.items():
        bank = kaiming_normal(templates, shape, fan_in, generator, weight)
        parts.append(MixedPart(Mixed(bank, [name for name, _ in pairs]),
                               orthogonal(len(pairs), templates, generator, weight)))
        places.append(torch.stack([edges for _, edges in pairs]))
    Assembled(parts, places, len(weight)).assemble(network)


def _vectors(members, templates) -> Fill:
    """Parameters of one shape, each of which gets a vector of coefficients."""
    def fill(generator):
        first = getattr(members[0][1], members[0][2])
        bank = kaiming_normal(templates, first.shape, math.prod(first.shape[1:]), generator, first)
        rows = orthogonal(len(members), templates, generator, first)
        for (name, module, own), row in zip(members, rows):
            Mixed(bank, [name]).mix(module, own, row.clone())
    return fill


def _networks(model, kind, skips):
    return [(name, network) for name, network in model.named_modules()
            if isinstance(network, kind) and not skips(name)]


def _check(model, members):
    for name, module, own in members:
        check_can_share(module, own, f"the {own} of {name!r}" if name else f"the {own} of the network", model)


WHAT = {"layers": _layers, "kernels": _kernels, "blocks": _blocks, "steps": _steps}
