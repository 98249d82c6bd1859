"""MobileNetV1 with discovered wirings (section 3.3), and the hand-made one it is compared with."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .. import selectors
from ..errors import InputError, whole
from ..networks import StaticNeuralGraph
from ..networks.network import as_generator
from ..wiring import NodeFunction
from ..wiring.generators import blocks, chain
from .classifier import Classifier
from .layers import conv, linear
from .tiny import GlobalPool, make_selector


@dataclass(frozen=True)
class MobileNetStage:
    """One graph of MobileNetV1-DNW, at one resolution (the paper's Table 5).

    Args:
        inputs: nodes of the first block.
        outputs: nodes of each later block.
        later_blocks: how many of those, the last of which holds the output nodes.
        stride: of the input nodes.
    """

    inputs: int
    outputs: int
    later_blocks: int
    stride: int

    @property
    def sizes(self) -> list[int]:
        return [self.inputs] + [self.outputs] * self.later_blocks

    def budget(self, width: float) -> int:
        """k = ceil(d^2 (in out + (b - 1) out^2)): the 1x1 weights of MobileNetV1 x d, unrounded.

        >>> [stage.budget(0.225) for stage in STAGES]
        [104, 1245, 4977, 72991, 79627]
        """
        full = self.inputs * self.outputs + (self.later_blocks - 1) * self.outputs**2
        return math.ceil(width**2 * full - 1e-9)


STAGES = tuple(MobileNetStage(*stage) for stage in (
    (32, 64, 1, 1), (64, 128, 2, 2), (128, 256, 2, 2), (256, 512, 6, 2), (512, 1024, 2, 2)))
NODE = NodeFunction("norm activation conv")


def __getattr__(name: str) -> Any:
    if name == "Stage":
        warnings.warn("neuralgraph.models.mobilenet.Stage is now called MobileNetStage", DeprecationWarning, stacklevel=2)
        return MobileNetStage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def mobilenet_dnw(*, width: float | None = None, image_size: int = 224, num_classes: int = 1000,
                  in_channels: int = 3, selector: str = "dnw", selector_options: dict | None = None,
                  small: bool = False, nodes: int = 1, head_edges: int | None = None,
                  backend: str = "auto", seed: int | torch.Generator = 0,
                  stages: tuple[MobileNetStage, ...] = STAGES) -> Classifier:
    """MobileNetV1-DNW: a stem, one static graph per resolution, batch norm, ReLU, pool, classifier.

    Within a resolution any node may feed any node of a later block; k per graph is the number of
    1x1 weights that MobileNetV1 of this width has there. Nodes are batch norm, ReLU, 3x3 convolution
    ("Discovering Neural Wirings", section 2.4 and Table 5). The stem has stride 1 up to 64 pixels.

    Args:
        width: d, the width multiplier of the MobileNetV1 whose number of edges is kept; by default
            0.225 where the selector needs k. Not with selectors that take none.
        image_size: side of the images in pixels, at least 16.
        num_classes: of the classifier.
        in_channels: of the images.
        selector: a key of :data:`neuralgraph.selectors.SELECTORS`.
        selector_options: further arguments of the selector. With ``per="node"`` or ``per="group"`` all nodes of a
            graph have as many in-edges: k is then the nearest number that is so divided.
        small: the classifier too is a set of edges of which only MobileNetV1's number is real
            (MobileNetV1-DNW-Small): n - floor((1 - d) n) with n = 1024 classes, whatever ``nodes``
            is, without bias.
        nodes: multiplies all numbers of nodes; 2 with width 1 and ``small`` is the wide network of the
            authors' response, twice the nodes and the edges of MobileNetV1 x 1.
        head_edges: number of real edges of a sparse classifier instead of the rule of ``small``.
        backend: see :func:`neuralgraph.backends.create`.
        seed: of everything that is drawn.
        stages: the graphs; by default the paper's five.

    >>> import neuralgraph as ng
    >>> model = ng.models.create("mobilenet-dnw", width=0.225, image_size=32, num_classes=10)
    >>> model.num_real_edges
    158944
    """
    if image_size < 16:
        raise InputError(f"image_size must be at least 16 pixels, got {image_size}.")
    number = whole(nodes)
    if number is None or number < 1:
        raise InputError(f"nodes must be a positive integer, got {nodes!r}.")
    nodes = number
    k_is = selectors.k_is(selector)
    if k_is == "found" and (width is not None or head_edges is not None):
        raise InputError(f"the selector {selector!r} takes no number of edges, so it takes no width and no "
                         "head_edges; leave them out.")
    if not stages:
        raise InputError("stages must be at least one stage, got none.")
    counts = k_is == "needed" or width is not None
    width = 0.225 if width is None else _checked_width(width)
    if not 0 < width <= nodes:
        raise InputError(f"width must be above 0 and at most {nodes}, got {width!r}; for more edges "
                         "give more nodes.")
    generator = as_generator(seed)

    def choose(k, targets):
        per = selector_options.get("per") if isinstance(selector_options, dict) else None
        if k is not None and per in ("node", "group"):
            k = max(1, round(k / targets)) * targets
        return make_selector(selector, k, selector_options)

    networks = [StaticNeuralGraph(blocks([nodes * n for n in stage.sizes], NODE,
                                         input_stride=stage.stride),
                                  choose(stage.budget(width) if counts else None, nodes * sum(stage.sizes[1:])),
                                  backend, generator)
                for stage in stages]
    features = nodes * stages[-1].outputs
    head = OrderedDict(norm=nn.BatchNorm2d(features), relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1))
    if small or head_edges is not None:
        full = stages[-1].outputs * num_classes
        k = full - math.floor((1 - width) * full + 1e-9) if counts else None
        k = k if head_edges is None else head_edges
        head["edges"] = StaticNeuralGraph(chain([features, num_classes], NodeFunction()), choose(k, num_classes),
                                          backend, generator)
        head["flatten"] = nn.Flatten()
    else:
        head["flatten"] = nn.Flatten()
        head["linear"] = linear(features, num_classes, generator=generator)
    stem = conv(in_channels, nodes * stages[0].inputs, 3, stride=1 if image_size <= 64 else 2,
                bias=False, generator=generator)
    return Classifier(stem, networks, nn.Sequential(head), in_channels=in_channels,
                      image_size=image_size)


def mobilenet_dnw_small(**options: Any) -> Classifier:
    """MobileNetV1-DNW-Small: :func:`mobilenet_dnw` with ``small=True``."""
    return mobilenet_dnw(small=True, **options)


def mobilenet_v1(*, width: float = 1.0, image_size: int = 224, num_classes: int = 1000,
                 in_channels: int = 3, backend: str = "auto",
                 seed: int | torch.Generator = 0) -> Classifier:
    """MobileNetV1 (Howard et al., 2017), the hand-made baseline, as a wiring: a chain of blocks.

    A node receives batch norm and ReLU of its sum (the pointwise convolution's) and sends ReLU of
    batch norm of its 3x3 convolution; every edge between neighbouring blocks is real. Widths are
    int(d c); the stem has stride 1 up to 64 pixels.

    Args:
        width: the multiplier d, above 0.
        image_size: side of the images in pixels, at least 16.
        num_classes, in_channels, backend, seed: as for :func:`mobilenet_dnw`.

    >>> import neuralgraph as ng
    >>> model = ng.models.create("mobilenet-v1", width=0.25, image_size=32, num_classes=10)
    >>> sum(p.numel() for p in model.parameters() if p.dim() > 1) + model.num_real_edges
    210160
    """
    sizes, strides = layers_of(width, image_size)
    generator, pair = as_generator(seed), "norm activation"
    receive = [""] + [pair] * (len(strides) - 1)  # the stem's own norm and ReLU serve the inputs
    functions = [NodeFunction(f"conv {pair}", r, stride=s) for r, s in zip(receive, strides)]
    wiring = chain(sizes, [*functions, NodeFunction(receive=pair)])
    network = StaticNeuralGraph(wiring, selectors.Complete(), backend, generator)
    stem = nn.Sequential(
        conv(in_channels, sizes[0], 3, stride=1 if image_size <= 64 else 2, bias=False,
             generator=generator), nn.BatchNorm2d(sizes[0]), nn.ReLU())
    head = nn.Sequential(GlobalPool(), linear(sizes[-1], num_classes, generator=generator))
    return Classifier(stem, [network], head, in_channels=in_channels, image_size=image_size)


def layers_of(width: float, image_size: int) -> tuple[list[int], list[int]]:
    """The channels of the stem and of each pointwise layer of MobileNetV1, and the stride before each of these."""
    if image_size < 16:
        raise InputError(f"image_size must be at least 16 pixels, got {image_size}.")
    if not _checked_width(width) > 0 or int(32 * width) < 1:
        raise InputError(f"width must leave at least one channel, so at least 1/32, got {width!r}.")
    sizes, strides = [int(32 * width)], []
    for stage in STAGES:
        sizes += [int(stage.outputs * width)] * stage.later_blocks
        strides += [stage.stride] + [1] * (stage.later_blocks - 1)
    return sizes, strides


def _checked_width(width: float) -> float:
    if isinstance(width, bool) or not isinstance(width, (int, float)):
        raise InputError(f"width must be a number, got {width!r}.")
    return width
