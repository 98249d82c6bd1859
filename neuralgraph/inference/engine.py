"""A plan laid out for maps of one size, and run."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch
from torch import nn

from .. import kernels
from ..errors import InputError
from ..nodes.operations import EPSILON
from .plan import Group, Part, Plan, joined

if kernels.AVAILABLE:
    from ..kernels import program
    from ..kernels.launch import team_size
    from ..nodes.fused import SLOPES

KEPT = 16  # sizes of maps and batches whose layouts are kept
FILLED_UP = 1.6  # four nodes are summed at once if that makes at most so many times their edges
ROW = 64  # numbers that a row of the workspace has at least, where the batch is large enough


class CompiledNetwork(nn.Module):
    """A network, or several of which each takes the outputs of the one before, fast to run.

    x (B, inputs, H, W) to y (B, outputs, H', W') for any B, H and W, on the CPU; it can no longer be
    trained. What depends on the size of maps is laid out when it is first seen, and so is what depends
    on how many samples and threads there are; the last few of these are kept. Outputs that no later
    network reads may be left out.

    Args:
        plans: of the networks.

    Raises:
        InputError: without numba, or if a network does not take the outputs of the one before.
    """

    def __init__(self, *plans: Plan):
        super().__init__()
        if not kernels.AVAILABLE:
            raise InputError("a compiled network needs numba, which is not installed or switched off: "
                             "pip install numba.")
        self.plans = plans
        self._layouts: dict[tuple, _Layouts] = {}  # the least recently used first
        if not plans:
            raise InputError("a compiled network needs at least one plan.")
        if len(plans[-1].written) != plans[-1].num_outputs:
            raise InputError("an output of the last network is missing.")
        for first, second in zip(plans, plans[1:]):
            if first.num_outputs != second.num_inputs or first.dtype != second.dtype or \
                    not first.written >= second.read:
                raise InputError("a network does not take the outputs of the one before.")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inputs, dtype = self.plans[0].num_inputs, self.plans[0].dtype
        if not isinstance(x, torch.Tensor) or x.dim() != 4 or x.shape[1] != inputs or \
                x.dtype != dtype or x.device.type != "cpu" or 0 in x.shape:
            got = f"{x.dtype} {tuple(x.shape)} on {x.device}" if isinstance(x, torch.Tensor) \
                else type(x).__name__
            raise InputError(f"a compiled network takes a {dtype} tensor (batch, {inputs}, "
                             f"height, width) on the CPU, got {got}.")
        if torch.is_grad_enabled() and x.requires_grad:
            raise InputError("a compiled network has no gradients: use torch.no_grad(), or the network "
                             "it was compiled from.")
        x = x.detach()
        if x.stride(3) != 1 and x.shape[3] > 1 or x.stride(2) != x.shape[3] and x.shape[2] > 1:
            x = x.contiguous()
        return self._laid_out(x.shape).run(x)

    def _laid_out(self, shape: tuple[int, ...]) -> _Layouts:
        """The networks for maps of a shape; neighbours that are best run in the same tiles are one."""
        batch, _, height, width = shape
        threads, sizes, tiles = torch.get_num_threads(), [], []
        for plan in self.plans:
            samples = _samples(plan, batch, height, width, threads)
            team = 1 if -(-batch // samples) >= threads else team_size()
            sizes.append((height, width))
            tiles.append((samples, team))
            height, width = plan.output_size(height, width)
        key = sizes[0], threads, *tiles
        found = self._layouts.pop(key, None)
        if found is None:
            found, first = _Layouts(), 0
            for (samples, team), alike in itertools.groupby(tiles):
                last = first + len(list(alike))
                whole = functools.reduce(joined, self.plans[first:last])
                found.layouts.append(_Layout(whole, *sizes[first], samples, team, threads))
                first = last
        self._layouts[key] = found
        if len(self._layouts) > KEPT:
            self._layouts.pop(next(iter(self._layouts)), None)
        return found

    def extra_repr(self) -> str:
        return (f"{self.plans[0].num_inputs} inputs, {self.plans[-1].num_outputs} outputs, "
                f"{sum(len(group.nodes) for plan in self.plans for group in plan.groups)} nodes, "
                f"{sum(len(plan.src) for plan in self.plans)} edges")

    def __getstate__(self):
        return {**self.__dict__, "_layouts": {}}  # addresses mean nothing elsewhere

    def __deepcopy__(self, memo) -> CompiledNetwork:
        return CompiledNetwork(*self.plans).train(self.training)  # nothing changes the plans


class _Layouts:
    """The networks for one size of maps, and the maps between them, kept for the next time."""

    def __init__(self):
        self.layouts: list[_Layout] = []
        self.free: list[tuple[int, list[torch.Tensor]]] = []  # with their batch

    def run(self, x: torch.Tensor) -> torch.Tensor:
        batch, between = _pop(self.free) or (0, [])
        if batch != len(x):
            batch, between = len(x), [x.new_empty(layout.output_shape(len(x)))
                                      for layout in self.layouts[:-1]]
        for layout, maps in zip(self.layouts, between):
            x = layout.run(x, maps)
        last = self.layouts[-1]
        y = last.run(x, x.new_empty(last.output_shape(batch)))
        self.free.append((batch, between))
        return y


def _pop(free: list):
    """One of them, or None; another thread may take the last at any moment."""
    try:
        return free.pop()
    except IndexError:
        return None


def _samples(plan: Plan, batch: int, height: int, width: int, threads: int) -> int:
    """Samples per tile: as many as fill a row of the smallest maps, and leave work for all threads."""
    smallest = min((-(-height // group.scale) * -(-width // group.scale) for group in plan.groups
                    if group.kind != "input"), default=ROW)
    return max(1, min(ROW // smallest, batch // threads))


class _Layout:
    """Where everything is in memory, for one size of maps, and the instructions that say so."""

    def __init__(self, plan: Plan, height: int, width: int, samples: int, team: int, threads: int):
        self.plan, self.size, self.samples = plan, (height, width), samples
        self.team, self.threads = team, threads
        self._keep: list = []  # arrays whose addresses are in instructions
        count = 1 + max((int(g.nodes.max()) for g in (*plan.groups, *plan.before)), default=0)
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
        return batch, self.plan.num_outputs, *self.plan.output_size(*self.size)

    def run(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Computes the result for x, whose maps are contiguous, into a contiguous tensor."""
        tiles = -(-len(x) // self.samples)
        space, private = _pop(self.free) or self._workspace()
        self._launch(self.code, self.team, tiles, x, out, space, private)
        self.free.append((space, private))
        return out

    def _launch(self, code, team, tiles, x, out, space, private):
        size = x.element_size()
        barrier = np.zeros(2, np.int64)
        units = team if team > 1 else min(tiles, self.threads)
        program.run(x.dtype, units, team, tiles, self.samples, len(x), code.ctypes.data, len(code),
                    space.data_ptr(), self.space_size, x.data_ptr(), x.stride(0) * size,
                    x.stride(1) * size, out.data_ptr(), out.stride(0) * size, private.data_ptr(),
                    self.private, barrier.ctypes.data)

    def _workspace(self):
        """Fresh memory, in which what does not depend on the data is computed already."""
        dtype = self.plan.dtype
        copies = self.threads if self.team == 1 else 1
        space = torch.zeros(copies, self.space_size, dtype=dtype)
        private = torch.zeros(self.threads, self.private, dtype=dtype)
        if len(self.before):
            empty = torch.empty(self.samples, 1, 1, 1, dtype=dtype)
            for one in space:
                self._launch(self.before, 1, 1, empty, empty, one, private)
        return space, private

    # ------------------------------------------------------------------------------ where rows are

    def _map(self, scale: int) -> tuple[int, int]:
        return tuple(-(-side // scale) for side in self.size)

    def _row_size(self, group: Group) -> int:
        """Of the group's messages, in units of LANES."""
        height, width = self._map(group.scale * group.stride)
        units = -(-self.samples * height * width // program.LANES)
        return units + (units % 64 == 0)  # rows 4096 bytes apart share the same few sets of the cache

    def _place(self, rows: _Rows) -> None:
        """Gives rows to all nodes, those whose last reader is done again."""
        plan = self.plan
        level = np.zeros(len(self.row), int)
        for group in plan.groups:
            level[group.nodes] = group.level
        last = np.full(len(self.row), -1)
        np.maximum.at(last, plan.src, level[plan.dst])
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
                leaving.setdefault(max(at, group.level), []).append((size, some))

    def _private(self) -> int:
        """The memory a thread needs for itself: six rows, and a bordered map per kind of convolution."""
        maps = [self._map(group.scale) for group in (*self.plan.groups, *self.plan.before)]
        longest = max((h * w for h, w in maps), default=1)
        row = -(-self.samples * longest // program.LANES) * program.LANES
        self.between = 6 * row
        size = self.between + longest
        for group in (*self.plan.groups, *self.plan.before):
            for part, height, width in self._sizes(group):
                if part.kernel is None:
                    continue
                side, stride = part.kernel.shape[-1], part.stride
                key = height, width, side, stride
                if key not in self.scratch:
                    self.scratch[key] = size
                    pitch = self._pitch(width, side, stride)
                    size += (height + 2 * (side // 2)) * stride * pitch + program.LANES
        return size

    @staticmethod
    def _pitch(width: int, side: int, stride: int) -> int:
        return -(-(width + 2 * (side // 2)) // stride) + program.LANES

    def _sizes(self, group: Group):
        """Each part with the height and width of the maps it gets."""
        height, width = self._map(group.scale)
        for part in group.parts:
            yield part, height, width
            if not part.zero_pad:
                height, width = -(-height // part.stride), -(-width // part.stride)

    # ------------------------------------------------------------------------------ instructions

    def _code(self, groups: list[Group], team: int) -> np.ndarray:
        pieces = [piece for group in groups for piece in self._in_fours(group, team)]
        code = np.zeros((len(pieces), program.INSTRUCTION), np.int64)
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
        nodes = group.nodes
        begin, end = self.edges[nodes], self.edges[nodes + 1]
        count = end - begin
        height, width = self._map(group.scale)
        out_height, out_width = self._map(group.scale * group.stride)
        targets = self.row[nodes] if group.outputs is None else group.outputs
        work = count * height * width + 12 * len(group.parts) * height * width + 1
        if fours:
            share = 4 * _shares(work.reshape(-1, 4).sum(1), team)
            first, parents, weight = self._fours(nodes)
            word[program.KIND] = program.FOUR_SUMS
        else:
            share = _shares(work, team)
            first = np.concatenate([[0], count.cumsum()])
            edges = np.arange(first[-1]) + (begin - first[:-1]).repeat(count)
            parents, weight = self.plan.src[edges], self.plan.weight[edges]
            word[program.KIND] = {"sum": program.SUM, "product": program.PRODUCT,
                                  "input": program.INPUT}[group.kind]
        word[program.FIRST] = self._at(first.astype(np.int32))
        word[program.INDEX] = self._at(self.row[parents].astype(np.int32))
        word[program.WEIGHT] = self._number(weight)
        word[program.PIXELS] = height * width
        word[program.PARTS] = len(group.parts)
        word[program.PARTS_AT] = self._at(np.stack(
            [self._part(*sizes) for sizes in self._sizes(group)]) if group.parts else np.zeros(1))
        word[program.TO_OUTPUT] = group.outputs is not None
        word[program.TARGETS] = self._at(targets.astype(np.int32))
        word[program.OUT_PIXELS] = out_height * out_width
        word[program.CHANNELS] = self._at((nodes if group.channels is None else group.channels).astype(
            np.int32))
        word[program.BOUNDS] = self._at(np.array([0, *share, len(nodes)], np.int32))
        word[program.WAITS] = waits

    def _part(self, part: Part, height: int, width: int) -> np.ndarray:
        word = np.zeros(program.PART, np.int64)
        word[program.NORM] = {"": program.PLAIN, "affine": program.AFFINE,
                              "instance": program.INSTANCE}[part.norm]
        if part.norm:
            word[program.SCALE], word[program.SHIFT] = self._number(part.scale), self._number(part.shift)
        word[program.CODE_OF] = program.ACTIVATION_CODES.get(part.activation, 0)
        word[program.SLOPE] = round(1e9 * SLOPES.get(part.activation, 1.0))
        word[program.HEIGHT], word[program.WIDTH] = height, width
        word[program.BETWEEN], word[program.EPSILON] = self.between, round(1e9 * EPSILON)
        if part.kernel is not None:
            side = part.kernel.shape[-1]
            word[program.SIDE], word[program.STRIDE] = side, part.stride
            word[program.KERNEL] = self._number(part.kernel)
            word[program.OUT_HEIGHT] = -(-height // part.stride)
            word[program.OUT_WIDTH] = -(-width // part.stride)
            word[program.PITCH] = self._pitch(width, side, part.stride)
            word[program.SCRATCH] = self.scratch[height, width, side, part.stride]
            word[program.PADDED] = part.zero_pad
        return word

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


class _Rows:
    """Rows of a workspace, taken and given back; all numbers are in units of LANES."""

    def __init__(self):
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
