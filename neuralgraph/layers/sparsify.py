"""Making the layers of any model sparse, and dense again."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from typing import overload

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from .. import selectors
from .._modules import Model
from ..errors import InputError, UnknownNameError, listed, lookup
from ..selectors import Weights
from .choice import Choice, parametrizations
from .order import first_layers, last_layers
from .sparse import CHOSEN, SPARSE, Sparse, adopt, count, place_of, sparse_layers


class _PlainEncoderLayer(nn.TransformerEncoderLayer):
    """Without the fast path of evaluation, which reads the weights of the layers and calls none."""

    activation_relu_or_gelu = property(lambda self: 0)


class _PlainEncoder(nn.TransformerEncoder):
    """Without the nested tensors that only the fast path of its layers understands."""

    use_nested_tensor = property(lambda self: False)


PLAIN = {nn.TransformerEncoderLayer: _PlainEncoderLayer, nn.TransformerEncoder: _PlainEncoder}
NAMES = "Conv1d to Conv3d, ConvTranspose1d to 3d, Linear, Embedding or MultiheadAttention"


def sparsify(module: Model, density: float | Mapping[str, float | None] | None = 0.1, *, selector: str = "dnw",
             per: str = "layer", granularity: str = "weight", budget: str = "uniform",
             selector_options: Mapping[str, object] | None = None, first_layer_dense: bool = True,
             skip: Collection[str] = (), example: object = None, seed: int = 0,
             inplace: bool = False) -> Model:
    """Turns convolutions, fully connected layers, embeddings and attention of any model into sparse ones.

    Parameters keep their names, so that state dicts go both ways where the selector keeps no state; biases and
    norms stay dense ("Discovering Neural Wirings", section 3.4 and Table 4). :func:`~neuralgraph.layers.summary` says what
    became of every layer. In evaluation a selection is kept until a weight changes. What is recorded by ``torch.compile``,
    ``torch.export`` or ``torch.jit.trace`` ranks the weights at every call: :func:`densify` first for speed.
    :class:`torch.nn.TransformerEncoder` and its layers lose their fast path until :func:`densify`.

    Args:
        module: the model.
        density: share of real candidates, above 0 and at most 1; or a map from the names of layers, or
            patterns such as ``"layers.*"``, to theirs, all others staying dense: an exact name has the last word,
            then the first pattern that fits. None where the selector itself finds how many are real.
        selector: a key of :data:`neuralgraph.selectors.SELECTORS`; some need :func:`neuralgraph.rewire`.
        per: what candidates compete within: "layer"; "node" (every output of a layer keeps as many), "group"
            (so do, and share their inputs, ``selector_options={"group": g}`` outputs in a row); "model" (all
            layers with one another).
        granularity: what a candidate is: a "weight", or a "kernel", all weights between two channels, ranked by
            its norm.
        budget: of one density for all layers: "uniform", the same share of each; "erdos-renyi-kernel", shares in
            proportion to (sum of the weight's dimensions) / (their product), as many weights together, layers
            that would exceed 1 dense ("Rigging the Lottery", section 3).
        selector_options: further arguments of the selector.
        first_layer_dense: leave the layers dense that the input meets first, as the better rows of the
            paper's Table 4 do; a density map that names one has the last word.
        skip: names of layers, or patterns, to leave dense.
        example: an input of the model, or a tuple of its arguments, to find these first layers (and the last, for
            ``srigl``) by running it where tracing it does not do.
        seed: of what the selector draws.
        inplace: change ``module`` itself instead of a copy.

    Returns:
        The sparse model.

    Raises:
        InputError: for a density outside (0, 1], a model in which no such layer is left, layers that
            would stay dense unasked because they are of a class of their own, and weights that are not a plain
            parameter of one layer alone.
        UnknownNameError: if ``density`` or ``skip`` names no layer that can be sparse.
        SelectionError: for settings that the selector cannot serve.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    >>> model = sparsify(model, density=0.5)
    >>> model[2].k
    288
    >>> from neuralgraph.layers import summary
    >>> print(summary(model))
    layer    real  of weights        %
    0                     216  dense: the first layer
    2         288         576    50.00
    together  288         576    50.00, 63.64 of all 792 with the dense layers
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"expected a torch.nn.Module, got {type(module).__name__}.")
    if isinstance(skip, str):
        raise InputError(f"skip must be a list of names, got {skip!r}.")
    lookup("competition", per, dict.fromkeys(("layer", "node", "group", "model")))
    lookup("budget", budget, BUDGETS)
    lookup("granularity", granularity, selectors.GRANULARITIES)
    layers = {name: layer for name, layer in module.named_modules() if can_be_sparse(layer)}
    if not layers:
        raise InputError(f"the model has no torch.nn.Conv2d or torch.nn.Linear (nor other of {NAMES}) to make "
                         "sparse" + (" (some are sparse already)." if sparse_layers(module) else "."))
    _check_density(density, selector)
    shares, dense = _shares(module, density, layers, skip, first_layer_dense, example)
    _check_classes(module, {name: layers[name] for name in shares})
    _check_plain(module, {name: layers[name] for name in shares})
    if not inplace:
        module = copy.deepcopy(module)
        layers = {name: module.get_submodule(name) for name in layers}
    last = _last(module, selector, example)
    candidates = {name: _candidates(layers[name], granularity, name in last) for name in shares}
    divide = BUDGETS[budget]
    if divide is not None:
        if density is None or isinstance(density, Mapping) or per == "model":
            raise InputError(f"budget={budget!r} divides one density among the layers: not with a density map or "
                             "none, nor with per='model', where they compete for it.")
        shares = divide(density, {name: [getattr(*place_of(layers[name], own)).shape for own in found]
                                  for name, found in candidates.items()})
    made = _selectors(candidates, shares, selector, per, dict(selector_options or {}))
    generator = torch.Generator().manual_seed(seed)
    # all that may fail first, so that it leaves a model as it was
    choices = [Choice(chosen, [place_of(layers[name], own) for name, own in places],
                      [candidates[name][own] for name, own in places], generator) for places, chosen in made]
    for (places, _), choice in zip(made, choices):
        adopt(choice, [(layers[name], own) for name, own in places])
    for name in shares:
        layers[name].__class__ = SPARSE[type(layers[name])]
    for part in module.modules():
        if type(part) in PLAIN and sparse_layers(part):
            part.__class__ = PLAIN[type(part)]
    module.__dict__["_dense_because"] = {**module.__dict__.get("_dense_because", {}), **dense}
    return module


def can_be_sparse(layer: nn.Module) -> bool:
    return isinstance(layer, tuple(SPARSE)) and \
        not isinstance(layer, (Sparse, NonDynamicallyQuantizableLinear))


def _check_density(density: float | Mapping[str, float | None] | None, selector: str) -> None:
    """Refuses shares that are none, also of a layer that stays dense, or that the selector cannot use."""
    k_is = selectors.k_is(selector)
    if selector == "complete":
        raise InputError("the selector 'complete' keeps everything: leave the layers as they are.")
    for share in density.values() if isinstance(density, Mapping) else [density]:
        if share is not None:
            count(share, 1)
            if k_is == "found":
                raise InputError(f"the selector {selector!r} itself finds how many are real and takes no density: "
                                 "give density=None.")
        elif k_is == "needed":
            raise InputError(f"the selector {selector!r} needs a density, the share that is real, got None.")


def _shares(module, density, layers, skip, first_layer_dense, example
            ) -> tuple[dict[str, float | None], dict[str, str]]:
    """The density of each layer that becomes sparse, and why each of the others does not."""
    is_map = isinstance(density, Mapping)
    for pattern in [*(density if is_map else ()), *skip]:
        if not isinstance(pattern, str) or not any(_fits(name, pattern) for name in layers):
            raise UnknownNameError("layer", pattern, layers)
    dense, wanted = {}, {}
    for name in layers:
        given = [pattern for pattern in density if _fits(name, pattern)] if is_map else [name]
        if any(_fits(name, pattern) for pattern in skip):
            dense[name] = "in skip"
        elif not given:
            dense[name] = "not in the density map"
        elif is_map:
            wanted[name] = density[name if name in density else given[0]]
        else:
            wanted[name] = density
    if first_layer_dense and not is_map:
        for name in first_layers(module, _every(module), example):
            if wanted.pop(name, None) is not None:
                dense[name] = "the first layer"
    if not wanted:
        raise InputError("nothing is left to make sparse: " + (
            "the density map names no layer that is not in skip." if is_map else
            "all layers are in skip." if "the first layer" not in dense.values() else
            "only one layer is not in skip and it is the first; use first_layer_dense=False."))
    return wanted, dense


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _check_classes(module: nn.Module, wanted: Mapping[str, nn.Module]) -> None:
    """Refuses layers whose class may compute anything, and parts that may not call their layers."""
    foreign = [f"{name!r} ({type(layer).__name__})" for name, layer in wanted.items()
               if type(layer) not in SPARSE and not parametrize.is_parametrized(layer)]
    if foreign:
        raise InputError(
            f"cannot make {listed(foreign)} sparse: only torch's own {NAMES}, not classes derived from them; name "
            "these layers in skip to leave them dense.")
    for part in module.modules():
        if isinstance(part, tuple(PLAIN)) and type(part) not in (*PLAIN, *PLAIN.values()):
            inside = [repr(name) for name, layer in wanted.items() if layer in set(part.modules())]
            if inside:
                raise InputError(
                    f"{type(part).__name__} derives from torch's transformer encoder, whose fast path in "
                    f"evaluation bypasses its layers {listed(inside)}; name them in skip.")


def _check_plain(module: nn.Module, wanted: Mapping[str, nn.Module]) -> None:
    """Refuses weights that are not plain parameters of one layer alone, or that a layer changes itself."""
    owners: dict[int, list[str]] = {}
    for name, part in module.named_modules():
        for own, parameter in part._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(f"{name}.{own}".lstrip("."))
    for name, layer in wanted.items():
        reason = None
        if parametrize.is_parametrized(layer):
            reason = f"is parametrized ({', '.join(parametrizations(layer))})"
        elif isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.sparse):
            reason = "is an embedding with " + ("max_norm, which changes" if layer.max_norm is not None else
                                                "sparse=True, which has no dense gradient of") + " its weight"
        for path in () if reason else CHOSEN[type(layer)](layer):
            part, own = place_of(layer, path)
            parameter = part._parameters.get(own)
            if not isinstance(parameter, nn.Parameter):
                by = "torch.nn.utils.prune" if f"{own}_orig" in part._parameters else "weight_norm" if \
                    f"{own}_g" in part._parameters else "another module"
                by = "spectral_norm" if f"{own}_u" in part._buffers else by
                reason = f"has a {path} that {by} computes anew at every forward"
            elif torch.nn.parameter.is_lazy(parameter):
                reason = f"has a {path} without a shape as long as the model has seen no input"
            elif len(owners[id(parameter)]) > 1:
                reason = f"shares its {path} with {listed(sorted(owners[id(parameter)]))}"
        if reason:
            raise InputError(f"cannot make {name!r} sparse: it {reason}; name it in skip, or make its weight a "
                             "plain parameter of this layer alone first.")


def _last(module: nn.Module, selector: str, example: object) -> list[str]:
    """The layers whose outputs are the model's, for a selector that asks."""
    kind = lookup("selector", selector, selectors.SELECTORS)
    if not getattr(getattr(kind, "kind", kind), "spares_outputs", False):
        return []
    return last_layers(module, _every(module), example)


def _every(module: nn.Module) -> dict[str, nn.Module]:
    """The layers that are or can be sparse, by name."""
    return {name: layer for name, layer in module.named_modules() if can_be_sparse(layer) or isinstance(layer, Sparse)}


def _candidates(layer: nn.Module, granularity: str, is_last: bool) -> dict[str, Weights]:
    """By the name of each parameter, what there is to choose from."""
    return {path: Weights(getattr(*place_of(layer, path)).shape, granularity, is_last=is_last, **options)
            for path, options in CHOSEN[type(layer)](layer).items()}


def _selectors(candidates, shares, selector, per, options):
    """The selectors, each behind the layers and the names of the parameters that it serves."""
    known = selectors.options_of(selector)
    if per in ("node", "group"):
        if "per" not in known:
            raise InputError(f"the selector {selector!r} does not let weights compete within nodes: expected "
                             f"per='layer' or 'model', got {per!r}.")
        options["per"] = per
    if per == "model":
        share = set(shares.values())
        if len(share) > 1:
            raise InputError("per='model' lets all layers compete for one density: give a number, not a map.")
        places = [(name, own) for name, found in candidates.items() for own in found]
        number = sum(candidates[name][own].num for name, own in places)
        k = None if share == {None} else count(share.pop(), number)
        return [(places, selectors.create(selector, k, **options))]
    made = []
    for name, found in candidates.items():
        for own, part in found.items():
            nodes = part.num_targets if per in ("node", "group") else 1
            share = shares[name]
            k = None if share is None else nodes * count(share, part.num // max(1, nodes))
            made.append(([(name, own)], selectors.create(selector, k, **options)))
    return made


def _erdos_renyi(density: float, shapes: Mapping[str, list[torch.Size]]) -> dict[str, float]:
    """Shares in proportion to (sum of dimensions) / (their product), of as many weights as one density gives."""
    size = {name: sum(map(math.prod, parts)) for name, parts in shapes.items()}
    raw = {name: sum(map(sum, parts)) / size[name] for name, parts in shapes.items()}
    full: set[str] = set()
    while True:
        rest = density * sum(size.values()) - sum(size[name] for name in full)
        factor = rest / sum(raw[name] * size[name] for name in raw if name not in full)
        over = {name for name in raw if name not in full and factor * raw[name] > 1}
        if not over:
            return {name: 1.0 if name in full else factor * raw[name] for name in raw}
        full |= over


BUDGETS: dict[str, Callable[..., dict[str, float]] | None] = {"uniform": None, "erdos-renyi-kernel": _erdos_renyi}


@overload
def densify(module: Sparse, *, inplace: bool = False) -> nn.Module: ...


@overload
def densify(module: Model, *, inplace: bool = False) -> Model: ...


def densify(module: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Bakes the selection in: ordinary layers whose unused weights are 0, with the same outputs.

    Args:
        module: a model with sparse layers.
        inplace: change ``module`` itself instead of a copy.

    Raises:
        InputError: for sparse layers with parametrized weights, or of a class that overrides methods.

    >>> model = densify(sparsify(nn.Linear(10, 10), 0.2, first_layer_dense=False))
    >>> type(model).__name__, int((model.weight != 0).sum())
    ('Linear', 20)
    """
    for name, layer in module.named_modules():
        if isinstance(layer, Sparse) and parametrize.is_parametrized(layer):
            raise InputError(f"the weight of {name!r} is parametrized (shared, perhaps), so that zeros cannot be written "
                             "to it: make it plain first, as neuralgraph.sharing.bake does.")
        if isinstance(layer, Sparse) and (own := _own_methods(layer)):
            raise InputError(f"the layer {name!r}, a {type(layer).__name__}, has {listed(own)} of its own, which no ordinary "
                             "layer in its place would have: put what it does into a module around it.")
    if not inplace:
        module = copy.deepcopy(module)
    baked = []
    with torch.no_grad():
        for layer in sparse_layers(module):
            for name, (choice, number) in layer._choices.items():
                part, own = place_of(layer, name)
                baked.append((getattr(part, own), choice.evaluation_weight(number), choice.selector.freezes_weight))
        for parameter, weight, was_frozen in baked:
            parameter.copy_(weight)
            parameter.requires_grad_(parameter.requires_grad or was_frozen)
    for layer in sparse_layers(module):
        for name in [name for name in layer._modules if name == "selector" or name.endswith("_selector")]:
            del layer._modules[name]
        ordinary: nn.Module = layer
        ordinary.__class__ = next(dense for dense, sparse in SPARSE.items() if isinstance(layer, sparse))
        del layer._choices
    for part in module.modules():
        for base, plain in PLAIN.items():
            if type(part) is plain:
                part.__class__ = base
    module.__dict__.pop("_dense_because", None)
    return module


def _own_methods(layer: Sparse) -> list[str]:
    """What a subclass of a sparse layer's class does in another way."""
    kinds = type(layer).__mro__
    place = next(number for number, kind in enumerate(kinds) if kind in SPARSE.values())
    return [name for kind in kinds[:place] for name, value in vars(kind).items()
            if callable(value) and hasattr(kinds[place], name) and name not in ("__init__", "__repr__", "extra_repr")]
