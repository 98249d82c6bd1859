"""From a trained model to a compiled one."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import InputError
from ..models import Classifier
from ..models.tiny import GlobalPool
from ..networks import NeuralGraph
from .engine import CompiledNetwork
from .plan import Part, Plan, plan


class CompiledModel(nn.Module):
    """stem -> compiled network -> head, for inference.

    Args:
        stem, head: ordinary layers.
        network: of the graphs between them.
        in_channels: of the images.
        image_size: side of the images the model was made for, in pixels; others work too.
    """

    def __init__(self, stem: nn.Module, network: CompiledNetwork, head: nn.Module, *,
                 in_channels: int, image_size: int):
        super().__init__()
        self.stem, self.network, self.head = stem, network, head
        self.in_channels, self.image_size = in_channels, image_size
        self.eval()

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.dim() != 4 or images.shape[1] != self.in_channels or not images.is_floating_point():
            raise InputError(
                f"expected floating-point images (batch, {self.in_channels}, height, width), got "
                f"{images.dtype} of shape {tuple(images.shape)}."
            )
        return self.head(self.network(self.stem(images)))

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
    maps stay in the cache. Maps are taken to be finite: an infinite one may reach nodes that have no edge
    from it. The model itself is left alone.

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
        needed[list(plans[0].read)] = True
    head = _copy(model.head)
    head = copy.deepcopy(model.head).eval() if head is None else head
    stem = _fused(copy.deepcopy(model.stem).eval())
    stem, plans[0] = _without_unread(stem, plans[0])
    plans[-1], head = _taking_over(plans[-1], _fused(head))
    return CompiledModel(stem, CompiledNetwork(*plans), head, in_channels=model.in_channels,
                         image_size=model.image_size)


def _without_unread(stem: nn.Module, first: Plan) -> tuple[nn.Module, Plan]:
    """The stem without the filters that nothing reads, and the plan with its channels renumbered."""
    is_sequence = type(stem) is nn.Sequential and len(stem) > 0
    old = stem[-1] if is_sequence else stem
    kept = sorted(first.read) or [0]
    if not _is_plain(old, nn.Conv2d) or old.groups != 1 or len(kept) == old.out_channels:
        return stem, first
    new = nn.Conv2d(old.in_channels, len(kept), old.kernel_size, old.stride, old.padding, old.dilation,
                    bias=old.bias is not None, padding_mode=old.padding_mode, dtype=old.weight.dtype)
    new.load_state_dict({name: value[kept] for name, value in old.state_dict().items()})
    new = new.requires_grad_(False).eval()
    groups = [group if group.channels is None else
              replace(group, channels=np.searchsorted(kept, group.channels)) for group in first.groups]
    if is_sequence:
        new = _sequence({**stem._modules, list(stem._modules)[-1]: new})
    return new, replace(first, num_inputs=len(kept), groups=groups)


def _taking_over(last: Plan, head: nn.Module) -> tuple[Plan, nn.Module]:
    """The plan with the norm and ReLU that the head begins with, and the rest of the head."""
    if type(head) is not nn.Sequential:
        return last, head
    layers = dict(head._modules)
    part = Part()
    if layers and _has_fixed_norm(next(iter(layers.values()))):
        norm = layers.pop(next(iter(layers)))
        scale = 1 / (norm.running_var + norm.eps).sqrt()
        shift = -norm.running_mean * scale
        if norm.affine:
            scale, shift = norm.weight * scale, norm.bias + norm.weight * shift
        part = Part("affine", *(value.detach().cpu().numpy() for value in (scale, shift)))
    if layers and _is_plain(next(iter(layers.values())), nn.ReLU):
        layers.pop(next(iter(layers)))
        part = replace(part, activation="relu")
    if not part.norm and part.activation == "identity":
        return last, head
    names, found = list(layers)[:2], list(layers.values())[:2]
    if len(found) == 2 and _is_plain(found[0], nn.AdaptiveAvgPool2d) and _is_plain(found[1], nn.Flatten) \
            and found[0].output_size in (1, (1, 1)) and found[1].start_dim == 1 \
            and found[1].end_dim in (-1, 3):
        layers[names[0]] = GlobalPool()
        del layers[names[1]]
    groups = [group if group.outputs is None else
              replace(group, parts=[*group.parts, part.of(group.outputs)]) for group in last.groups]
    return replace(last, groups=groups), _sequence(layers)


def _is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it is a layer of the kind and nothing more: no subclass, no hooks, no parametrization."""
    return type(layer) is kind and not layer._forward_hooks and not layer._forward_pre_hooks


def _has_fixed_norm(layer: nn.Module) -> bool:
    return _is_plain(layer, nn.BatchNorm2d) and layer.running_var is not None


def _sequence(layers: dict[str, nn.Module]) -> nn.Sequential:
    """Layers by name, one after the other; one may be there twice."""
    sequence = nn.Sequential()
    for name, layer in layers.items():
        sequence.add_module(name, layer)
    return sequence.eval()


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
    if type(layers) is not nn.Sequential:
        return layers
    fused: dict[str, nn.Module] = {}
    for name, layer in layers._modules.items():
        before = list(fused)[-1:]
        if before and _has_fixed_norm(layer) and _is_plain(fused[before[0]], nn.Conv2d):
            fused[before[0]] = fuse_conv_bn_eval(fused[before[0]], layer)
        else:
            fused[name] = layer
    return _sequence(fused)
