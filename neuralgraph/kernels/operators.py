"""The kernels as torch operators, so that torch's compiler and its other tools can see through calls.

None is differentiable by itself: :mod:`neuralgraph.backends.sparse` and :mod:`neuralgraph.nodes.fused`
say how gradients flow.
"""

from __future__ import annotations

import torch

from . import maps, rows, sums

LIBRARY = torch.library.Library("neuralgraph", "DEF")


def _operator(signature: str, compute, shapes):
    """Registers ``compute`` for the CPU and ``shapes``, which makes empty results, for tracing."""
    name = LIBRARY.define(signature)
    LIBRARY.impl(name, compute, "CPU")
    LIBRARY.impl(name, shapes, "Meta")
    return getattr(torch.ops.neuralgraph, name).default


weighted_sums = _operator(
    "weighted_sums(Tensor x, Tensor first, Tensor index, Tensor weight) -> Tensor",
    sums.weighted_sums,
    lambda x, first, index, weight: x.new_empty(x.shape[0], first.shape[0] - 1, x.shape[2]))

edge_dots = _operator(
    "edge_dots(Tensor x, Tensor y, Tensor src, Tensor dst) -> Tensor",
    sums.edge_dots,
    lambda x, y, src, dst: x.new_empty(src.shape[0]))

channel_rows = _operator(
    "channel_rows(Tensor x) -> Tensor",
    rows.channel_rows,
    lambda x: x.new_empty(x.shape[1], x.shape[0] * x.shape[2] + 64 // x.element_size())[
        :, :x.shape[0] * x.shape[2]])

channel_moments = _operator(
    "channel_moments(Tensor x, float epsilon) -> (Tensor, Tensor, Tensor)",
    maps.channel_moments,
    lambda x, epsilon: tuple(x.new_empty(x.shape[1]) for _ in range(3)))

map_forward = _operator(
    "map_forward(Tensor(a!) out, Tensor x, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? rstd, "
    "Tensor? kernel, int norm, float slope, int stride, float epsilon) -> (Tensor, Tensor)",
    maps.map_forward,
    lambda out, x, weight, bias, mean, rstd, kernel, norm, slope, stride, epsilon:
        maps.empty_moments(x, norm))

map_backward = _operator(
    "map_backward(Tensor gradient, Tensor x, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? rstd, "
    "Tensor? kernel, int norm, float slope, int stride) -> (Tensor, Tensor, Tensor, Tensor)",
    maps.map_backward,
    lambda gradient, x, weight, bias, mean, rstd, kernel, norm, slope, stride:
        maps.empty_gradients(x, kernel, norm))
