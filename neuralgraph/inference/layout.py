"""A plan laid out for maps of one size: where everything is in memory, and the instructions."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator

import numpy as np
import torch

from ..errors import InputError
from ..kernels import instructions, program
from ..kernels.formulas import compiled_formula
from ..kernels.tile_maps import is_swept, too_many
from ..nodes import Affine, Convolve, Pointwise, scalar
from ..plan import Group, Plan, reduced
from ..wiring.devices import on_cpu
from .ends import NO_ENDS, Ends
from .passes import MapPass, cropped, passes_of, taken
from .rows import Rows, lifetimes, num_nodes, popped

BAND = 2048  # numbers of a sum that are convolved while they are in the first cache, about
FILLED_UP = 1.6  # four nodes are summed at once if that makes at most so many times their edges


class ProgramLayout:
    """Where everything is in memory, for one size of maps, and the instructions that say so.

    Args:
        plan: of the network.
        space: the sides of the data's maps.
        samples: in a tile, 1, 2, 4 or 8. They share rows, pixel by pixel.
        team: how many threads work on one tile.
        threads: in all.
        ends: what stands around the network and is computed with it.
        storage: of the rows, the type of the plan's numbers or one of 16 bits.
    """

    def __init__(self, plan: Plan, space: tuple[int, ...], samples: int, team: int, threads: int, ends: Ends = NO_ENDS,
                 storage: torch.dtype | None = None):
        self.plan, self.samples, self.ends, self.storage = plan, samples, ends, storage or plan.dtype
        self.data, self.space = space, reduced(space, ends.stride)  # sides of the data, and of the network's inputs
        self.team, self.threads = team, threads
        # arrays whose addresses are in instructions, and what layouts are told apart by
        self._keep: list = [*ends.numbers()]
        count = num_nodes(plan)
        self.row = np.full(count, -1, np.int64)  # first number of each node's row, in units of LANES
        self.edges = np.searchsorted(plan.dst, np.arange(count + 1))
        self.scratch: dict[tuple, int] = {}
        self.private = self._private()
        rows = Rows()
        for group in plan.before:
            self.row[group.nodes] = rows.take(self._row_size(group), len(group.nodes))
        self._place(rows)
        # of all rows, in numbers of the plan; behind them stand the data, with zeros around
        self.maps = max(1, rows.size) * instructions.LANES * self.storage.itemsize // plan.dtype.itemsize
        self.frame = np.zeros(1, instructions.PASS)
        self.space_size = self.maps + (0 if ends.stem is None else self._framed(ends.stem.in_channels))
        self.before = self._code(plan.before, 1)
        self.code = self._code(plan.groups, team)
        if ends.stem is not None:
            self.code = np.concatenate([self._bordering(ends.stem.in_channels), self.code])
        self.free: list[tuple[torch.Tensor, torch.Tensor]] = []

    def output_shape(self, batch: int) -> tuple[int, ...]:
        space = () if self.ends.pooled else self.plan.output_space(self.space)
        return batch, self.plan.num_outputs, *space

    def run(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Computes the result for x, whose maps are contiguous, into a contiguous tensor.

        Raises:
            InputError: if a map has numbers that its storage cannot hold.
        """
        tiles = -(-len(x) // self.samples)
        space, private = popped(self.free) or self._workspace()
        self._launch(self.code, self.team, tiles, x, out, space, private)
        self.free.append((space, private))
        return out

    def _launch(self, code, team, tiles, x, out, space, private):
        size = x.element_size()
        barrier, too_large = (ctypes.c_int64 * 2)(), ctypes.c_int64()
        units = team if team > 1 else min(tiles, self.threads)
        program.run(self.storage, units, program.run.fields(
            team=team, tiles=tiles, samples=self.samples, batch=len(x), code=code.ctypes.data, length=len(code),
            space=space.data_ptr(), space_size=self.space_size, x=x.data_ptr(), x_sample=x.stride(0) * size,
            x_row=x.stride(1) * size, out=out.data_ptr(), out_sample=out.stride(0) * size,
            private=private.data_ptr(), private_size=self.private, barrier=ctypes.addressof(barrier),
            too_large=ctypes.addressof(too_large)))
        if too_large.value:
            other = "with storage=torch.bfloat16, or " if self.storage == torch.float16 else ""
            raise InputError(f"there are maps with numbers above {torch.finfo(self.storage).max:.5g}, which {self.storage} "
                             f"cannot hold: compile the model {other}without storage.")

    @on_cpu
    def _workspace(self):
        """Fresh memory, in which what does not depend on the data is computed already."""
        dtype = self.plan.dtype
        copies = self.threads if self.team == 1 else 1
        space = torch.zeros(copies, self.space_size, dtype=dtype)
        private = torch.zeros(self.threads, self.private, dtype=dtype)
        if len(self.before):
            empty = torch.empty(self.samples, 1, dtype=dtype)
            for one in space:
                self._launch(self.before, 1, 1, empty, empty, one, private)
        return space, private

    # ------------------------------------------------------------------------------ where rows are

    def _map(self, scale: int) -> tuple[int, int, int]:
        """Depth, height and width of maps; a signal is one row of an image, an image one slice."""
        depth, height, width = *[1] * (3 - self.plan.dims), *reduced(self.space, scale)
        return depth, height, width

    def _row_size(self, group: Group) -> int:
        """Of the group's messages, in units of LANES."""
        space = self._map(group.scale * group.stride)
        numbers = self.samples * math.prod(space) + too_many(self.samples * space[-1])
        line, far = 64 // (instructions.LANES * self.storage.itemsize), 4096 // (instructions.LANES * self.storage.itemsize)
        units = -(-numbers // instructions.LANES)
        units += -units % max(1, line)  # whole lines of the cache
        return units + max(1, line) * (units % far == 0)  # rows 4096 bytes apart share the same few sets of the cache

    def _place(self, rows: Rows) -> None:
        """Gives rows to all nodes, those whose last reader is done again."""
        plan = self.plan
        _, last = lifetimes(plan)
        leaving: dict[int, list[tuple[int, np.ndarray]]] = {}
        for group in plan.groups:
            if group.outputs is not None:
                continue
            for past in [at for at in leaving if at < group.level]:
                for size, some in leaving.pop(past):
                    rows.give(size, some)
            size = self._row_size(group)
            self.row[group.nodes] = rows.take(size, len(group.nodes))
            for at in np.unique(last[group.nodes]).tolist():
                some = self.row[group.nodes[last[group.nodes] == at]]
                leaving.setdefault(at, []).append((size, some))

    def _private(self) -> int:
        """The memory a thread needs for itself: ten rows, and a bordered map per kind of convolution."""
        groups = [*self.plan.groups, *self.plan.before]
        longest = max((math.prod(self._map(group.scale)) for group in groups), default=1)
        longest = max(longest, self.data[-1] if self.data else 1)
        # of each row 16 numbers before and after may be read
        row = -(-self.samples * longest // instructions.LANES) * instructions.LANES + 2 * instructions.LANES
        self.between = 7 * row + instructions.LANES
        size = 10 * row
        self.small, self.term = self.between + row, self.between + 2 * row
        for group in groups:
            for map_pass, space in self._passes(group):
                if map_pass.convolution is not None:
                    side, stride = key = self._convolution(map_pass.convolution, space)
                    if (space, key) not in self.scratch:
                        _, height, width = space
                        self.scratch[space, key] = size
                        lines = (height + 2 * (side // 2)) * (stride if self.samples == 1 else 1)
                        size += lines * self._pitch(width, side, stride) + instructions.LANES
        return size

    @staticmethod
    def _convolution(convolution: Convolve, space: tuple[int, int, int]) -> tuple[int, int]:
        """The kernel's side and the stride, as far as they can matter for maps of this depth, height and width."""
        longest = max(space)
        return min(convolution.kernel.shape[-1], 2 * longest - 1), min(convolution.stride, longest)

    def _pitch(self, width: int, side: int, stride: int) -> int:
        """Numbers from one row of a bordered map to the next; of one sample, a row is ``stride`` rows of every such pixel."""
        columns = width + 2 * (side // 2)
        return instructions.LANES + (-(-columns // stride) if self.samples == 1 else self.samples * columns)

    def _passes(self, group: Group) -> Iterator[tuple[MapPass, tuple[int, int, int]]]:
        """Each pass with the depth, height and width of the maps it gets."""
        scale = group.scale
        for map_pass in passes_of(group.steps):
            yield map_pass, self._map(scale)
            scale *= map_pass.shrinks

    # ------------------------------------------------------------------------------ instructions

    def _code(self, groups: list[Group], team: int) -> np.ndarray:
        pieces = [piece for group in groups for piece in self._in_fours(group, team)]
        code = np.zeros(len(pieces), instructions.INSTRUCTION)
        for number, (group, fours) in enumerate(pieces):
            is_last = number + 1 == len(pieces) or pieces[number + 1][0].level > group.level
            self._instruct(code[number], group, fours, team, is_last)
        return code

    def _in_fours(self, group: Group, team: int) -> list[tuple[Group, bool]]:
        """The group as one whose nodes share their parents, four after four, and one of the others."""
        if group.kind != "sum" or len(group.nodes) < 4 * team:
            return [(group, False)]
        parents = [self.plan.src[self.edges[node]:self.edges[node + 1]] for node in group.nodes]
        alike = np.array(sorted(range(len(parents)), key=lambda n: (len(parents[n]), parents[n].tobytes())))
        shares = np.zeros(len(parents), bool)
        for four in alike[:len(alike) // 4 * 4].reshape(-1, 4):
            edges = sum(len(parents[node]) for node in four)
            union = len(np.unique(np.concatenate([parents[node] for node in four])))
            shares[four] = edges and 4 * union <= FILLED_UP * edges
        return [(group.of(alike[mask]), fours) for mask, fours in
                ((shares[alike], True), (~shares[alike], False)) if mask.any()]

    def _fours(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For four nodes after four: where their parents begin, these, and a weight of each for each."""
        lists = []
        for four in nodes.reshape(-1, 4):
            edges = [np.arange(self.edges[node], self.edges[node + 1]) for node in four]
            union = np.unique(self.plan.src[np.concatenate(edges)])
            weights = np.zeros((len(union), 4), self.plan.weight.dtype)
            for lane, own in enumerate(edges):
                weights[np.searchsorted(union, self.plan.src[own]), lane] = self.plan.weight[own]
            lists.append((union, weights))
        return _one_after_the_other(lists)

    def _bordering(self, channels: int) -> np.ndarray:
        """The instruction that copies the data's channels, with zeros around them."""
        code = np.zeros(1, instructions.INSTRUCTION)
        code["kind"], code["frame"] = instructions.BORDER, self.frame.ctypes.data
        code["channels"] = self._at(np.arange(channels, dtype=np.int32))
        code["bounds"] = self._at((np.arange(self.team + 1) * channels // self.team).astype(np.int32))
        code["waits"] = 1
        return code

    def _framed(self, channels: int) -> int:
        """Says how the data are laid out with zeros around them; returns how many numbers they are."""
        (height, width), frame, side, stride = self.data, self.frame[0], self.ends.side, self.ends.stride
        frame["height"], frame["width"], frame["out_height"], frame["out_width"] = height, width, *self.space
        frame["side"], frame["stride"], frame["scratch"] = side, stride, self.maps
        frame["pitch"] = pitch = -(-(width + 2 * (side // 2)) // stride) * self.samples
        # what is left of the last 16 lies behind the last row; so does the row that a stride does not reach
        size = (channels * (height + 2 * (side // 2)) + side) * stride * pitch + 2 * instructions.LANES
        if size >= 2**31:  # places in it are of 32 bits
            raise InputError(f"images of {height} x {width} pixels are too large to compile: use the model itself.")
        return size

    def _filters(self, channels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """As :meth:`_fours`, of a stem's outputs, and their biases: where each tap lies, for the first pixel."""
        kernel, bias = (values[channels] for values in self.ends.filters())
        frame = self.frame[0]
        side, stride, pitch, lines = (int(frame[name]) for name in ("side", "stride", "pitch", "height"))
        lines += 2 * (side // 2)
        channel, y, x = np.indices(kernel.shape[1:])
        places = (((channel * lines + y) * stride + x % stride) * pitch + x // stride * self.samples).ravel()
        kernel = kernel.reshape(len(kernel), -1)
        lists = []
        for four in range(0, len(kernel), 4):
            own = kernel[four:four + 4]
            used = np.flatnonzero(own.any(0))
            weights = np.zeros((len(used), 4), kernel.dtype)
            weights[:, :len(own)] = own[:, used].T
            lists.append((places[used], weights))
        return *_one_after_the_other(lists), bias

    def _instruct(self, word, group: Group, fours: bool, team: int, waits: bool) -> None:
        nodes, passes = group.nodes, list(self._passes(group))
        begin, end = self.edges[nodes], self.edges[nodes + 1]
        count = end - begin
        pixels = math.prod(self._map(group.scale))
        targets = self.row[nodes] if group.outputs is None else group.outputs
        channels = nodes if group.channels is None else group.channels
        bias = np.zeros(len(nodes))
        if group.kind == "input" and self.ends.stem is not None:
            first, index, weight, bias = self._filters(channels)
            word["kind"], fours, count = instructions.STEM, True, np.full(len(nodes), len(weight) // max(1, len(nodes)))
        elif fours:
            first, parents, weight = self._fours(nodes)
            index = self.row[parents]
            word["kind"] = instructions.FOUR_SUMS
        else:
            first = np.concatenate([[0], count.cumsum()])
            edges = np.arange(first[-1]) + (begin - first[:-1]).repeat(count)
            index, weight = self.row[self.plan.src[edges]], self.plan.weight[edges]
            word["kind"] = {"sum": instructions.SUM, "product": instructions.PRODUCT, "input": instructions.INPUT}[group.kind]
        work = (count + 12 * len(passes)) * pixels + 1
        share = 4 * _shares(np.add.reduceat(work, np.arange(0, len(work), 4)), team) if fours else _shares(work, team)
        word["slope"] = 1.0
        if word["kind"] not in (instructions.INPUT, instructions.PRODUCT):
            owner = np.arange(len(first) - 1).repeat(np.diff(first))
            if fours:
                owner = 4 * owner[:, None] + np.arange(4)
            weight, bias, word["slope"], passes = taken(weight, bias, owner, passes)
        word["first"] = self._at(first.astype(np.int32))
        word["index"] = self._at(index.astype(np.int32))
        word["weight"] = self._number(weight)
        word["bias"] = self._number(np.concatenate([bias, np.zeros(3)]))
        word["pixels"] = pixels
        word["passes"] = len(passes)
        words = np.zeros(max(1, len(passes)), instructions.PASS)
        for pass_word, (map_pass, space) in zip(words, passes):
            self._pass(pass_word, map_pass, space)
        word["passes_at"] = self._at(words)
        word["frame"] = self.frame.ctypes.data
        word["band"] = self._band(words, len(passes), word["kind"]) if group.outputs is None else 0
        word["to_output"] = group.outputs is not None
        word["pooled"] = self.ends.pooled and group.outputs is not None
        word["targets"] = self._at(targets.astype(np.int32))
        word["out_pixels"] = math.prod(self._map(group.scale * group.stride))
        word["channels"] = self._at(channels.astype(np.int32))
        word["bounds"] = self._at(np.array([0, *share, len(nodes)], np.int32))
        word["waits"] = waits

    def _band(self, words: np.ndarray, passes: int, kind: int) -> int:
        """Rows of the results that are computed at a time; 0 where sums are not followed by a plain 3x3 convolution only."""
        word = words[0]
        sums = kind in (instructions.SUM, instructions.FOUR_SUMS, instructions.STEM)
        alone = passes == 1 and word["norm"] == instructions.PLAIN and not word["function"] and word["slope"] == 1
        swept = is_swept.py_func(word["side"], word["stride"]) and word["depth_side"] == 1 and not word["padded"]
        if not (sums and alone and swept):
            return 0
        rows = BAND // (word["width"] * self.samples * word["stride"] * (1 if kind == instructions.SUM else 2))
        return int(min(word["out_height"], max(1, rows)))

    def _pass(self, word, map_pass: MapPass, space: tuple[int, int, int]) -> None:
        word["norm"] = instructions.PLAIN
        if map_pass.norm is not None:
            word["norm"] = instructions.AFFINE if isinstance(map_pass.norm, Affine) else instructions.INSTANCE
            word["epsilon"] = getattr(map_pass.norm, "epsilon", 0.0)
            word["scale"], word["shift"] = self._number(map_pass.norm.scale), self._number(map_pass.norm.shift)
        word["slope"] = 1.0
        if map_pass.activation is not None:
            self._activation(word, map_pass.activation)
        word["depth"], word["height"], word["width"] = space
        word["between"], word["small"], word["term"] = self.between, self.small, self.term
        if map_pass.convolution is not None:
            side, stride = key = self._convolution(map_pass.convolution, space)
            kernel = cropped(map_pass.convolution.kernel, max(space))
            if self.plan.dims == 1:  # in the middle row of a square
                square = np.zeros((len(kernel), side, side), kernel.dtype)
                square[:, side // 2] = kernel
                kernel = square
            word["side"], word["stride"], word["kernel"] = side, stride, self._number(kernel)
            word["depth_side"] = side if self.plan.dims == 3 else 1
            word["out_depth"], word["out_height"], word["out_width"] = (-(-s // stride) for s in space)
            word["pitch"], word["scratch"] = self._pitch(space[2], side, stride), self.scratch[space, key]
            word["padded"] = map_pass.convolution.zero_pad and stride > 1

    def _activation(self, word, activation: Pointwise) -> None:
        form = scalar(activation.name)
        if form.slope is not None:
            word["slope"] = form.slope
            return
        values = activation.parameters
        assert form.formula is not None  # what has none is refused before
        word["function"] = compiled_formula(form.formula, self.plan.dtype, values.shape[1], activation.name)
        word["num_values"], word["values"] = values.shape[1], self._number(values)

    def _number(self, values: np.ndarray) -> int:
        return self._at(values.astype(np.float32 if self.plan.dtype == torch.float32 else np.float64))

    def _at(self, values: np.ndarray) -> int:
        """The address of a copy that lives as long as this layout."""
        values = np.ascontiguousarray(values)
        self._keep.append(values)
        return values.ctypes.data


def _one_after_the_other(lists: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where lists of rows and their weights begin, all rows, and all weights."""
    index, weight = (np.concatenate(parts) for parts in zip(*lists))
    return np.array([0, *(len(rows) for rows, _ in lists)]).cumsum(), index, weight


def _shares(work: np.ndarray, team: int) -> np.ndarray:
    """Where the shares of all threads but the first begin."""
    return np.searchsorted(work.cumsum(), work.sum() * np.arange(1, team) / team, side="right")
