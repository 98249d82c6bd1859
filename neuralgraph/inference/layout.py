"""A plan laid out for maps of one size: where everything is in memory, and the instructions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..kernels import program
from ..kernels.formulas import compiled_formula
from ..nodes import Affine, Convolve, Pointwise, scalar
from ..plan import Group, Plan, reduced
from ..wiring.devices import on_cpu
from .passes import MapPass, cropped, passes_of

FILLED_UP = 1.6  # four nodes are summed at once if that makes at most so many times their edges


class ProgramLayout:
    """Where everything is in memory, for one size of maps, and the instructions that say so.

    Args:
        plan: of the network.
        space: the sides of the data's maps.
        samples: in a tile, 1, 2, 4 or 8. They share rows, pixel by pixel.
        team: how many threads work on one tile.
        threads: in all.
    """

    def __init__(self, plan: Plan, space: tuple[int, ...], samples: int, team: int, threads: int):
        self.plan, self.space, self.samples = plan, space, samples
        self.team, self.threads = team, threads
        self._keep: list = []  # arrays whose addresses are in instructions
        count = _count(plan)
        self.row = np.full(count, -1, np.int64)  # first number of each node's row, in units of LANES
        self.edges = np.searchsorted(plan.dst, np.arange(count + 1))
        self.scratch: dict[tuple, int] = {}
        self.private = self._private()
        rows = _Rows()
        for group in plan.before:
            self.row[group.nodes] = rows.take(self._row_size(group), len(group.nodes))
        self._place(rows)
        self.space_size = max(1, rows.size) * program.LANES
        self.before = self._code(plan.before, 1)
        self.code = self._code(plan.groups, team)
        self.free: list[tuple[torch.Tensor, torch.Tensor]] = []

    def output_shape(self, batch: int) -> tuple[int, ...]:
        return batch, self.plan.num_outputs, *self.plan.output_space(self.space)

    def run(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Computes the result for x, whose maps are contiguous, into a contiguous tensor."""
        tiles = -(-len(x) // self.samples)
        space, private = popped(self.free) or self._workspace()
        self._launch(self.code, self.team, tiles, x, out, space, private)
        self.free.append((space, private))
        return out

    def _launch(self, code, team, tiles, x, out, space, private):
        size = x.element_size()
        barrier = np.zeros(2, np.int64)
        units = team if team > 1 else min(tiles, self.threads)
        program.run(x.dtype, units, program.run.fields(
            team=team, tiles=tiles, samples=self.samples, batch=len(x), code=code.ctypes.data, length=len(code),
            space=space.data_ptr(), space_size=self.space_size, x=x.data_ptr(), x_sample=x.stride(0) * size,
            x_row=x.stride(1) * size, out=out.data_ptr(), out_sample=out.stride(0) * size,
            private=private.data_ptr(), private_size=self.private, barrier=barrier.ctypes.data))

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
        pixels = math.prod(self._map(group.scale * group.stride))
        units = -(-self.samples * pixels // program.LANES)
        return units + (units % 64 == 0)  # rows 4096 bytes apart share the same few sets of the cache

    def _place(self, rows: _Rows) -> None:
        """Gives rows to all nodes, those whose last reader is done again."""
        plan = self.plan
        _, last = _lifetimes(plan)
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
        row = -(-self.samples * longest // program.LANES) * program.LANES
        self.between = 7 * row
        size = self.between + 3 * row
        self.small, self.term = self.between + row, self.between + 2 * row
        for group in groups:
            for map_pass, space in self._passes(group):
                if map_pass.convolution is not None:
                    side, stride = key = self._convolution(map_pass.convolution, space)
                    if (space, key) not in self.scratch:
                        _, height, width = space
                        self.scratch[space, key] = size
                        lines = (height + 2 * (side // 2)) * (stride if self.samples == 1 else 1)
                        size += lines * self._pitch(width, side, stride) + program.LANES
        return size

    @staticmethod
    def _convolution(convolution: Convolve, space: tuple[int, int, int]) -> tuple[int, int]:
        """The kernel's side and the stride, as far as they can matter for maps of this depth, height and width."""
        longest = max(space)
        return min(convolution.kernel.shape[-1], 2 * longest - 1), min(convolution.stride, longest)

    def _pitch(self, width: int, side: int, stride: int) -> int:
        """Numbers from one row of a bordered map to the next; of one sample, a row is ``stride`` rows of every such pixel."""
        columns = width + 2 * (side // 2)
        return program.LANES + (-(-columns // stride) if self.samples == 1 else self.samples * columns)

    def _passes(self, group: Group) -> Iterator[tuple[MapPass, tuple[int, int, int]]]:
        """Each pass with the depth, height and width of the maps it gets."""
        scale = group.scale
        for map_pass in passes_of(group.steps):
            yield map_pass, self._map(scale)
            scale *= map_pass.shrinks

    # ------------------------------------------------------------------------------ instructions

    def _code(self, groups: list[Group], team: int) -> np.ndarray:
        pieces = [piece for group in groups for piece in self._in_fours(group, team)]
        code = np.zeros(len(pieces), program.INSTRUCTION)
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
        first, index, weight = [0], [], []
        for four in nodes.reshape(-1, 4):
            edges = [np.arange(self.edges[node], self.edges[node + 1]) for node in four]
            union = np.unique(self.plan.src[np.concatenate(edges)])
            weights = np.zeros((len(union), 4), self.plan.weight.dtype)
            for lane, own in enumerate(edges):
                weights[np.searchsorted(union, self.plan.src[own]), lane] = self.plan.weight[own]
            first.append(first[-1] + len(union))
            index.append(union)
            weight.append(weights)
        return np.array(first), np.concatenate(index), np.concatenate(weight)

    def _instruct(self, word, group: Group, fours: bool, team: int, waits: bool) -> None:
        nodes, passes = group.nodes, list(self._passes(group))
        begin, end = self.edges[nodes], self.edges[nodes + 1]
        count = end - begin
        pixels = math.prod(self._map(group.scale))
        targets = self.row[nodes] if group.outputs is None else group.outputs
        work = (count + 12 * len(passes)) * pixels + 1
        if fours:
            share = 4 * _shares(work.reshape(-1, 4).sum(1), team)
            first, parents, weight = self._fours(nodes)
            word["kind"] = program.FOUR_SUMS
        else:
            share = _shares(work, team)
            first = np.concatenate([[0], count.cumsum()])
            edges = np.arange(first[-1]) + (begin - first[:-1]).repeat(count)
            parents, weight = self.plan.src[edges], self.plan.weight[edges]
            word["kind"] = {"sum": program.SUM, "product": program.PRODUCT, "input": program.INPUT}[group.kind]
        word["first"] = self._at(first.astype(np.int32))
        word["index"] = self._at(self.row[parents].astype(np.int32))
        word["weight"] = self._number(weight)
        word["pixels"] = pixels
        word["passes"] = len(passes)
        words = np.zeros(max(1, len(passes)), program.PASS)
        for pass_word, (map_pass, space) in zip(words, passes):
            self._pass(pass_word, map_pass, space)
        word["passes_at"] = self._at(words)
        word["to_output"] = group.outputs is not None
        word["targets"] = self._at(targets.astype(np.int32))
        word["out_pixels"] = math.prod(self._map(group.scale * group.stride))
        word["channels"] = self._at((nodes if group.channels is None else group.channels).astype(np.int32))
        word["bounds"] = self._at(np.array([0, *share, len(nodes)], np.int32))
        word["waits"] = waits

    def _pass(self, word, map_pass: MapPass, space: tuple[int, int, int]) -> None:
        word["norm"] = program.PLAIN
        if map_pass.norm is not None:
            word["norm"] = program.AFFINE if isinstance(map_pass.norm, Affine) else program.INSTANCE
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


def _shares(work: np.ndarray, team: int) -> np.ndarray:
    """Where the shares of all threads but the first begin."""
    return np.searchsorted(work.cumsum(), work.sum() * np.arange(1, team) / team, side="right")


def _count(plan: Plan) -> int:
    """One more than the largest number of a node."""
    return 1 + max((int(group.nodes.max()) for group in (*plan.groups, *plan.before)), default=0)


def _lifetimes(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """The level at which each node is computed, and the last one at which its map is needed; (count,) each."""
    level = np.zeros(_count(plan), int)
    for group in plan.groups:
        level[group.nodes] = group.level
    last = level.copy()
    np.maximum.at(last, plan.src, level[plan.dst])
    return level, last


def largest_level(plan: Plan, space: tuple[int, ...]) -> int:
    """Numbers, per sample, of all maps that are needed at the same time, where they are most."""
    level, last = _lifetimes(plan)
    size = np.zeros(len(level))
    for group in plan.groups:
        if group.outputs is None:
            size[group.nodes] = math.prod(reduced(space, group.scale * group.stride))
    change = np.zeros(2 + level.max(initial=0))
    np.add.at(change, level, size)
    np.subtract.at(change, last + 1, size)
    return max(1, int(change.cumsum().max()))


def popped(free: list) -> Any:
    """One of them, or None; another thread may take the last at any moment."""
    try:
        return free.pop()
    except IndexError:
        return None


class _Rows:
    """Rows of a workspace, taken and given back; all numbers are in units of LANES."""

    def __init__(self) -> None:
        self.size = 0
        self.gaps: list[tuple[int, int]] = []  # from, to: ascending, none touches the next

    def take(self, size: int, number: int) -> np.ndarray:
        """Where so many rows begin: in gaps, the lowest first, then at the end."""
        rows, gaps = [np.zeros(0, np.int64)], []
        for begin, end in self.gaps:
            here = min(number, (end - begin) // size)
            rows.append(begin + size * np.arange(here))
            number -= here
            if begin + size * here < end:
                gaps.append((begin + size * here, end))
        self.gaps = gaps
        rows.append(self.size + size * np.arange(number))
        self.size += size * number
        return np.concatenate(rows)

    def give(self, size: int, rows: np.ndarray) -> None:
        begin = np.sort(np.concatenate([rows, *([b] for b, _ in self.gaps)]))
        ends = dict(self.gaps)
        gaps: list[tuple[int, int]] = []
        for start in begin.tolist():
            end = ends.get(start, start + size)
            if gaps and gaps[-1][1] == start:
                gaps[-1] = gaps[-1][0], end
            else:
                gaps.append((start, end))
        self.gaps = gaps
