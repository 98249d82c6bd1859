"""From a trained model to a compiled one."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import InputError
from ..models import Classifier
from ..networks import NeuralGraph
from .engine import CompiledNetwork
from .plan import Plan, plan


class CompiledModel(nn.Module):
    """stem -> compiled networks -> head, for inference.

    Args:
        stem, head: ordinary layers.
        networks: each takes the outputs of the one before.
        in_channels: of the images.
        image_size: side of the images the model was made for, in pixels; others work too.
    """

    def __init__(self, stem: nn.Module, networks: list[CompiledNetwork], head: nn.Module, *,
                 in_channels: int, image_size: int):
        super().__init__()
        self.stem, self.networks, self.head = stem, nn.ModuleList(networks), head
        self.in_channels, self.image_size = in_channels, image_size
        self._between: dict[tuple, list[torch.Tensor]] = {}  # maps between networks, to be used again
        self.eval()

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.dim() != 4 or images.shape[1] != self.in_channels or not images.is_floating_point():
            raise InputError(
                f"expected floating-point images (batch, {self.in_channels}, height, width), got "
                f"{images.dtype} of shape {tuple(images.shape)}."
            )
        x, lent = self.stem(images), []
        for network in self.networks[:-1]:
            lent.append(self._lend(network.output_shape(x), x.dtype))
            x = network.into(x, lent[-1])
        y = self.head(self.networks[-1](x))
        for maps in lent:
            self._between[tuple(maps.shape)].append(maps)
        return y

    def _lend(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        free = self._between.setdefault(shape, [])
        return free.pop() if free else torch.empty(shape, dtype=dtype)

    def __getstate__(self):
        return {**self.__dict__, "_between": {}}

    def train(self, mode: bool = True) -> CompiledModel:
        if mode:
            raise InputError("a compiled model cannot be trained; train the model it was compiled from.")
        return super().train(mode)

    def save(self, path) -> None:
        """Writes a file that :func:`neuralgraph.inference.load` reads."""
        from .files import save
        save(self, path)


def compile(model: nn.Module) -> nn.Module:
    """A fast copy for inference on the CPU of a trained network, classifier or module that has them.

    Outputs are those of ``model.eval()`` to rounding, for any batch and image size. Nodes that no output
    depends on are left out, across the graphs of a classifier too; what does not depend on the data is
    computed once for each image size; norms with running statistics become a scale and a shift; and
    the sum over a node's parents and all that follows it run in one pass, sample by sample, so that
    maps stay in the cache. The model itself is left alone.

    Args:
        model: a :class:`~neuralgraph.StaticNeuralGraph`, a :class:`~neuralgraph.DiscreteTimeNeuralGraph`
            with a number of steps, a classifier of :mod:`neuralgraph.models`, or any module that
            contains such networks.

    Returns:
        A :class:`CompiledNetwork`, a :class:`CompiledModel`, or a copy of the module.

    Raises:
        InputError: if there is no network, or one whose number of updates is not fixed.

    >>> import torch
    >>> import neuralgraph as ng
    >>> net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 8, 8, 2]), ng.TopK(k=40)).eval()
    >>> fast, x = ng.compile(net), torch.randn(5, 3, 16, 16)
    >>> with torch.no_grad():
    ...     torch.allclose(fast(x), net(x), atol=1e-5)
    True
    """
    if isinstance(model, NeuralGraph):
        return CompiledNetwork(plan(model)).eval()
    if isinstance(model, Classifier):
        return _compile_classifier(model)
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a network or a module, got {type(model).__name__}.")
    copied = _copy(model)
    if copied is None:
        raise InputError(f"there is no neural graph in this {type(model).__name__}: nothing to compile.")
    return copied


def _compile_classifier(model: Classifier) -> CompiledModel:
    plans: list[Plan] = []
    needed = None
    for network in reversed(model.stages):
        plans.insert(0, plan(network, needed))
        needed = np.zeros(plans[0].num_inputs, bool)
        for group in plans[0].groups:
            if group.channels is not None:
                needed[group.channels] = True
    head = _copy(model.head)
    head = copy.deepcopy(model.head).eval() if head is None else head
    stem = copy.deepcopy(model.stem).eval()
    return CompiledModel(_fused(stem), [CompiledNetwork(p) for p in plans], _fused(head),
                         in_channels=model.in_channels, image_size=model.image_size)


def _copy(model: nn.Module) -> nn.Module | None:
    """A copy for inference with each neural graph compiled, or None if there is none."""
    found = {name: network for name, network in model.named_modules() if isinstance(network, NeuralGraph)}
    if not found:
        return None
    # networks are replaced, so they need not be copied
    memo = {id(network): CompiledNetwork(plan(network)) for network in found.values()}
    return copy.deepcopy(model, memo).eval()


def _fused(layers: nn.Module) -> nn.Module:
    """A sequence with batch norms folded into the convolutions before them."""
    if not isinstance(layers, nn.Sequential):
        return layers
    fused: list[tuple[str, nn.Module]] = []
    for name, layer in layers.named_children():
        if isinstance(layer, nn.BatchNorm2d) and fused and isinstance(fused[-1][1], nn.Conv2d):
            fused[-1] = fused[-1][0], fuse_conv_bn_eval(fused[-1][1], layer)
        else:
            fused.append((name, layer))
    sequence = nn.Sequential()
    for name, layer in fused:
        sequence.add_module(name, layer)
    return sequence.eval()
