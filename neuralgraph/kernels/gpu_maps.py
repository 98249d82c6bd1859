"""What :mod:`.maps` computes, on a GPU: norm, activation and convolution of maps in one pass, in Triton.

A program has one channel and as many samples as fill its registers. It reads their maps once; neighbours of a pixel
come from the first cache. What a channel sums over samples is summed in a fixed order, so that results repeat to the bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .shapes import BATCH, FIXED, INSTANCE, NO_NORM, empty_gradients, empty_moments

LARGEST = 4096   # pixels of a map
WIDEST = 7       # pixels of a side of a kernel
TILE = 1024      # numbers that a program has in registers, at least

_NO_NORM, _FIXED, _INSTANCE = tl.constexpr(NO_NORM), tl.constexpr(FIXED), tl.constexpr(INSTANCE)


@triton.jit
def _maps(first, b, c, sample, row):
    """Where the maps of a channel begin, (samples, 1), from distances of samples and channels."""
    return first + (b.to(tl.int64) * sample + c.to(tl.int64) * row)[:, None]


@triton.jit
def _moments(mean, rstd, c, place, alive, NORM: tl.constexpr, KIND: tl.constexpr):
    """mean and rstd of each sample's map, (samples,), from those of the maps or of the channel; 0 and 1 without a norm."""
    m = tl.zeros_like(place).to(KIND)
    r = m + 1
    if NORM == _INSTANCE:
        m = tl.load(mean + place, mask=alive, other=0).to(KIND)
        r = tl.load(rstd + place, mask=alive, other=0).to(KIND)
    elif NORM != _NO_NORM:
        m += tl.load(mean + c).to(KIND)
        r *= tl.load(rstd + c).to(KIND)
    return m, r


@triton.jit
def _affine(weight, bias, c, m, r, NORM: tl.constexpr, KIND: tl.constexpr):
    """scale and shift of u = scale x + shift, (samples,)."""
    scale, shift = r, m
    if NORM != _NO_NORM:
        scale = tl.load(weight + c).to(KIND) * r
        shift = tl.load(bias + c).to(KIND) - m * scale
    return scale, shift


@triton.jit
def _read(to, tap, written, height, width, out_width, SIDE: tl.constexpr, STRIDE: tl.constexpr):
    """The pixel that a tap of the kernel reads for each of the result, (pixels,), and where that is on the map."""
    row = to // out_width * STRIDE + tap // SIDE - SIDE // 2
    column = to % out_width * STRIDE + tap % SIDE - SIDE // 2
    return row * width + column, written & ((row >= 0) & (row < height) & (column >= 0) & (column < width))[None, :]


@triton.jit
def _activated(u, SLOPE: tl.constexpr):
    return tl.where(u >= 0, u, SLOPE * u)


@triton.jit
def _forward(x, out, weight, bias, mean, rstd, kernel, batch, channels, x_sample, x_row, out_sample, out_row, height,
             width, out_height, out_width, EPSILON: tl.constexpr, SLOPE: tl.constexpr, NORM: tl.constexpr,
             SIDE: tl.constexpr, STRIDE: tl.constexpr, PIXELS: tl.constexpr, OUT: tl.constexpr, SAMPLES: tl.constexpr,
             KIND: tl.constexpr):
    c, b = tl.program_id(0), tl.program_id(1) * SAMPLES + tl.arange(0, SAMPLES)
    alive = b < batch
    source = _maps(x, b, c, x_sample, x_row)
    target = _maps(out, b, c, out_sample, out_row)
    place = b * channels + c
    if NORM == _INSTANCE:
        pixel, length = tl.arange(0, PIXELS), height * width
        inside = alive[:, None] & (pixel < length)[None, :]
        value = tl.load(source + pixel[None, :], mask=inside, other=0).to(KIND)
        m = tl.sum(value, 1) / length
        apart = tl.where(inside, value - m[:, None], 0)
        r = 1 / tl.sqrt(tl.sum(apart * apart, 1) / length + EPSILON)
        tl.store(mean + place, m, mask=alive)
        tl.store(rstd + place, r, mask=alive)
    else:
        m, r = _moments(mean, rstd, c, place, alive, NORM, KIND)
    scale, shift = _affine(weight, bias, c, m, r, NORM, KIND)
    to = tl.arange(0, OUT)
    written = alive[:, None] & (to < out_height * out_width)[None, :]
    if SIDE == 0:
        value = tl.load(source + to[None, :], mask=written, other=0).to(KIND)
        total = _activated(value * scale[:, None] + shift[:, None], SLOPE)
    else:
        total = tl.zeros((SAMPLES, OUT), KIND)
        for tap in tl.static_range(SIDE * SIDE):
            pixel_read, on_map = _read(to, tap, written, height, width, out_width, SIDE, STRIDE)
            value = tl.load(source + pixel_read[None, :], mask=on_map, other=0).to(KIND)
            z = _activated(value * scale[:, None] + shift[:, None], SLOPE)
            total += tl.load(kernel + c * SIDE * SIDE + tap).to(KIND) * tl.where(on_map, z, 0)
    tl.store(target + to[None, :], total, mask=written)


@triton.jit
def _backward(gradient, x, weight, bias, mean, rstd, kernel, to_x, partial, batch, channels, x_sample, x_row,
              gradient_sample, gradient_row, height, width, out_height, out_width, SLOPE: tl.constexpr, NORM: tl.constexpr,
              SIDE: tl.constexpr, STRIDE: tl.constexpr, PIXELS: tl.constexpr, OUT: tl.constexpr, SAMPLES: tl.constexpr,
              KIND: tl.constexpr):
    c, b = tl.program_id(0), tl.program_id(1) * SAMPLES + tl.arange(0, SAMPLES)
    alive = b < batch
    source = _maps(x, b, c, x_sample, x_row)
    arriving = _maps(gradient, b, c, gradient_sample, gradient_row)
    partial += (c * tl.num_programs(1) + tl.program_id(1)) * (2 + SIDE * SIDE)
    place = b * channels + c
    m, r = _moments(mean, rstd, c, place, alive, NORM, KIND)
    scale, shift = _affine(weight, bias, c, m, r, NORM, KIND)
    pixel, length = tl.arange(0, PIXELS), height * width
    inside = alive[:, None] & (pixel < length)[None, :]
    value = tl.load(source + pixel[None, :], mask=inside, other=0).to(KIND)
    if SIDE == 0:
        d = tl.load(arriving + pixel[None, :], mask=inside, other=0).to(KIND)
    else:
        d = tl.zeros((SAMPLES, PIXELS), KIND)
        for tap in tl.static_range(SIDE * SIDE):
            down, right = pixel // width + SIDE // 2 - tap // SIDE, pixel % width + SIDE // 2 - tap % SIDE
            row, column = down // STRIDE, right // STRIDE
            read = (down >= 0) & (right >= 0) & (down % STRIDE == 0) & (right % STRIDE == 0) & \
                (row < out_height) & (column < out_width)
            g = tl.load(arriving + (row * out_width + column)[None, :], mask=inside & read[None, :], other=0).to(KIND)
            d += tl.load(kernel + c * SIDE * SIDE + tap).to(KIND) * g
    d = tl.where(value * scale[:, None] + shift[:, None] > 0, d, SLOPE * d)  # as torch's ReLU at 0
    d = tl.where(inside, d, 0)
    if NORM != _NO_NORM:
        normed = (value - m[:, None]) * r[:, None]
        plain_sum, normed_sum = tl.sum(d, 1), tl.sum(d * normed, 1)
        tl.store(partial, tl.sum(normed_sum, 0))
        tl.store(partial + 1, tl.sum(plain_sum, 0))
        if NORM == _INSTANCE:
            d = scale[:, None] * (d - plain_sum[:, None] / length - normed * (normed_sum[:, None] / length))
        elif NORM == _FIXED:
            d = scale[:, None] * d
    tl.store(to_x + (place.to(tl.int64) * length)[:, None] + pixel[None, :], d, mask=inside)
    if SIDE > 0:
        to = tl.arange(0, OUT)
        written = alive[:, None] & (to < out_height * out_width)[None, :]
        g = tl.load(arriving + to[None, :], mask=written, other=0).to(KIND)
        for tap in tl.static_range(SIDE * SIDE):
            pixel_read, on_map = _read(to, tap, written, height, width, out_width, SIDE, STRIDE)
            near = tl.load(source + pixel_read[None, :], mask=on_map, other=0).to(KIND)
            z = _activated(near * scale[:, None] + shift[:, None], SLOPE)
            tl.store(partial + 2 + tap, tl.sum(tl.sum(tl.where(on_map, g * z, 0), 1), 0))


@triton.jit
def _through_batch_norm(to_x, x, weight, mean, rstd, plain, normed, batch, channels, x_sample, x_row, length, number,
                        PIXELS: tl.constexpr, SAMPLES: tl.constexpr, KIND: tl.constexpr):
    c, b = tl.program_id(0), tl.program_id(1) * SAMPLES + tl.arange(0, SAMPLES)
    pixel = tl.arange(0, PIXELS)
    inside = (b < batch)[:, None] & (pixel < length)[None, :]
    source = _maps(x, b, c, x_sample, x_row) + pixel[None, :]
    target = to_x + ((b * channels + c).to(tl.int64) * length)[:, None] + pixel[None, :]
    r = tl.load(rstd + c).to(KIND)
    value = (tl.load(source, mask=inside, other=0).to(KIND) - tl.load(mean + c).to(KIND)) * r
    d = tl.load(target, mask=inside, other=0).to(KIND) - tl.load(plain + c).to(KIND) / number
    d -= value * (tl.load(normed + c).to(KIND) / number)
    tl.store(target, tl.load(weight + c).to(KIND) * r * d, mask=inside)


def serves(x: torch.Tensor, side: int) -> bool:
    """Whether maps (B, n, H, W) and kernels of this side are small enough for a program."""
    return x.shape[2] * x.shape[3] <= LARGEST and side <= WIDEST


def channel_moments(x: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As :func:`.maps.channel_moments`."""
    kind = torch.promote_types(x.dtype, torch.float32)
    variance, mean = torch.var_mean(x.to(kind), (0, 2, 3), correction=0)
    return mean, (variance + epsilon).rsqrt(), variance


def map_forward(out, x, weight, bias, mean, rstd, kernel, norm: int, slope: float, stride: int, epsilon: float):
    """As :func:`.maps.map_forward`."""
    own_mean, own_rstd = empty_moments(x, norm)
    if norm == INSTANCE:
        mean, rstd = own_mean, own_rstd
    grid, shape, sizes = _program(x, out.shape[2:], kernel, stride, norm)
    with torch.cuda.device_of(x):
        _forward[grid](x, out, weight, bias, mean, rstd, _flat(kernel), *x.shape[:2], *x.stride()[:2], *out.stride()[:2],
                       *shape, epsilon, slope, **sizes)
    return own_mean, own_rstd


def map_backward(gradient, x, weight, bias, mean, rstd, kernel, norm: int, slope: float, stride: int):
    """As :func:`.maps.map_backward`."""
    grid, shape, sizes = _program(x, gradient.shape[2:], kernel, stride, norm)
    to_x, to_weight, to_bias, to_kernel = empty_gradients(x, kernel, norm)
    partial = to_weight.new_empty(*grid, 2 + sizes["SIDE"]**2)
    with torch.cuda.device_of(x):
        _backward[grid](gradient, x, weight, bias, mean, rstd, _flat(kernel), to_x, partial, *x.shape[:2], *x.stride()[:2],
                        *gradient.stride()[:2], *shape, slope, **sizes)
        sums = partial.sum(1)
        if norm != NO_NORM:
            to_weight.copy_(sums[:, 0])
            to_bias.copy_(sums[:, 1])
        if norm == BATCH:
            number = x.shape[0] * x.shape[2] * x.shape[3]
            _through_batch_norm[grid](to_x, x, weight, mean, rstd, to_bias, to_weight, *x.shape[:2], *x.stride()[:2],
                                      x.shape[2] * x.shape[3], number, PIXELS=sizes["PIXELS"], SAMPLES=sizes["SAMPLES"],
                                      KIND=sizes["KIND"])
    if kernel is not None:
        to_kernel.copy_(sums[:, 2:].view(kernel.shape))
    return to_x, to_weight, to_bias, to_kernel


def _program(x, out_space, kernel, stride, norm):
    """Programs, sides of maps, and what a kernel is specialised for."""
    pixels, out = triton.next_power_of_2(x.shape[2] * x.shape[3]), triton.next_power_of_2(out_space.numel())
    samples = max(1, TILE // pixels)
    grid = x.shape[1], triton.cdiv(x.shape[0], samples)
    return grid, (*x.shape[2:], *out_space), {
        "NORM": norm, "SIDE": 0 if kernel is None else kernel.shape[-1], "STRIDE": 1 if kernel is None else stride,
        "PIXELS": pixels, "OUT": out, "SAMPLES": samples, "KIND": tl.float64 if x.dtype == torch.float64 else tl.float32}


def _flat(kernel):
    return None if kernel is None else kernel.contiguous()
