"""MobileNetV1 whose pointwise layers are random bipartite graphs."""

from __future__ import annotations

import torch
from torch import nn

from .. import selectors
from ..errors import InputError, whole
from ..networks import StaticNeuralGraph
from ..networks.network import as_generator
from ..wiring import NodeFunction
from ..wiring.generators import expander
from .classifier import Classifier
from .layers import conv, linear
from .mobilenet import layers_of
from .tiny import GlobalPool


def mobilenet_expander(*, divisor: int = 4, width: float = 0.5, biregular: bool = False, image_size: int = 224,
                       num_classes: int = 1000, in_channels: int = 3, backend: str = "auto",
                       seed: int | torch.Generator = 0) -> Classifier:
    """X-MobileNet: MobileNetV1 in which every node has 1 / g of the edges that it could have.

    Its pointwise layers are those of :func:`neuralgraph.wirings.expander`, of degree c / g for a layer of c outputs,
    drawn once and kept; stem, first pointwise layer and classifier are complete ("Deep Expander Networks", Prabhu,
    Varma, Namboodiri, ECCV 2018). Norms and ReLU6 stand where :func:`mobilenet_v1` has norms and ReLU. The paper's
    multiply-adds, 85.8, 53.7, 37.6 and 29.5 million for g = 2, 4, 8 and 16, count a classifier of 1,024 inputs
    beside layers of half the width; this one has 512.

    Args:
        divisor: g, which must divide the channels of every layer; the paper has 2, 4, 8 and 16.
        width: the multiplier of all channels, above 0; the paper's is 0.5.
        biregular: see :func:`neuralgraph.wirings.expander`.
        image_size: side of the images in pixels, at least 16.
        num_classes, in_channels, backend, seed: as for :func:`mobilenet_dnw`.

    >>> import neuralgraph as ng
    >>> ng.models.create("mobilenet-expander", divisor=16, image_size=32, num_classes=10).num_real_edges
    49536
    """
    sizes, strides = layers_of(width, image_size)
    number = whole(divisor)
    if number is None or number < 1 or any(size % number for size in sizes[2:]):
        raise InputError(f"divisor must be a positive integer that divides the channels of all layers, {sizes[2:]}, "
                         f"got {divisor!r}.")
    generator, pair = as_generator(seed), "norm activation"
    sent = [f"{pair} conv {pair}"] + [f"conv {pair}"] * (len(strides) - 1)  # the stem has no norm of its own
    received = [""] + [pair] * (len(strides) - 1)
    functions = [NodeFunction(s, r, stride=stride, activation="relu6")
                 for s, r, stride in zip(sent, received, strides)]
    degrees = [sizes[1], *(size // divisor for size in sizes[2:])]
    wiring = expander(sizes, degrees, seed=generator, biregular=biregular,
                      function=[*functions, NodeFunction(receive=pair, activation="relu6")])
    network = StaticNeuralGraph(wiring, selectors.Complete(), backend, generator)
    stem = conv(in_channels, sizes[0], 3, stride=1 if image_size <= 64 else 2, bias=False, generator=generator)
    head = nn.Sequential(GlobalPool(), linear(sizes[-1], num_classes, generator=generator))
    return Classifier(stem, [network], head, in_channels=in_channels, image_size=image_size)
