"""The kernels as torch operators, so that torch's compiler and its other tools can see through calls.

None is differentiable by itself: :mod:`neuralgraph.backends.sparse` and :mod:`neuralgraph.nodes.fused`
say how gradients flow.
"""

from __future__ import annotations

import importlib

import torch

from . import maps, matrix_units, rows, sums
from .shapes import empty_gradients, empty_moments

LIBRARY = torch.library.Library("neuralgraph", "DEF")


def _operator(signature: str, compute, shapes, on_gpu: bool = False):
    """Registers ``compute`` for the CPU and ``shapes``, which makes empty results, for tracing.

    ``on_gpu``: :mod:`.gpu_maps` has a function of this name, for GPUs.
    """
    name = LIBRARY.define(signature)
    LIBRARY.impl(name, compute, "CPU")
    LIBRARY.impl(name, shapes, "Meta")
    if on_gpu:
        LIBRARY.impl(name, lambda *given: getattr(importlib.import_module(".gpu_maps", __package__), name)(*given), "CUDA")
    return getattr(torch.ops.neuralgraph, name).default


weighted_sums = _operator(
    "weighted_sums(Tensor x, Tensor first, Tensor index, Tensor weight) -> Tensor",
    sums.weighted_sums,
    lambda x, first, index, weight: x.new_empty(x.shape[0], first.shape[0] - 1, x.shape[2]))

weighted_sums_into = _operator(
    "weighted_sums_into(Tensor(a!) out, Tensor x, Tensor first, Tensor index, Tensor weight, bool onto) -> ()",
    sums.weighted_sums_into,
    lambda out, x, first, index, weight, onto: None)

edge_dots = _operator(
    "edge_dots(Tensor x, Tensor y, Tensor src, Tensor dst) -> Tensor",
    sums.edge_dots,
    lambda x, y, src, dst: x.new_empty(src.shape[0]))

channel_rows = _operator(
    "channel_rows(Tensor x) -> Tensor",
    rows.channel_rows,
    lambda x: x.new_empty(x.shape[1], x.shape[0] * x.shape[2] + 64 // x.element_size())[
        :, :x.shape[0] * x.shape[2]])

pair_products = _operator(
    "pair_products(Tensor x, Tensor y, int terms) -> Tensor",
    matrix_units.pair_products,
    lambda x, y, terms: x.new_empty(x.shape[1], y.shape[1]))

channel_moments = _operator(
    "channel_moments(Tensor x, float epsilon) -> (Tensor, Tensor, Tensor)",
    maps.channel_moments,
    lambda x, epsilon: tuple(x.new_empty(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32)) for _ in range(3)),
    on_gpu=True)

map_forward = _operator(
    "map_forward(Tensor(a!) out, Tensor x, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? rstd, "
    "Tensor? kernel, int norm, float slope, int stride, float epsilon) -> (Tensor, Tensor)",
    maps.map_forward,
    lambda out, x, weight, bias, mean, rstd, kernel, norm, slope, stride, epsilon:
        empty_moments(x, norm), on_gpu=True)

map_backward = _operator(
    "map_backward(Tensor gradient, Tensor x, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? rstd, "
    "Tensor? kernel, int norm, float slope, int stride) -> (Tensor, Tensor, Tensor, Tensor)",
    maps.map_backward,
    lambda gradient, x, weight, bias, mean, rstd, kernel, norm, slope, stride:
        empty_gradients(x, kernel, norm), on_gpu=True)
