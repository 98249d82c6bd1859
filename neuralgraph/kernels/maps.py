"""Norm, activation and depthwise convolution of one map after the other, forward and backward.

Each step is optional: u = weight (x - mean) rstd + bias; a = u for u >= 0, slope u below; z = kernel * a
with zero borders. A map is read once, and what lies between the steps stays in the cache.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import carray

from .launch import Kernel
from .map_gradients import correlate, correlation_lanes, through_activation, through_norm
from .one_map import affine, affine_bordered, clear, convolve, moments, number, squares_of, total_from
from .parts import inline
from .record import record
from .shapes import BATCH, FIXED, INSTANCE, NO_NORM, empty_gradients, empty_moments
from .vector import at, load_scalar, narrow, rolled, size_of, splat, store_scalar, take_number

# addresses, and distances of samples and rows in bytes
MAPS = ("batch channels height width out_height out_width side stride norm x x_sample x_row weight bias mean rstd "
        "kernel scratch scratch_size pitch grabs ")
FORWARD = record(MAPS + "out out_sample out_row", "slope epsilon")
BACKWARD = record(MAPS + "gradient gradient_sample gradient_row to_x to_weight to_bias to_kernel", "slope")
MOMENTS = record("batch channels length x x_sample x_row mean rstd variance", "epsilon")

TOTALS = 4  # numbers that two float64 take


@inline
def together_of(size):
    """How many channels, of maps of this many bytes, are worked at side by side: maps that lie in one page of memory."""
    return max(1, min(16, 4096 // size))


@inline
def state_size(taps, lanes):
    """The numbers that a channel's sums take: two totals, its kernel, a vector for each tap."""
    return (TOTALS + taps + taps * lanes + 1) // 2 * 2


# Forward


@inline
def _forward(like, address):
    a = carray(at(address), 1, FORWARD)[0]
    s = size_of(narrow(like, 1))
    batch, channels, height, width = a.batch, a.channels, a.height, a.width
    out_height, out_width, side, stride = a.out_height, a.out_width, a.side, a.stride
    norm, slope, epsilon = a.norm, a.slope, a.epsilon
    x, x_sample, x_row, out, out_sample, out_row = a.x, a.x_sample, a.x_row, a.out, a.out_sample, a.out_row
    weight, bias, mean, rstd, kernel = a.weight, a.bias, a.mean, a.rstd, a.kernel
    scratch, scratch_size, pitch, grabs = a.scratch, a.scratch_size, a.pitch, a.grabs
    units, together = batch * channels, together_of(height * width * s)
    scratch += take_number(address + 8) * scratch_size * s
    clear(like, scratch, scratch_size)
    while True:
        rolled()
        grab = take_number(address)
        if grab >= grabs:
            return
        end = (grab + 1) * units // grabs
        for block in range(grab * units // grabs, end, together):
            rolled()
            last = min(block + together, end)
            if norm == INSTANCE:  # of all first, for what one has to wait for the next one need not
                for unit in range(block, last):
                    rolled()
                    source = x + unit // channels * x_sample + unit % channels * x_row
                    m, r = moments(like, source, height * width, epsilon)
                    store_scalar(like, mean + unit * s, m)
                    store_scalar(like, rstd + unit * s, r)
            for unit in range(block, last):
                rolled()
                sample, v = unit // channels, unit % channels
                source = x + sample * x_sample + v * x_row
                target = out + sample * out_sample + v * out_row
                scale, shift = number(like, 1.0), number(like, 0.0)
                if norm != NO_NORM:
                    place = unit * s if norm == INSTANCE else v * s
                    scale = load_scalar(like, weight + v * s) * load_scalar(like, rstd + place)
                    shift = load_scalar(like, bias + v * s) - load_scalar(like, mean + place) * scale
                if side == 0:
                    affine(like, source, target, height * width, scale, shift, slope)
                else:
                    affine_bordered(like, source, scratch, pitch, side // 2, height, width, stride,
                                    scale, shift, slope)
                    convolve(like, scratch, pitch, side, stride, kernel + v * side * side * s,
                             target, out_height, out_width)


def _forward_float32(address):
    _forward(splat(np.float32(0), 16), address)


def _forward_float64(address):
    _forward(splat(np.float64(0), 16), address)


_run_forward = Kernel(FORWARD, float32=_forward_float32, float64=_forward_float64)


@inline
def _moments_of_channels(like, address):
    """Mean and 1 / sqrt(var + epsilon) over samples and pixels, as :func:`~one_map.moments` of one map."""
    a = carray(at(address), 1, MOMENTS)[0]
    s = size_of(narrow(like, 1))
    batch, channels, length, epsilon = a.batch, a.channels, a.length, a.epsilon
    x, x_sample, x_row, mean, rstd, variance = a.x, a.x_sample, a.x_row, a.mean, a.rstd, a.variance
    n = batch * length
    while True:
        rolled()
        v = take_number(address)
        if v >= channels:
            return
        pivot, shift, squares = load_scalar(like, x + v * x_row), 0.0, 0.0
        for sample in range(batch):
            rolled()
            shift += total_from(like, x + sample * x_sample + v * x_row, length, pivot)
        shift /= n
        middle = number(like, pivot + shift)
        for sample in range(batch):
            rolled()
            squares += squares_of(like, x + sample * x_sample + v * x_row, length, middle)
        rest = (np.float64(pivot) - np.float64(middle)) + shift
        spread = squares / n - rest * rest
        store_scalar(like, mean + v * s, middle)
        store_scalar(like, variance + v * s, spread)
        store_scalar(like, rstd + v * s, 1.0 / np.sqrt(spread + epsilon))


def _moments_float32(address):
    _moments_of_channels(splat(np.float32(0), 16), address)


def _moments_float64(address):
    _moments_of_channels(splat(np.float64(0), 16), address)


_run_moments = Kernel(MOMENTS, float32=_moments_float32, float64=_moments_float64)


# Backward


@inline
def _backward(like, address):
    a = carray(at(address), 1, BACKWARD)[0]
    s = size_of(narrow(like, 1))
    batch, channels, height, width = a.batch, a.channels, a.height, a.width
    out_height, out_width, side, stride, norm, slope = a.out_height, a.out_width, a.side, a.stride, a.norm, a.slope
    x, x_sample, x_row = a.x, a.x_sample, a.x_row
    gradient, gradient_sample, gradient_row = a.gradient, a.gradient_sample, a.gradient_row
    weight, bias, mean, rstd, kernel = a.weight, a.bias, a.mean, a.rstd, a.kernel
    scratch, scratch_size, pitch, grabs = a.scratch, a.scratch_size, a.pitch, a.grabs
    to_x, to_weight, to_bias, to_kernel = a.to_x, a.to_weight, a.to_bias, a.to_kernel  # to_x is (B, n, H W)
    border, length, taps = side // 2, height * width, side * side
    scratch += take_number(address + 8) * scratch_size * s
    clear(like, scratch, scratch_size)
    area = ((height + 2 * border) * pitch + 16) * s
    bordered, spaced, between = scratch, scratch + area, scratch + 2 * area
    states = (between + (length + 16) * s + 7) // 8 * 8  # begin with float64
    lanes = correlation_lanes(side, width)
    small = narrow(like, 4)
    together, state = together_of(length * s), state_size(taps, lanes) * s
    while True:
        rolled()
        grab = take_number(address)
        if grab >= grabs:
            return
        end = (grab + 1) * channels // grabs
        for block in range(grab * channels // grabs, end, together):
            rolled()
            for v in range(block, min(block + together, end)):
                rolled()
                own = states + (v - block) * state
                clear(like, own, state // s)
                for tap in range(taps):
                    store_scalar(like, own + (TOTALS + tap) * s,
                                 load_scalar(like, kernel + (v * taps + taps - 1 - tap) * s))
            for sample in range(batch):
                rolled()
                for v in range(block, min(block + together, end)):
                    rolled()
                    own = states + (v - block) * state
                    flipped, sums = own + TOTALS * s, own + (TOTALS + taps) * s
                    scale, shift = number(like, 1.0), number(like, 0.0)
                    middle, spread = number(like, 0.0), number(like, 0.0)
                    source = x + sample * x_sample + v * x_row
                    target = to_x + (sample * channels + v) * length * s
                    if norm != NO_NORM:
                        place = v * s
                        if norm == INSTANCE:
                            place = (sample * channels + v) * s
                        middle, spread = load_scalar(like, mean + place), load_scalar(like, rstd + place)
                        scale = load_scalar(like, weight + v * s) * spread
                        shift = load_scalar(like, bias + v * s) - middle * scale
                    arriving = gradient + sample * gradient_sample + v * gradient_row
                    if side:
                        affine_bordered(like, source, bordered, pitch, border, height, width, 1, scale,
                                        shift, slope)
                        if stride == 1:
                            affine_bordered(like, arriving, spaced, pitch, border, height, width, 1,
                                            number(like, 1.0), number(like, 0.0), 1.0)
                        else:
                            for y in range(out_height):
                                rolled()
                                for i in range(out_width):
                                    place = (y * stride + border) * pitch + i * stride + border
                                    store_scalar(like, spaced + place * s, load_scalar(
                                        like, arriving + (y * out_width + i) * s))
                        correlate(like, bordered, spaced, pitch, side, sums, height, width)
                        convolve(like, spaced, pitch, side, 1, flipped, between, height, width)
                        arriving = between
                    if length >= 16:
                        plain, normed = through_activation(like, source, arriving, target, length, scale,
                                                           shift, slope, middle, spread)
                    else:
                        plain, normed = through_activation(small, source, arriving, target, length, scale,
                                                           shift, slope, middle, spread)
                    totals = carray(at(own), 2, np.float64)
                    totals[0] += plain
                    totals[1] += normed
                    if norm == INSTANCE:
                        n = number(like, length)
                        through_norm(like, source, target, length, scale, middle, spread, plain / n,
                                     normed / n)
                    elif norm == FIXED:
                        through_norm(like, source, target, length, scale, middle, spread,
                                     number(like, 0.0), number(like, 0.0))
            if norm == BATCH:
                n = batch * length
                for sample in range(batch):
                    rolled()
                    for v in range(block, min(block + together, end)):
                        rolled()
                        totals = carray(at(states + (v - block) * state), 2, np.float64)
                        spread = load_scalar(like, rstd + v * s)
                        through_norm(like, x + sample * x_sample + v * x_row,
                                     to_x + (sample * channels + v) * length * s, length,
                                     load_scalar(like, weight + v * s) * spread, load_scalar(like, mean + v * s),
                                     spread, number(like, totals[0] / n), number(like, totals[1] / n))
            for v in range(block, min(block + together, end)):
                rolled()
                own = states + (v - block) * state
                totals = carray(at(own), 2, np.float64)
                if norm != NO_NORM:
                    store_scalar(like, to_weight + v * s, totals[1])
                    store_scalar(like, to_bias + v * s, totals[0])
                for tap in range(taps):
                    rolled()
                    value = number(like, 0.0)
                    for lane in range(lanes):
                        value += load_scalar(like, own + (TOTALS + taps + tap * lanes + lane) * s)
                    store_scalar(like, to_kernel + (v * taps + tap) * s, value)


def _backward_float32(address):
    _backward(splat(np.float32(0), 16), address)


def _backward_float64(address):
    _backward(splat(np.float64(0), 16), address)


_run_backward = Kernel(BACKWARD, float32=_backward_float32, float64=_backward_float64)


# From torch


def channel_moments(x: torch.Tensor, epsilon: float):
    """Mean, 1 / sqrt(var + epsilon) and var of each channel of x (B, n, H, W), three of (n,)."""
    batch, channels, height, width = x.shape
    mean, rstd, variance = (x.new_empty(channels) for _ in range(3))
    size = x.element_size()
    _run_moments(x.dtype, channels, _run_moments.fields(
        batch=batch, channels=channels, length=height * width, epsilon=epsilon,
        x=x.data_ptr(), x_sample=x.stride(0) * size, x_row=x.stride(1) * size,
        mean=mean.data_ptr(), rstd=rstd.data_ptr(), variance=variance.data_ptr()), 2 * x.numel())
    return mean, rstd, variance


def map_forward(out, x, weight, bias, mean, rstd, kernel, norm: int, slope: float, stride: int,
                epsilon: float):
    """The three steps for x (B, n, H, W), whose maps are contiguous, written to ``out``.

    Args:
        out: (B, n, H', W') with H' = ceil(H / stride), maps contiguous.
        weight, bias: of the norm, (n,), or None without one.
        mean, rstd: (n,), for FIXED and BATCH.
        kernel: (n, 1, side, side), or None without a convolution.
        norm: NO_NORM, FIXED, INSTANCE or BATCH.
        slope: of the activation below 0: 1 for none, 0 for ReLU.
        stride: of the convolution.
        epsilon: of INSTANCE.

    Returns:
        For INSTANCE the mean and rstd of each map, (B, n); otherwise empty tensors.
    """
    batch, channels, height, width = x.shape
    side = 0 if kernel is None else kernel.shape[-1]
    if not side:
        stride = 1
    out_height, out_width = out.shape[2:]
    own_mean, own_rstd = empty_moments(x, norm)
    if norm == INSTANCE:
        mean, rstd = own_mean, own_rstd
    border = side // 2
    pitch = -(-(width + 2 * border) // stride) + 16
    scratch_size = ((height + 2 * border) * stride * pitch + 16) if side else 0
    threads = torch.get_num_threads()
    scratch = x.new_empty(threads * scratch_size)
    grabs = min(batch * channels, 8 * threads)
    size = x.element_size()
    _run_forward(x.dtype, grabs, _run_forward.fields(
        batch=batch, channels=channels, height=height, width=width, out_height=out_height, out_width=out_width,
        side=side, stride=stride, norm=norm, slope=slope, epsilon=epsilon,
        x=x.data_ptr(), x_sample=x.stride(0) * size, x_row=x.stride(1) * size,
        out=out.data_ptr(), out_sample=out.stride(0) * size, out_row=out.stride(1) * size,
        weight=_address(weight), bias=_address(bias), mean=_address(mean), rstd=_address(rstd),
        kernel=_address(kernel), scratch=scratch.data_ptr(), scratch_size=scratch_size, pitch=pitch, grabs=grabs),
                 x.numel() * (2 + side**2))
    return own_mean, own_rstd


def map_backward(gradient, x, weight, bias, mean, rstd, kernel, norm: int, slope: float, stride: int):
    """Gradients of x, weight, bias and kernel from that of the result; empty where there is none."""
    batch, channels, height, width = x.shape
    side = 0 if kernel is None else kernel.shape[-1]
    if not side:
        stride = 1
    border = side // 2
    lanes = correlation_lanes.py_func(side, width)
    pitch = -(-width // lanes) * lanes + 2 * border
    area = (height + 2 * border) * pitch + 16
    size = x.element_size()
    together = together_of.py_func(height * width * size)
    scratch_size = 2 * area + height * width + 18 + together * state_size.py_func(side**2, lanes)
    threads = torch.get_num_threads()
    scratch = x.new_empty(threads * scratch_size)
    results = empty_gradients(x, kernel, norm)
    grabs = min(channels, 8 * threads)
    to_x, to_weight, to_bias, to_kernel = map(_address, results)
    out_height, out_width = gradient.shape[2:]
    _run_backward(x.dtype, grabs, _run_backward.fields(
        batch=batch, channels=channels, height=height, width=width, out_height=out_height, out_width=out_width,
        side=side, stride=stride, norm=norm, slope=slope,
        x=x.data_ptr(), x_sample=x.stride(0) * size, x_row=x.stride(1) * size, gradient=gradient.data_ptr(),
        gradient_sample=gradient.stride(0) * size, gradient_row=gradient.stride(1) * size,
        weight=_address(weight), bias=_address(bias), mean=_address(mean), rstd=_address(rstd),
        kernel=_address(kernel), scratch=scratch.data_ptr(), scratch_size=scratch_size, pitch=pitch, grabs=grabs,
        to_x=to_x, to_weight=to_weight, to_bias=to_bias, to_kernel=to_kernel), x.numel() * (6 + 2 * side**2))
    return results


def _address(tensor) -> int:
    return 0 if tensor is None else tensor.data_ptr()
