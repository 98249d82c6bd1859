"""Ordinary layers whose weights are candidates: every weight, or every kernel, is an edge."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ..errors import InputError
from ..selectors import TopK, Weights
from .choice import Choice


class Sparse(nn.Module):
    """A layer some of whose parameters are chosen from; they stay dense and trainable.

    ``_choices``: by the name of each such parameter, the choice and its number there.
    """

    _choices: dict[str, tuple[Choice, int]]

    def effective_weight(self, name: str = "weight") -> torch.Tensor:
        """The weights that are used, 0 where not real, with the selector's gradient."""
        choice, number = self._choices[name]
        return choice.weight(number, self.training)

    def real(self, name: str = "weight") -> torch.Tensor:
        """The weights that are real in evaluation, a mask of the shape of the parameter."""
        choice, number = self._choices[name]
        return choice.real(number)

    @property
    def k(self) -> int:
        """The number of real weights."""
        return sum(self._count(*place) for place in self._choices.values())

    @staticmethod
    def _count(choice: Choice, number: int) -> int:
        if len(choice.places) == 1 and choice.selector.num_real is not None:
            candidates = choice.selector.candidates
            return choice.selector.num_real * (candidates.num_weights // max(1, candidates.num))
        return int(choice.real(number).sum())

    def chosen_weights(self) -> dict[str, nn.Parameter]:
        """The parameters that are chosen from, by name."""
        return {name: choice.parameters()[number] for name, (choice, number) in self._choices.items()}

    @property
    def num_weights(self) -> int:
        """The number of weights that are chosen from."""
        return sum(weight.numel() for weight in self.chosen_weights().values())

    @property
    def density(self) -> float:
        """The share of weights that are real."""
        return self.k / self.num_weights

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, k={self.k} of {self.num_weights}"

    def _choose(self, density: float) -> None:
        """Each weight its own, the largest magnitudes: what the classes' constructors do."""
        for name, options in CHOSEN[type(self)](self).items():
            module, own = place_of(self, name)
            candidates = Weights(getattr(module, own).shape, **options)
            choice = Choice(TopK(count(density, candidates.num)), [(module, own)], [candidates], torch.Generator())
            adopt(choice, [(self, name)])


def place_of(layer: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that has the parameter, and its name there."""
    path, _, own = name.rpartition(".")
    return layer.get_submodule(path), own


def adopt(choice: Choice, places: list[tuple[nn.Module, str]]) -> None:
    """Gives layers a choice of these parameters of theirs; the selector's state is saved with the first."""
    for number, (layer, name) in enumerate(places):
        layer.__dict__.setdefault("_choices", {})[name] = (choice, number)
    layer, name = places[0]
    choice.home = layer, "selector" if name == "weight" else f"{name.replace('.', '_')}_selector"
    choice.replace(choice.selector)


class _SparseConv(Sparse, _ConvNd):
    """y = conv(x, effective weight) + bias."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.effective_weight(), self.bias)


class SparseConv1d(_SparseConv, nn.Conv1d):
    """A sparse 1-D convolution; see :class:`SparseConv2d`."""


class SparseConv2d(_SparseConv, nn.Conv2d):
    """A convolution of whose weights the k of largest magnitude are used, chosen at every forward.

    y = conv(x, w 1{real}) + bias; gradients reach all weights. The bias stays dense. Its state dict is
    that of :class:`torch.nn.Conv2d`. :func:`sparsify` makes such layers with other selectors too.

    Args:
        in_channels, out_channels, kernel_size: as for :class:`torch.nn.Conv2d`, as are all further
            keyword arguments.
        density: share of the weights that is real, above 0 and at most 1; at least one weight is kept.

    >>> layer = SparseConv2d(16, 32, 3, density=0.1)
    >>> int(layer.real().sum())
    461
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], *,
                 density: float = 0.1,
                 **options: Any):
        super().__init__(in_channels, out_channels, kernel_size, **options)
        self._choose(density)


class SparseConv3d(_SparseConv, nn.Conv3d):
    """A sparse 3-D convolution; see :class:`SparseConv2d`."""


class _SparseConvTranspose(Sparse, _ConvTransposeNd):
    """y = transposed conv(x, effective weight) + bias."""

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        dims = len(self.kernel_size)
        padding = self.padding
        assert not isinstance(padding, str)  # a transposed convolution takes none
        output_padding = self._output_padding(x, output_size, list(self.stride), list(padding), list(self.kernel_size),
                                              dims, list(self.dilation))
        convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        return convolve(x, self.effective_weight(), self.bias, self.stride, padding, output_padding,
                        self.groups, self.dilation)


class SparseConvTranspose1d(_SparseConvTranspose, nn.ConvTranspose1d):
    """A sparse transposed 1-D convolution, made by :func:`sparsify`."""


class SparseConvTranspose2d(_SparseConvTranspose, nn.ConvTranspose2d):
    """A sparse transposed 2-D convolution, made by :func:`sparsify`."""


class SparseConvTranspose3d(_SparseConvTranspose, nn.ConvTranspose3d):
    """A sparse transposed 3-D convolution, made by :func:`sparsify`."""


class SparseLinear(Sparse, nn.Linear):
    """A fully connected layer of whose weights the k of largest magnitude are used.

    Arguments as for :class:`torch.nn.Linear`, and ``density`` as for :class:`SparseConv2d`.

    >>> SparseLinear(100, 10, density=0.25).k
    250
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *,
                 density: float = 0.1, **options: Any):
        super().__init__(in_features, out_features, bias, **options)
        self._choose(density)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.effective_weight(), self.bias)


class SparseEmbedding(Sparse, nn.Embedding):
    """A table of whose entries some are used, made by :func:`sparsify`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.embedding(x, self.effective_weight(), self.padding_idx,
                           scale_grad_by_freq=self.scale_grad_by_freq)


class SparseMultiheadAttention(Sparse, nn.MultiheadAttention):
    """Attention of whose projections some weights are used, made by :func:`sparsify`."""

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                key_padding_mask: torch.Tensor | None = None, need_weights: bool = True,
                attn_mask: torch.Tensor | None = None,
                average_attn_weights: bool = True, is_causal: bool = False) -> tuple[torch.Tensor,
                torch.Tensor | None]:
        swaps = self.batch_first and query.dim() == 3
        if swaps:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        weights = {name: self.effective_weight(name) for name in self._choices}
        output, attention = F.multi_head_attention_forward(
            query, key, value, self.embed_dim, self.num_heads, weights.get("in_proj_weight"), self.in_proj_bias,
            self.bias_k, self.bias_v, self.add_zero_attn, self.dropout, weights["out_proj.weight"],
            self.out_proj.bias, training=self.training, key_padding_mask=key_padding_mask,
            need_weights=need_weights, attn_mask=attn_mask, average_attn_weights=average_attn_weights,
            is_causal=is_causal, use_separate_proj_weight=not self._qkv_same_embed_dim,
            **{name: weights.get(name) for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight")})
        return output.transpose(0, 1) if swaps else output, attention


def _convolution(layer):
    return {"weight": {"groups": layer.groups}}


def _transposed(layer):
    return {"weight": {"groups": layer.groups, "rows_are": "sources"}}


def _attention(layer):
    names = ("in_proj_weight",) if layer._qkv_same_embed_dim else (
        "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return {name: {} for name in (*names, "out_proj.weight")}


# What becomes of a layer of torch, and which of its parameters are chosen from, with what Weights must know.
KINDS: dict[type[nn.Module], tuple[type[Sparse], Callable[[Any], dict[str, dict]]]] = {
    nn.Conv1d: (SparseConv1d, _convolution), nn.Conv2d: (SparseConv2d, _convolution),
    nn.Conv3d: (SparseConv3d, _convolution), nn.ConvTranspose1d: (SparseConvTranspose1d, _transposed),
    nn.ConvTranspose2d: (SparseConvTranspose2d, _transposed),
    nn.ConvTranspose3d: (SparseConvTranspose3d, _transposed),
    nn.Linear: (SparseLinear, lambda layer: {"weight": {}}),
    nn.Embedding: (SparseEmbedding, lambda layer: {"weight": {"rows_are": "sources"}}),
    nn.MultiheadAttention: (SparseMultiheadAttention, _attention),
}
SPARSE = {dense: sparse for dense, (sparse, _) in KINDS.items()}
CHOSEN = {kind: chosen for dense, (sparse, chosen) in KINDS.items() for kind in (dense, sparse)}


def count(density: float, weights: int) -> int:
    """k = n - floor((1 - density) n), as the authors count, and at least one.

    >>> count(0.1, 4608), count(1, 7), count(0.001, 7)
    (461, 7, 1)
    """
    if isinstance(density, bool) or not isinstance(density, (int, float)) or not 0 < density <= 1:
        raise InputError(f"density must be above 0 and at most 1, got {density!r}.")
    return max(min(1, weights), weights - math.floor((1 - density) * weights + 1e-9))


def sparse_layers(module: nn.Module) -> list[Sparse]:
    """The layers inside that are sparse."""
    return [layer for layer in module.modules() if isinstance(layer, Sparse)]


def choices_of(module: nn.Module) -> list[tuple[str, Choice]]:
    """Every choice inside, by the name of the first parameter that it is of."""
    found: dict[Choice, str] = {}
    for name, layer in module.named_modules():
        for own, (choice, _) in getattr(layer, "_choices", {}).items():
            found.setdefault(choice, f"{name}.{own}".lstrip("."))
    return [(name, choice) for choice, name in found.items()]
