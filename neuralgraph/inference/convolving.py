"""One sparse layer laid out for tensors of one shape: how its work is divided, and its edges as addresses."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..errors import InputError
from ..kernels import layers as program
from ..plan.layers import Convolution, Pool

LANES = program.LANES
SCRATCH = 24 * 2**10  # bytes of sources that sums are taken from at a time: most of the smallest cache
SUMS = 2**20  # bytes of sums that are added to in turn, in the next cache
ROW = 384  # numbers of a row of sums, about: three passes of the widest loop
FEWEST = 10  # edges of an output for which it is worth while to go through the sums once more
SMALL = 100  # pixels of maps of which several samples are put number by number


class Convolving:
    """The instruction of a sparse layer.

    Args:
        step: the layer.
        source, shape: of the tensors it reads and makes.
        dtype: of the numbers.
        threads: that may share the work.

    Attributes:
        private: how many numbers a thread needs for itself.
        work: how many vectors are multiplied and added, about.
    """

    def __init__(self, step: Convolution, source: tuple[int, ...], shape: tuple[int, ...], dtype: torch.dtype, threads: int):
        self.step, self.dtype, self.bytes = step, dtype, dtype.itemsize
        self.outputs, per_group, kernel_y, kernel_x = step.weight.shape
        if step.is_linear:
            self.batch, self.space, self.out_space = math.prod(source[:-1]), (1, 1), (1, 1)
            self.channels = source[-1]
        else:
            self.batch, self.channels = source[:2]
            self.space, self.out_space = sides_of(source), sides_of(shape)
        weight = step.weight
        self.order = np.arange(self.outputs) if step.fours is None else step.fours
        self.together = 1 if step.fours is None else 4
        self.rows = -(-self.outputs // self.together)
        if step.fours is not None:  # edges of fours, with four weights each
            weight = np.zeros((4 * self.rows, *step.weight.shape[1:]), step.weight.dtype)
            weight[:self.outputs] = step.weight[self.order]
            weight = weight.reshape(self.rows, 4, *step.weight.shape[1:])
            output, source_channel, y, x = np.nonzero((weight != 0).any(1))
            self.weight = weight[output, :, source_channel, y, x]
        else:
            output, source_channel, y, x = np.nonzero(weight)
            self.weight = weight[output, source_channel, y, x]
        self.output = output
        self.channel = source_channel + (output // (self.outputs // step.groups) * per_group if step.groups > 1 else 0)
        # which line and column of the padded map a weight meets at the first pixel: phase and shift
        at_y, at_x = y * step.dilation[0], x * step.dilation[1]
        self.phase = np.stack([at_y % step.stride[0], at_x % step.stride[1]], 1)
        self.shift = np.stack([at_y // step.stride[0], at_x // step.stride[1]], 1)
        self.phases, self.phase_of = np.unique(self.phase, axis=0, return_inverse=True) if len(output) else \
            (np.zeros((1, 2), np.int64), np.zeros(0, np.int64))
        self._columns()
        self._divide(threads)
        self._number()

    def _columns(self) -> None:
        """How far apart the lines of a bordered map are, so that a border serves two lines."""
        left, stride = self.step.padding[1], self.step.stride[1]
        low = [max(0, -(-(left - int(phase)) // stride)) for _, phase in self.phases]
        high = [-(-(self.space[1] + left - int(phase)) // stride) for _, phase in self.phases]
        most = self.out_space[1] + int(self.shift[:, 1].max(initial=0))  # columns that are read
        self.pitch = max(*high, most - min(low), self.out_space[1], 1)
        self.tail = max(0, most - self.pitch)
        self.direct = self.step.weight.shape[2:] == (1, 1) and self.step.stride == (1, 1) and \
            self.step.padding == (0, 0) and self.space == self.out_space and not self.step.is_linear

    def _divide(self, threads: int) -> None:
        """Into tiles of samples, bands of lines and shares of outputs; channels into blocks."""
        height, width = self.out_space
        pixels = height * width
        is_1x1 = self.step.weight.shape[2:] == (1, 1) and self.step.padding == (0, 0)
        self.tokens = is_1x1 and pixels == 1 and self.space == (1, 1)
        self.samples, self.pixel = 1, 1
        if self.tokens and (self.batch > 1 or self.step.is_linear):
            most = max(1, min(64, -(-self.batch // threads)))
            self.samples = self.pixel = -(-self.batch // -(-self.batch // most))
        elif is_1x1 and pixels <= ROW // 2 and self.batch > 1:
            self.samples = -(-self.batch // -(-self.batch // max(1, ROW // pixels)))
        elif self.step.weight.shape[2:] != (1, 1) and pixels <= SMALL and self.batch >= 4:
            self.samples = self.pixel = -(-self.batch // -(-self.batch // LANES))
        self.direct &= self.samples == 1
        self.band = height
        one_line = self.pitch * self.pixel
        if self.samples == self.pixel:
            self.band = max(1, min(height, round(ROW / one_line)))
            self.band = -(-height // -(-height // self.band))
        self.lines = self.band + int(self.shift[:, 0].max(initial=0))
        region = self.lines * self.pitch + self.tail
        self.sample = region if self.pixel == 1 else 1
        self.row = region * self.samples
        self.length = self.band * one_line + (self.samples - 1) * self.sample * (self.pixel == 1)
        self.tiles, self.bands = -(-self.batch // self.samples), -(-height // self.band)
        row_of_sums = -(-self.length // LANES) * LANES
        shares = max(-(-3 * threads // (self.tiles * self.bands)) if threads > 1 else 1,
                     self.outputs * row_of_sums * self.bytes // SUMS)
        self.shares = max(1, min(shares, self.outputs // 8))
        at_a_time = len(self.phases) * self.row * self.bytes
        if self.direct:
            at_a_time = self.length * self.bytes
        read = max(1, len(self.weight) // self.rows)
        self.per_block = max(1, SCRATCH // at_a_time, self.channels * FEWEST // read)
        share = -(-self.rows // self.shares) * self.together
        # outputs beside each other are turned from rows of sums to lines of the result sixteen at a time
        self.sixteen = self.step.is_linear and self.together == 1
        self.buffer = share * row_of_sums + program.SLACK
        size = LANES * LANES
        if self.pixel == LANES:  # maps of sixteen samples, and of what is added
            read = min(self.space[0], self.lines * self.step.stride[0]) * self.space[1]
            size = LANES * max(LANES, read, 2 * self.band * self.out_space[1])
        self.sums = self.buffer + size
        self.private = self.sums + (0 if self.direct else self.per_block * len(self.phases) * self.row) + program.SLACK
        self.work = self.tiles * self.bands * (self.weight.size + self.outputs + self.channels) * -(-self.length // LANES)

    def _number(self) -> None:
        """The edges by share, block and output, each with the place that it reads in the memory of its block."""
        bounds = np.arange(self.shares + 1) * self.rows // self.shares
        share = np.searchsorted(bounds, self.output, side="right") - 1
        # of each share, the channels that it reads, in blocks of equal size
        keys, place = np.unique(share * self.channels + self.channel, return_inverse=True)
        share_of, channel_of = keys // self.channels, keys % self.channels
        begin = np.searchsorted(share_of, np.arange(self.shares + 1))
        read = np.diff(begin)
        self.blocks = max(1, -(-int(read.max(initial=0)) // self.per_block))
        within = np.arange(len(keys)) - begin[share_of]
        block_of = within // self.per_block
        block = block_of[place]
        counted = np.bincount(share_of * self.blocks + block_of, minlength=self.shares * self.blocks)
        self.block_begin = np.concatenate([[0], counted.cumsum()]).astype(np.int32)
        self.block_channels = channel_of.astype(np.int32)
        order = np.lexsort((self.shift[:, 1], self.shift[:, 0], self.phase_of, place, self.output, block, share))
        if self.direct:
            index = self.channel * math.prod(self.space)
        else:
            in_block = (within - block_of * self.per_block)[place]
            index = (in_block * len(self.phases) + self.phase_of) * self.row + \
                (self.shift[:, 0] * self.pitch + self.shift[:, 1]) * self.pixel
        if index.max(initial=0) >= 2**31:
            raise InputError(f"the maps of {self.step.name!r} are too large to be compiled: {self.channels} channels of "
                             f"{self.space[0]} x {self.space[1]} pixels, of at most 2^31 numbers.")
        sizes = np.diff(bounds)
        row = bounds[share] * self.blocks + block * sizes[share] + self.output - bounds[share]
        self.first = np.concatenate([[0], np.bincount(row, minlength=self.rows * self.blocks).cumsum()]).astype(np.int32)
        self.index = index[order].astype(np.int32)
        self.values = np.ascontiguousarray(self.weight[order])
        self.phase_starts = np.ascontiguousarray(self.phases.astype(np.int32))
        self.bias = np.zeros(self.rows * self.together, self.values.dtype)
        self.bias[:self.outputs] = self.step.bias[self.order]
        self.order = self.order.astype(np.int32)
        del self.weight, self.output, self.channel, self.phase, self.shift, self.phase_of

    def write(self, c) -> None:
        """Writes the instruction, but for the addresses of tensors."""
        step, size = self.step, self.bytes
        for name in ("batch", "samples", "bands", "band", "shares", "outputs", "lines", "pitch", "tail", "pixel", "sample",
                     "row", "direct", "blocks", "sums", "together",
                     "sixteen", "buffer", "tokens"):
            c[name] = getattr(self, name)
        c["kind"], c["units"] = program.CONVOLVE, self.tiles * self.bands * self.shares
        (c["height"], c["width"]), (c["out_height"], c["out_width"]) = self.space, self.out_space
        (c["stride_y"], c["stride_x"]), (c["top"], c["left"]) = step.stride, step.padding
        pixels, out_pixels = math.prod(self.space), math.prod(self.out_space)
        c["x_sample"], c["x_channel"] = self.channels * pixels * size, pixels * size
        c["out_sample"], c["out_channel"] = self.outputs * out_pixels * size, out_pixels * size
        c["other_sample"], c["other_channel"] = c["out_sample"], c["out_channel"]
        c["phases"] = len(self.phase_starts)
        for name, array in (("phase", self.phase_starts), ("channels", self.block_begin), ("channel", self.block_channels),
                            ("first", self.first), ("index", self.index), ("weight", self.values), ("bias", self.bias),
                            ("order", self.order)):
            c[name] = array.ctypes.data
        c["slope"], c["limit"] = step.slope, step.limit


class Pooling:
    """The instruction of a pooling; arguments and attributes as of :class:`Convolving`."""

    def __init__(self, step: Pool, source: tuple[int, ...], shape: tuple[int, ...], dtype: torch.dtype, threads: int):
        self.step, self.bytes = step, dtype.itemsize
        self.batch, self.channels = source[:2]
        self.space = source[2:]
        self.out_space = (1, 1) if len(shape) < 4 else shape[2:]
        self.shares = max(1, min(self.channels // 4, -(-3 * threads // self.batch)))
        self.private = step.padding[1] + self.space[1] + step.kernel[1] + 3 * LANES
        self.work = self.batch * self.channels * math.prod(self.out_space) * sum(step.kernel) // 2

    def write(self, c) -> None:
        step = self.step
        c["kind"] = program.MEAN if step.is_mean else program.MAXIMUM
        c["batch"], c["shares"], c["units"], c["outputs"] = self.batch, self.shares, self.batch * self.shares, self.channels
        (c["height"], c["width"]), (c["out_height"], c["out_width"]) = self.space, self.out_space
        (c["stride_y"], c["stride_x"]), (c["top"], c["left"]) = step.stride, step.padding
        (c["kernel_y"], c["kernel_x"]), c["divisor"] = step.kernel, step.divisor
        pixels, out_pixels = math.prod(self.space), math.prod(self.out_space)
        c["x_sample"], c["x_channel"] = self.channels * pixels * self.bytes, pixels * self.bytes
        c["out_sample"], c["out_channel"] = self.channels * out_pixels * self.bytes, out_pixels * self.bytes


def sides_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of maps (B, C, *sides); a signal is one line."""
    height, width = (1, *shape[2:])[-2:]
    return height, width
