"""The paper's small classifiers (section 3.2, Table 1): 32,000 edges, about 41,000 weights."""

from __future__ import annotations

import torch
from torch import nn

from .. import selectors
from ..errors import InputError, lookup
from ..networks import ContinuousTimeNeuralGraph, DiscreteTimeNeuralGraph, NeuralGraph, StaticNeuralGraph
from ..networks.network import as_generator
from ..selectors import Selector
from ..wiring import NodeFunction
from ..wiring.generators import blocks, complete
from .classifier import Classifier
from .layers import conv, linear

BLOCKS = (32, 192, 192, 192, 192, 100)
NODES, INPUTS, OUTPUTS = 800, 32, 100
EDGES = 32_000


def stem(in_channels: int, image_size: int, generator: torch.Generator,
         channels: int = INPUTS) -> nn.Sequential:
    """conv 3x3 to c/2, norm, ReLU, depthwise 3x3, conv 1x1 to c, norm; c = 32.

    The two 3x3 convolutions have stride 2 as in the authors' code, where images are 32 pixels wide
    and the graph sees 8x8. Smaller images keep their resolution: the second stride is 1 below 32
    pixels, both are 1 below 16.
    """
    first, second = (2 if image_size >= 16 else 1), (2 if image_size >= 32 else 1)
    half = channels // 2
    return nn.Sequential(
        conv(in_channels, half, 3, stride=first, generator=generator), nn.BatchNorm2d(half), nn.ReLU(),
        conv(half, half, 3, stride=second, groups=half, generator=generator),
        conv(half, channels, 1, generator=generator), nn.BatchNorm2d(channels))


class CentrePool(nn.Module):
    """The mean of rows and columns n/2 - 2 and n/2 - 1 of an n x n map.

    What the authors' 2x2 average pool of a centre crop computes: one pixel up and left of the centre.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top, left = x.shape[2] // 2 - 2, x.shape[3] // 2 - 2
        if min(top, left) < 0:
            raise InputError(f"the window of pool='authors' needs a map of at least 4x4, got "
                             f"{tuple(x.shape[2:])}; use pool='global'.")
        return x[:, :, top:top + 2, left:left + 2].mean((2, 3))


class GlobalPool(nn.Module):
    """The mean of the whole map."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


POOLS = {"authors": CentrePool, "global": GlobalPool}


def tiny_static(*, num_classes: int = 10, in_channels: int = 3, image_size: int = 32,
                selector: str = "dnw", k: int | None = None, selector_options: dict | None = None,
                pool: str = "authors", backend: str = "auto",
                seed: int | torch.Generator = 0) -> Classifier:
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
        k: number of real edges; by default 32,000 where the selector needs k.
        selector_options: further arguments of the selector.
        pool: "authors" (a 2x2 window near the centre) or "global".
        backend: see :func:`neuralgraph.backends.create`.
        seed: of everything that is drawn.

    >>> import neuralgraph as ng
    >>> model = ng.models.create("tiny-static")
    >>> sum(p.numel() for p in model.parameters()) - 325760 + 32000      # with k instead of all edges
    43058
    """
    generator = as_generator(seed)
    function = NodeFunction("norm activation conv", norm="instance")
    network = StaticNeuralGraph(blocks(BLOCKS, function), make_selector(selector, k, selector_options),
                                backend, generator)
    return classifier(network, num_classes, in_channels, image_size, pool, generator)


def tiny_discrete(*, num_classes: int = 10, in_channels: int = 3, image_size: int = 32,
                  selector: str = "dnw", k: int | None = None, selector_options: dict | None = None,
                  steps: int = 5, tied: bool = True, pool: str = "authors", backend: str = "auto",
                  seed: int | torch.Generator = 0) -> Classifier:
    """The discrete-time classifier of Table 1: 800 nodes, any of 640,000 edges, 5 steps.

    Each node sends its ReLU and 3x3 convolution and receives through an instance norm, as in the
    authors' code. 32 nodes are inputs and 100 outputs.

    Args:
        steps: L.
        tied: whether all steps share kernels and norms. All others as for :func:`tiny_static`.

    >>> import neuralgraph as ng
    >>> model = ng.models.create("tiny-discrete")
    >>> sum(p.numel() for p in model.parameters()) - 640000 + 32000
    43058
    """
    generator = as_generator(seed)
    network = DiscreteTimeNeuralGraph(
        complete(NODES, inputs=INPUTS, outputs=OUTPUTS),
        make_selector(selector, k, selector_options), backend, generator, steps=steps, tied=tied)
    return classifier(network, num_classes, in_channels, image_size, pool, generator)


def tiny_continuous(*, num_classes: int = 10, in_channels: int = 3, image_size: int = 32,
                    selector: str = "dnw", k: int | None = None, selector_options: dict | None = None,
                    solver: str = "dopri5", rtol: float = 1e-3, atol: float = 1e-3,
                    time: float = 1.0, adjoint: bool = False, max_evaluations: int = 1000,
                    solver_options: dict | None = None, pool: str = "authors", backend: str = "auto",
                    seed: int | torch.Generator = 0) -> Classifier:
    """The continuous-time classifier of Table 1: as :func:`tiny_discrete`, integrated from 0 to
    ``time``.

    Args:
        solver: of torchdiffeq; with ``rtol``, ``atol``, ``time``, ``adjoint``, ``max_evaluations`` and
            (there ``options``) ``solver_options`` as for :class:`neuralgraph.ContinuousTimeNeuralGraph`.
            All others as for :func:`tiny_static`.
    """
    generator = as_generator(seed)
    network = ContinuousTimeNeuralGraph(
        complete(NODES, inputs=INPUTS, outputs=OUTPUTS),
        make_selector(selector, k, selector_options), backend, generator, solver=solver, rtol=rtol,
        atol=atol, time=time, adjoint=adjoint, max_evaluations=max_evaluations, options=solver_options)
    return classifier(network, num_classes, in_channels, image_size, pool, generator)


def make_selector(name: str, k: int | None, options: dict | None, default: int = EDGES) -> Selector:
    """The selector with k edges, by default as many as the paper's model has."""
    if not isinstance(options, (dict, type(None))):
        raise InputError(f"selector_options must be a dict of the selector's arguments, got {options!r}.")
    by_threshold = "tau" in selectors.options_of(name) and (options or {}).get("tau") is not None
    if k is None and (selectors.k_is(name) == "needed" or "tau" in selectors.options_of(name)) and not by_threshold:
        k = default
    return selectors.create(name, k, **(options or {}))


def classifier(network: NeuralGraph, num_classes: int, in_channels: int, image_size: int, pool: str,
               generator: torch.Generator) -> Classifier:
    """Stem, one network, pool and a fully connected layer."""
    head = nn.Sequential(lookup("pool", pool, POOLS)(),
                         linear(len(network.wiring.outputs), num_classes, generator=generator))
    return Classifier(stem(in_channels, image_size, generator, len(network.wiring.inputs)), [network],
                      head, in_channels=in_channels, image_size=image_size)
