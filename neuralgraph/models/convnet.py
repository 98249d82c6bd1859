"""A small convolutional classifier whose layers may be sparse: where selectors meet ordinary layers."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..errors import InputError, SelectionError, lookup
from ..layers import sparsify
from ..layers.sparsify import BUDGETS
from ..networks.network import as_generator, aside
from ..selectors import GRANULARITIES, k_is
from ..selectors.selector import check_k
from .classifier import Classifier
from .layers import conv, linear
from .tiny import GlobalPool

CHANNELS = (32, 64, 128)
FIRST, DENSITY = "stem.0", 0.1


def tiny_convnet(*, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, selector: str = "dnw",
                 k: int | None = None, density: float | None = None, selector_options: dict | None = None,
                 per: str = "layer", granularity: str = "weight", budget: str = "erdos-renyi-kernel",
                 seed: int | torch.Generator = 0) -> Classifier:
    """Three 3x3 convolutions of 32, 64 and 128 channels, the mean of the map, a fully connected layer.

    Each convolution is followed by batch norm and ReLU; the second and third have stride 2. All layers but the
    first are made sparse by :func:`neuralgraph.sparsify`: of 93,440 weights for ten classes.

    Args:
        num_classes: of the classifier.
        in_channels: of the images.
        image_size: their side in pixels.
        selector: a key of :data:`neuralgraph.selectors.SELECTORS`.
        k: number of real candidates of all sparse layers together; without it as ``density`` says.
        density: share of them, by default 0.1 where the selector needs one.
        selector_options: further arguments of the selector.
        per: what candidates compete within, as for :func:`neuralgraph.sparsify`.
        granularity: what a candidate is, a "weight" or a "kernel".
        budget: how many each layer keeps, "uniform" or "erdos-renyi-kernel", as for
            :func:`neuralgraph.sparsify`; of k whole numbers, largest remainders first.
        seed: of everything that is drawn.

    >>> import neuralgraph as ng
    >>> ng.models.create("tiny-convnet", k=5000).num_real_edges
    5000
    """
    if k is not None and density is not None:
        raise InputError(f"k and density say the same: give one of them, got {k!r} and {density!r}.")
    lookup("granularity", granularity, GRANULARITIES)
    lookup("budget", budget, BUDGETS)
    generator = as_generator(seed)
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(zip((in_channels, *CHANNELS), CHANNELS)):
        layers += [conv(before, after, 3, stride=2 if number else 1, bias=False, generator=generator),
                   nn.BatchNorm2d(after), nn.ReLU()]
    head = nn.Sequential(GlobalPool(), linear(CHANNELS[-1], num_classes, generator=generator))
    model = Classifier(nn.Sequential(*layers), [], head, in_channels=in_channels, image_size=image_size)
    share: float | dict[str, float] | None = density
    if selector == "complete":
        if k is not None or density is not None:
            raise SelectionError("the selector 'complete' keeps every weight: leave k and density out.")
        selector, share, budget = "dnw", 1.0, "uniform"
    elif k is not None:
        shapes = {name: layer.weight.shape for name, layer in model.named_modules()
                  if isinstance(layer, (nn.Conv2d, nn.Linear)) and name != FIRST}
        share, budget = _shares(k, shapes, per, granularity, budget), "uniform"
    elif density is None and k_is(selector) == "needed":
        share = DENSITY
    if share is None or per == "model":
        budget = "uniform"
    return sparsify(model, share, selector=selector, per=per, granularity=granularity, budget=budget,
                    selector_options=selector_options, first_layer_dense=False, inplace=True,
                    skip=[FIRST], example=torch.zeros(2, in_channels, image_size, image_size),
                    seed=int(torch.randint(2**62, (), generator=aside(generator))))


def _shares(k: int, shapes: dict[str, torch.Size], per: str, granularity: str, budget: str) -> dict[str, float]:
    """The density of each layer, so that k candidates are real.

    >>> _shares(7, {"a": torch.Size((2, 2, 3, 3)), "b": torch.Size((4, 2))}, "layer", "weight", "uniform")
    {'a': 0.16666666666666666, 'b': 0.125}
    """
    if granularity == "kernel":
        shapes = {name: shape[:2] for name, shape in shapes.items()}
    number = {name: shape.numel() for name, shape in shapes.items()}
    total = sum(number.values())
    k = check_k(k, total, "candidates")
    if per == "model":
        return dict.fromkeys(number, k / total)
    if per in ("node", "group"):
        raise InputError(f"per={per!r} needs density: not every k can be divided among the nodes.")
    divide, sizes = BUDGETS[budget], {name: [shape] for name, shape in shapes.items()}
    wanted = dict.fromkeys(sizes, k / total) if divide is None else divide(k / total, sizes)
    exact = {name: share * number[name] for name, share in wanted.items()}
    keep = {name: min(number[name], math.floor(edges + 1e-9)) for name, edges in exact.items()}
    by_remainder = sorted(exact, key=lambda name: keep[name] - exact[name])
    for name in by_remainder[:k - sum(keep.values())]:
        keep[name] += 1
    empty = [name for name, own in keep.items() if not own]
    if empty:
        raise InputError(f"k={k} of {total} leaves no weight of the layer {empty[0]!r}: choose a larger k.")
    return {name: keep[name] / own for name, own in number.items()}
