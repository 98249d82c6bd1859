"""Discovering the wiring inside ordinary layers: every weight is an edge (section 3.4 of the paper)."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ..errors import InputError, UnknownNameError, listed
from ..selectors import GRADIENTS, check_finite, top_k


class _Sparse:
    """Adds a selection to a layer that has ``weight``; the parameter stays dense and trainable."""

    k: int

    def real(self) -> torch.Tensor:
        """The k weights of largest magnitude, a mask of the shape of ``weight``."""
        flat = self.weight.detach().reshape(-1)
        check_finite(flat)
        return top_k(flat.abs(), self.k).view(self.weight.shape)

    def effective_weight(self) -> torch.Tensor:
        """w 1{real}, with the gradient 1 for every weight (appendix F of the paper)."""
        if self.k == self.weight.numel():
            return self.weight
        return GRADIENTS["ste"].effective(self.weight, self.real())

    @property
    def density(self) -> float:
        """The share of weights that are real."""
        return self.k / self.weight.numel()

    def extra_repr(self):
        return f"{super().extra_repr()}, k={self.k} of {self.weight.numel()}"


class SparseConv2d(_Sparse, nn.Conv2d):
    """A convolution of whose weights the k of largest magnitude are used, chosen at every forward.

    y = conv(x, w 1{real}) + bias; gradients reach all weights. The bias stays dense. Its state dict is
    that of :class:`torch.nn.Conv2d`.

    Args:
        in_channels, out_channels, kernel_size: as for :class:`torch.nn.Conv2d`, as are all further
            keyword arguments.
        density: share of the weights that is real, above 0 and at most 1; at least one weight is kept.

    >>> layer = SparseConv2d(16, 32, 3, density=0.1)
    >>> int(layer.real().sum())
    461
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size, *, density: float = 0.1,
                 **options):
        super().__init__(in_channels, out_channels, kernel_size, **options)
        self.k = count(density, self.weight.numel())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.effective_weight(), self.bias)


class SparseLinear(_Sparse, nn.Linear):
    """A fully connected layer of whose weights the k of largest magnitude are used.

    Arguments as for :class:`torch.nn.Linear`, and ``density`` as for :class:`SparseConv2d`.

    >>> SparseLinear(100, 10, density=0.25).k
    250
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *,
                 density: float = 0.1, **options):
        super().__init__(in_features, out_features, bias, **options)
        self.k = count(density, self.weight.numel())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.effective_weight(), self.bias)


class _PlainEncoderLayer(nn.TransformerEncoderLayer):
    """Without the fast path of evaluation, which reads the weights of the layers and calls none."""

    activation_relu_or_gelu = property(lambda self: 0)


class _PlainEncoder(nn.TransformerEncoder):
    """Without the nested tensors that only the fast path of its layers understands."""

    use_nested_tensor = property(lambda self: False)


SPARSE = {nn.Conv2d: SparseConv2d, nn.Linear: SparseLinear}
PLAIN = {nn.TransformerEncoderLayer: _PlainEncoderLayer, nn.TransformerEncoder: _PlainEncoder}


def count(density: float, weights: int) -> int:
    """k = n - floor((1 - density) n), as the authors count, and at least one.

    >>> count(0.1, 4608), count(1, 7), count(0.001, 7)
    (461, 7, 1)
    """
    if isinstance(density, bool) or not isinstance(density, (int, float)) or not 0 < density <= 1:
        raise InputError(f"density must be above 0 and at most 1, got {density!r}.")
    return max(min(1, weights), weights - math.floor((1 - density) * weights + 1e-9))


def sparsify(module: nn.Module, density: float | Mapping[str, float] = 0.1, *,
             first_layer_dense: bool = True, skip: Collection[str] = (),
             inplace: bool = False) -> nn.Module:
    """Turns the 2-D convolutions and fully connected layers of any model into sparse ones.

    Parameters keep their names, so that state dicts go both ways; biases, norms and the projections
    inside :class:`torch.nn.MultiheadAttention`, which are no layers of their own, stay dense. Every
    layer keeps its own share ("Discovering Neural Wirings", section 3.4 and Table 4).
    :class:`torch.nn.TransformerEncoder` and its layers lose their fast path until :func:`densify`.

    Args:
        module: the model.
        density: share of real weights of every layer, above 0 and at most 1; or a map from the names
            of layers to theirs, all others staying dense.
        first_layer_dense: leave the first convolution or fully connected layer (in the order of
            ``module.named_modules()``) dense, as the better rows of the paper's Table 4 do; a density
            map that names it has the last word.
        skip: names of layers to leave dense.
        inplace: change ``module`` itself instead of a copy.

    Returns:
        The sparse model.

    Raises:
        InputError: for a density outside (0, 1], a model in which no such layer is left, and
            layers that would stay dense unasked because they are of a class of their own.
        UnknownNameError: if ``density`` or ``skip`` names no convolution or fully connected layer.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    >>> sparsify(model, density=0.5)[2].k
    288
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"expected a torch.nn.Module, got {type(module).__name__}.")
    if isinstance(skip, str):
        raise InputError(f"skip must be a list of names, got {skip!r}.")
    layers = {name: layer for name, layer in module.named_modules() if _can_be_sparse(layer)}
    if not layers:
        raise InputError("the model has no torch.nn.Conv2d or torch.nn.Linear to make sparse"
                         + (" (some are sparse already)." if _sparse_layers(module) else "."))
    is_map = isinstance(density, Mapping)
    for name in [*(density if is_map else ()), *skip]:
        if name not in layers:
            raise UnknownNameError("layer", name, layers)
    wanted = dict(density) if is_map else dict.fromkeys(layers, density)
    for share in wanted.values():
        count(share, 1)  # also of a layer that stays dense
    wanted = {name: share for name, share in wanted.items() if name not in skip}
    if first_layer_dense and not is_map:
        wanted.pop(next(iter(layers)), None)
    if not wanted:
        raise InputError("nothing is left to make sparse: " + (
            "the density map names no layer that is not in skip." if is_map else
            "all layers are in skip." if set(layers) <= set(skip) else
            "only one layer is not in skip and it is the first; use first_layer_dense=False."))
    _check_classes(module, {name: layers[name] for name in wanted})
    ks = {name: count(share, layers[name].weight.numel()) for name, share in wanted.items()}
    if not inplace:
        module = copy.deepcopy(module)
    for name, layer in list(module.named_modules()):
        if name in ks:
            layer.k = ks[name]
            layer.__class__ = SPARSE[type(layer)]
    for part in module.modules():
        if type(part) in PLAIN and _sparse_layers(part):
            part.__class__ = PLAIN[type(part)]
    return module


def _can_be_sparse(layer: nn.Module) -> bool:
    return isinstance(layer, tuple(SPARSE)) and \
        not isinstance(layer, (_Sparse, NonDynamicallyQuantizableLinear))


def _check_classes(module: nn.Module, wanted: Mapping[str, nn.Module]) -> None:
    """Refuses layers whose class may compute anything, and parts that may not call their layers."""
    foreign = [f"{name!r} ({type(layer).__name__})" for name, layer in wanted.items()
               if type(layer) not in SPARSE]
    if foreign:
        raise InputError(
            f"cannot make {listed(foreign)} sparse: only torch.nn.Conv2d and torch.nn.Linear themselves, "
            "not classes derived from them; name these layers in skip to leave them dense.")
    for part in module.modules():
        if isinstance(part, tuple(PLAIN)) and type(part) not in (*PLAIN, *PLAIN.values()):
            inside = [repr(name) for name, layer in wanted.items() if layer in set(part.modules())]
            if inside:
                raise InputError(
                    f"{type(part).__name__} derives from torch's transformer encoder, whose fast path in "
                    f"evaluation bypasses its layers {listed(inside)}; name them in skip.")


@torch.no_grad()
def densify(module: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Bakes the selection in: ordinary layers whose unused weights are 0, with the same outputs.

    Args:
        module: a model with sparse layers.
        inplace: change ``module`` itself instead of a copy.

    >>> model = densify(sparsify(nn.Linear(10, 10), 0.2, first_layer_dense=False))
    >>> type(model).__name__, int((model.weight != 0).sum())
    ('Linear', 20)
    """
    if not inplace:
        module = copy.deepcopy(module)
    for layer in _sparse_layers(module):
        layer.weight.mul_(layer.real())
        dense = next(base for base, sparse in SPARSE.items() if isinstance(layer, sparse))
        layer.__class__ = dense
        del layer.k
    for part in module.modules():
        for base, plain in PLAIN.items():
            if type(part) is plain:
                part.__class__ = base
    return module


def _sparse_layers(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, _Sparse)]
