"""The paper's small classifiers (section 3.2, Table 1): 900 nodes, 32,000 edges, about 41,000 weights."""

from __future__ import annotations

import torch
from torch import nn

from .. import selectors
from ..errors import InputError, lookup
from ..networks import StaticNeuralGraph
from ..networks.network import as_generator
from ..wiring import NodeFunction
from ..wiring.generators import blocks
from .classifier import Classifier
from .layers import conv, linear

BLOCKS = (32, 192, 192, 192, 192, 100)


def stem(in_channels: int, image_size: int, generator: torch.Generator) -> nn.Sequential:
    """conv 3x3 to 16, norm, ReLU, depthwise 3x3, conv 1x1 to 32, norm.

    The two 3x3 convolutions have stride 2 as in the authors' code, where images are 32 pixels wide
    and the graph sees 8x8. Smaller images keep their resolution: the second stride is 1 below 32
    pixels, both are 1 below 16.
    """
    first, second = (2 if image_size >= 16 else 1), (2 if image_size >= 32 else 1)
    return nn.Sequential(
        conv(in_channels, 16, 3, stride=first, generator=generator), nn.BatchNorm2d(16), nn.ReLU(),
        conv(16, 16, 3, stride=second, groups=16, generator=generator),
        conv(16, 32, 1, generator=generator), nn.BatchNorm2d(32))


class CentrePool(nn.Module):
    """The mean of rows and columns n/2 - 2 and n/2 - 1 of an n x n map.

    What the authors' 2x2 average pool of a centre crop computes: one pixel up and left of the centre.
    """

    def forward(self, x):
        top, left = x.shape[2] // 2 - 2, x.shape[3] // 2 - 2
        if min(top, left) < 0:
            raise InputError(f"the window of pool='authors' needs a map of at least 4x4, got "
                             f"{tuple(x.shape[2:])}; use pool='global'.")
        return x[:, :, top:top + 2, left:left + 2].mean((2, 3))


class GlobalPool(nn.Module):
    """The mean of the whole map."""

    def forward(self, x):
        return x.mean((2, 3))


POOLS = {"authors": CentrePool, "global": GlobalPool}


def tiny_static(*, num_classes: int = 10, in_channels: int = 3, image_size: int = 32,
                selector: str = "dnw", k: int | None = 32_000, pool: str = "authors",
                backend: str = "auto", seed: int | torch.Generator = 0) -> Classifier:
    """The static classifier of Table 1: blocks of 32, 192, 192, 192, 192 and 100 nodes.

    Each of the first 800 nodes is instance norm, ReLU, 3x3 convolution; the 100 output nodes are a
    block of their own. (In the authors' code the outputs double as nodes of the last block and the
    top k are taken over 640,000 positions of which 264,960 can carry a signal; here all k edges of
    the 325,760 candidates do.)

    Args:
        num_classes: of the classifier.
        in_channels: of the images.
        image_size: their side in pixels.
        selector: a key of :data:`neuralgraph.selectors.SELECTORS`.
        k: number of real edges; None for the selector "complete".
        pool: "authors" (a 2x2 window near the centre) or "global".
        backend: see :func:`neuralgraph.backends.create`.
        seed: of everything that is drawn.

    >>> import neuralgraph as ng
    >>> model = ng.models.create("tiny-static")
    >>> sum(p.numel() for p in model.parameters()) - 325760 + 32000      # with k instead of all edges
    43058
    """
    generator = as_generator(seed)
    pool = lookup("pool", pool, POOLS)()
    function = NodeFunction("norm activation conv", norm="instance")
    network = StaticNeuralGraph(blocks(BLOCKS, function), selectors.create(selector, k), backend,
                                generator)
    head = nn.Sequential(pool, linear(BLOCKS[-1], num_classes, generator=generator))
    return Classifier(stem(in_channels, image_size, generator), [network], head,
                      in_channels=in_channels, image_size=image_size)
