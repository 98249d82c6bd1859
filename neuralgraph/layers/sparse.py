"""Discovering the wiring inside ordinary layers: every weight is an edge (section 3.4 of the paper)."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InputError, UnknownNameError
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


SPARSE = {nn.Conv2d: SparseConv2d, nn.Linear: SparseLinear}


def count(density: float, weights: int) -> int:
    """k = n - floor((1 - density) n), as the authors count, and at least one.

    >>> count(0.1, 4608), count(1, 7), count(0.001, 7)
    (461, 7, 1)
    """
    if isinstance(density, bool) or not isinstance(density, (int, float)) or not 0 < density <= 1:
        raise InputError(f"density must be above 0 and at most 1, got {density!r}.")
    return max(1, weights - math.floor((1 - density) * weights + 1e-9))


def sparsify(module: nn.Module, density: float | Mapping[str, float] = 0.1, *,
             first_layer_dense: bool = True, skip: Collection[str] = (),
             inplace: bool = False) -> nn.Module:
    """Turns the convolutions and fully connected layers of any model into sparse ones.

    Parameters keep their names, so that state dicts go both ways; biases and norms stay dense. Every
    layer keeps its own share ("Discovering Neural Wirings", section 3.4 and Table 4).

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
        InputError: for a density outside (0, 1], or a model without such layers.
        UnknownNameError: if ``density`` or ``skip`` names no convolution or fully connected layer.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    >>> sparsify(model, density=0.5)[2].k
    288
    """
    layers = {name: layer for name, layer in module.named_modules() if type(layer) in SPARSE}
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
    if first_layer_dense and not is_map:
        wanted.pop(next(iter(layers)))
    ks = {name: count(share, layers[name].weight.numel()) for name, share in wanted.items()
          if name not in skip}
    if not inplace:
        module = copy.deepcopy(module)
    for name, layer in list(module.named_modules()):
        if name in ks:
            layer.k = ks[name]
            layer.__class__ = SPARSE[type(layer)]
    return module


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
    return module


def _sparse_layers(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, _Sparse)]
