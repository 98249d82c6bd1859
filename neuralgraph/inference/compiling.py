"""From a trained model to a compiled one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard, overload

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .. import kernels
from ..errors import InputError
from ..layers import Sparse, densify
from ..models import Classifier, Preprocessing
from ..models.tiny import GlobalPool
from ..networks import NeuralGraph
from ..nodes import Affine, Lowered, Pointwise, array
from ..plan import Plan, is_plain, lower, lower_all, refuse_special, simplified, special
from ..sharing import plain
from .ends import ends_of
from .engine import CompiledNetwork
from .inputs import check_numbers, check_stays
from .layers import CompiledLayers

if kernels.AVAILABLE:
    from ..kernels.launch import Crowds


class CompiledModel(nn.Module):
    """stem -> compiled network -> head, for inference.

    Args:
        stem, head: ordinary layers. A stem that is one convolution with borders of half its side, and the mean over maps
            that a head begins with, are computed together with the network.
        network: of the graphs between them.
        in_channels: of the images.
        image_size: side of the images the model was made for, in pixels; others work too.
        preprocessing: how the model was trained to take images, and the names of its classes, if it is known.
    """

    def __init__(self, stem: nn.Module, network: CompiledNetwork, head: nn.Module, *,
                 in_channels: int, image_size: int, preprocessing: Preprocessing | None = None):
        super().__init__()
        self.stem, self.network, self.head = stem, network, head
        self.in_channels, self.image_size, self.preprocessing = in_channels, image_size, preprocessing
        self._crowds = Crowds()
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        dtype = self.network.plans[0].dtype
        if not isinstance(images, torch.Tensor) or images.dim() != 4 or images.shape[1] != self.in_channels or \
                images.dtype != dtype or images.device.type != "cpu":
            got = f"{images.dtype} of shape {tuple(images.shape)} on {images.device}" \
                if isinstance(images, torch.Tensor) else type(images).__name__
            raise InputError(f"expected {dtype} images (batch, {self.in_channels}, height, width) on the CPU, got "
                             f"{got}.")
        if 0 in images.shape[2:]:
            raise InputError(f"expected images with pixels, got them of shape {tuple(images.shape)}.")
        if torch.is_grad_enabled() and images.requires_grad:
            raise InputError("a compiled model has no gradients: use torch.no_grad(), or the model it was compiled from.")
        ends = ends_of(self.stem, self.head)
        if ends.stem is None:
            check_numbers(images)
        with torch.no_grad(), self._crowds.run((images.shape, torch.get_num_threads())):
            result = self.network._computed(images if ends.stem is not None else self.stem(images), ends)
            if not ends.pooled:
                return self.head(result)
            assert isinstance(self.head, nn.Sequential)  # see ends_of
            for layer in list(self.head)[1:]:
                result = layer(result)
            return result

    def _apply(self, fn, recurse=True):
        check_stays(self, fn, self.network.plans[0].dtype)
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> CompiledModel:
        if mode:
            raise InputError("a compiled model cannot be trained; train the model it was compiled from.")
        return super().train(mode)

    def save(self, path: str | Path) -> None:
        """Writes a file that :func:`neuralgraph.inference.load` reads."""
        from .files import save
        save(self, path)


@overload
def compile(model: NeuralGraph, example: None = None, *, storage: torch.dtype | None = None) -> CompiledNetwork: ...


@overload
def compile(model: Classifier, example: None = None, *, storage: torch.dtype | None = None) -> CompiledModel: ...


@overload
def compile(model: nn.Module, example: torch.Tensor | tuple[torch.Tensor, ...]) -> CompiledLayers: ...


@overload
def compile(model: nn.Module, example: None = None, *, storage: torch.dtype | None = None) -> nn.Module: ...


def compile(model: nn.Module, example: torch.Tensor | tuple[torch.Tensor, ...] | None = None, *,
            storage: torch.dtype | None = None) -> nn.Module:
    """A fast copy for inference on the CPU of a trained network, or of a model with sparse layers.

    Outputs are those of ``model.eval()`` to rounding, for any batch and image size. Nodes that no output
    depends on are left out, across the graphs of a classifier too; what does not depend on the data is
    computed once for each image size; norms with running statistics become a scale and a shift; and
    the sum over a node's parents and all that follows it run in one pass, sample by sample, so that
    maps stay in the cache. Maps are taken to be finite: an infinite one may reach nodes that have no edge
    from it. The model itself is left alone.

    An ordinary model, whose weights :func:`~neuralgraph.sparsify` or any pruning tool made 0, is captured by
    :mod:`torch.export` on an example. Each of its convolutions (of one and two dimensions) and linear layers that has
    few weights left is then computed edge by edge, with the norm, the sum and the activation that follow it; dense
    layers and everything else stay with torch. See :class:`CompiledLayers`.

    Args:
        model: a :class:`~neuralgraph.StaticNeuralGraph`, a :class:`~neuralgraph.DiscreteTimeNeuralGraph`
            with a number of steps, a classifier of :mod:`neuralgraph.models`, any module that
            contains such networks, or an ordinary model.
        example: of an ordinary model, its argument or arguments: tensors of which the first dimension is the batch.
            Other numbers of samples and other sizes work too.
        storage: ``torch.float16`` or ``torch.bfloat16`` to keep the maps that nodes send to others in 16 bits, of networks of
            float32: half the memory to read, for an error. Every number m of such a map becomes the nearest of 16 bits,
            m (1 + e), where abs(e) is at most 2^-11 (float16, from 6.1e-5 to 65504; a smaller m gets an error of at most 3e-8,
            a larger one is refused when it comes) or 2^-8 (bfloat16, as large as float32); sums, functions, convolutions and
            outputs are float32. None: maps are kept as they are computed.

    Returns:
        A :class:`CompiledNetwork`, a :class:`CompiledModel`, a copy of the module, or :class:`CompiledLayers`.

    Raises:
        InputError: for another storage, or one for an ordinary model; for a network whose number of updates is not fixed;
            for networks with hooks or changed methods, and for nodes that cannot be lowered or have a function without a
            formula: these are named. For an ordinary model without an example, of other numbers than float32 and float64,
            or one that torch.export cannot capture, whose tensors have sizes that depend on numbers, that changes its input
            or buffers, draws random numbers or does not repeat; within ``torch.autocast``.

    >>> import torch
    >>> import neuralgraph as ng
    >>> net = ng.StaticNeuralGraph(ng.wirings.blocks([3, 8, 8, 2]), ng.TopK(k=40)).eval()
    >>> fast, x = ng.compile(net), torch.randn(5, 3, 16, 16)
    >>> with torch.no_grad():
    ...     torch.allclose(fast(x), net(x), atol=1e-5)
    True

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3))
    >>> model = ng.sparsify(model, density=0.1)
    >>> ng.compile(model, example=torch.randn(1, 3, 32, 32))
    CompiledLayers(Sequential: 2 layers by their 1786 edges, 0 dense layers and 0 other operations by torch)
    """
    if isinstance(model, nn.Module) and example is not None:
        if storage is not None:
            raise InputError("maps of 16 bits are for networks that are graphs: compile an ordinary model without storage.")
        return _compile_layers(model, example)
    model = plain(model)
    if isinstance(model, NeuralGraph):
        return CompiledNetwork(lower(model), storage=storage).eval()
    if isinstance(model, Classifier):
        refuse_special(model, "the classifier", (Classifier,), inner=False)
        return _compile_classifier(model, storage)
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a network or a module, got {type(model).__name__}.")
    copied = _copy(model, storage)
    if copied is None:
        raise InputError(f"there is no neural graph in this {type(model).__name__}: to compile its sparse layers, give an "
                         "example of its input: ng.compile(model, example).")
    return copied


def _compile_layers(model: nn.Module, example: torch.Tensor | tuple[torch.Tensor, ...]) -> CompiledLayers:
    if any(isinstance(part, NeuralGraph) for part in model.modules()):
        raise InputError(f"there is a neural graph in this {type(model).__name__}: it is compiled for any input, and without "
                         "an example: ng.compile(model).")
    if any(isinstance(part, Sparse) for part in model.modules()):
        model = densify(model)
    return CompiledLayers(model, (example,) if isinstance(example, torch.Tensor) else tuple(example))


def _compile_classifier(model: Classifier, storage: torch.dtype | None) -> CompiledModel:
    if not model.stages:
        raise InputError("this classifier has ordinary layers only, no neural graph: to compile "
                         "its sparse layers, give an example of its input: ng.compile(model, example).")
    plans = lower_all(model.stages)
    head = _copy(model.head, storage)
    head = copy.deepcopy(model.head).eval() if head is None else head
    stem = _fused(copy.deepcopy(model.stem).eval())
    stem, plans[0] = _without_unread(stem, plans[0])
    plans[-1], head = _taking_over(plans[-1], _fused(head))
    return CompiledModel(stem, CompiledNetwork(*plans, storage=storage), head, in_channels=model.in_channels,
                         image_size=model.image_size, preprocessing=model.preprocessing)


def _without_unread(stem: nn.Module, first: Plan) -> tuple[nn.Module, Plan]:
    """The stem without the filters that nothing reads, and the plan with its channels renumbered."""
    old: nn.Module = stem[-1] if _is_sequence(stem) and len(stem) > 0 else stem
    kept = sorted(first.read) or [0]
    if not is_plain(old, nn.Conv2d) or old.groups != 1 or len(kept) == old.out_channels:
        return stem, first
    settings: dict[str, Any] = {name: getattr(old, name) for name in (
        "kernel_size", "stride", "padding", "dilation", "padding_mode")}
    new = nn.Conv2d(old.in_channels, len(kept), bias=old.bias is not None, dtype=old.weight.dtype, **settings)
    new.load_state_dict({name: value[kept] for name, value in old.state_dict().items()})
    new = new.requires_grad_(False).eval()
    groups = [group if group.channels is None else
              replace(group, channels=np.searchsorted(kept, group.channels)) for group in first.groups]
    stem = new if old is stem else _sequence({**stem._modules, list(stem._modules)[-1]: new})
    return stem, replace(first, num_inputs=len(kept), groups=groups)


def _taking_over(last: Plan, head: nn.Module) -> tuple[Plan, nn.Module]:
    """The plan with the norm and ReLU that the head begins with, and the rest of the head."""
    if not _is_sequence(head) or last.dims != 2:
        return last, head
    layers = dict(head._modules)
    steps: list[Lowered] = []
    norm = next(iter(layers.values()), None)
    if _has_fixed_norm(norm):
        assert norm.running_mean is not None and norm.running_var is not None
        layers.pop(next(iter(layers)))
        scale = 1 / (norm.running_var + norm.eps).sqrt()
        shift = -norm.running_mean * scale
        if norm.affine:
            scale, shift = norm.weight * scale, norm.bias + norm.weight * shift
        steps.append(Affine(array(scale), array(shift)))
    if layers and is_plain(next(iter(layers.values())), nn.ReLU):
        layers.pop(next(iter(layers)))
        steps.append(Pointwise("relu", np.zeros((last.num_outputs, 0), np.float32)))
    if not steps:
        return last, head
    names, found = list(layers)[:2], list(layers.values())[:2]
    if len(found) == 2 and is_plain(found[0], nn.AdaptiveAvgPool2d) and is_plain(found[1], nn.Flatten) \
            and found[0].output_size in (1, (1, 1)) and found[1].start_dim == 1 \
            and found[1].end_dim in (-1, 3):
        layers[names[0]] = GlobalPool()
        del layers[names[1]]
    groups = [group if group.outputs is None else
              replace(group, steps=simplified([*group.steps, *(step.of(group.outputs) for step in steps)]))
              for group in last.groups]
    return replace(last, groups=groups), _sequence(layers)


def _is_sequence(layers: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether it does no more than one layer after the other."""
    return type(layers) is nn.Sequential and special(layers, inner=False) is None


def _has_fixed_norm(layer: nn.Module | None) -> TypeGuard[nn.BatchNorm2d]:
    return is_plain(layer, nn.BatchNorm2d) and layer.running_var is not None


def _sequence(layers: Mapping[str, nn.Module | None]) -> nn.Sequential:
    """Layers by name, one after the other; one may be there twice."""
    sequence = nn.Sequential()
    for name, layer in layers.items():
        sequence.add_module(name, layer)
    return sequence.eval()


def _copy(model: nn.Module, storage: torch.dtype | None) -> nn.Module | None:
    """A copy for inference with each neural graph compiled, or None if there is none."""
    found = {name: network for name, network in model.named_modules() if isinstance(network, NeuralGraph)}
    if not found:
        return None
    # networks are replaced, so they need not be copied
    memo = {id(network): CompiledNetwork(lower(network), storage=storage) for network in found.values()}
    return copy.deepcopy(model, memo).eval()


def _fused(layers: nn.Module) -> nn.Module:
    """A sequence with batch norms folded into the convolutions before them."""
    if not _is_sequence(layers):
        return layers
    fused: dict[str, nn.Module | None] = {}
    for name, layer in layers._modules.items():
        before = list(fused)[-1:]
        convolution = fused[before[0]] if before else None
        if _has_fixed_norm(layer) and is_plain(convolution, nn.Conv2d):
            fused[before[0]] = fuse_conv_bn_eval(convolution, layer)
        else:
            fused[name] = layer
    return _sequence(fused)
