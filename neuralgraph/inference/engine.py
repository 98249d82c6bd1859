"""Compiled networks: plans, laid out for each size of maps that comes, and run."""

from __future__ import annotations

import functools
import itertools
import math
from pathlib import Path

import torch
from torch import nn

from .. import kernels
from ..errors import InputError
from ..plan import Plan, check_space, joined, reduced
from .parts import check_compiles

if kernels.AVAILABLE:
    from ..kernels.launch import Crowds, team_size
    from .layout import Layout, popped

SIDES = ((), ("length",), ("height", "width"), ("depth", "height", "width"))
KEPT = 16  # sizes of maps and batches whose layouts are kept
ROW = 64  # numbers that a row of the workspace has at least, where the batch is large enough


class CompiledNetwork(nn.Module):
    """A network, or several of which each takes the outputs of the one before, fast to run.

    x (B, inputs, *space) to y (B, outputs, *space') for any B and sides, on the CPU; it can no longer be
    trained. What depends on the size of maps is laid out when it is first seen, and so is what depends
    on how many samples and threads there are; the last few of these are kept. Outputs that no later
    network reads may be left out.

    Args:
        plans: of the networks.

    Raises:
        InputError: without numba, if a network does not take the outputs of the one before, or for a
            function without a formula.
    """

    def __init__(self, *plans: Plan):
        super().__init__()
        if not kernels.AVAILABLE:
            raise InputError("a compiled network needs numba, which is not installed or switched off: "
                             "pip install numba.")
        self.plans = plans
        self._crowds = Crowds()
        self._layouts: dict[tuple, _Layouts] = {}  # the least recently used first
        if not plans:
            raise InputError("a compiled network needs at least one plan.")
        if len(plans[-1].written) != plans[-1].num_outputs:
            raise InputError("an output of the last network is missing.")
        for first, second in zip(plans, plans[1:]):
            if first.num_outputs != second.num_inputs or first.dtype != second.dtype or \
                    first.dims != second.dims or not first.written >= second.read:
                raise InputError("a network does not take the outputs of the one before.")
        for plan in plans:
            for group in (*plan.before, *plan.groups):
                check_compiles(group.steps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.plans[0]
        if not isinstance(x, torch.Tensor) or x.dim() != 2 + first.dims or x.shape[1] != first.num_inputs or \
                x.dtype != first.dtype or x.device.type != "cpu" or 0 in x.shape[1:]:
            got = f"{x.dtype} {tuple(x.shape)} on {x.device}" if isinstance(x, torch.Tensor) \
                else type(x).__name__
            raise InputError(f"this compiled network takes a {first.dtype} tensor ({', '.join(self._shape())}) on "
                             f"the CPU, got {got}.")
        if torch.is_grad_enabled() and x.requires_grad:
            raise InputError("a compiled network has no gradients: use torch.no_grad(), or the network "
                             "it was compiled from.")
        with self._crowds.run((x.shape, torch.get_num_threads())):
            return self._computed(x.detach())

    @torch.compiler.disable  # numbers leave torch by their addresses
    def _computed(self, x: torch.Tensor) -> torch.Tensor:
        if not len(x):
            space = tuple(x.shape[2:])
            for plan in self.plans:
                space = plan.output_space(space)
            return x.new_empty(0, self.plans[-1].num_outputs, *space)
        if not x[0, 0].is_contiguous():
            x = x.contiguous()
        return self._laid_out(x.shape).run(x)

    def _shape(self) -> list[str]:
        return ["batch", str(self.plans[0].num_inputs), *SIDES[self.plans[0].dims]]

    def _laid_out(self, shape: tuple[int, ...]) -> _Layouts:
        """The networks for maps of a shape; neighbours that are best run in the same tiles are one."""
        batch, space = shape[0], tuple(shape[2:])
        threads, sizes, tiles = torch.get_num_threads(), [], []
        for plan in self.plans:
            samples = _samples(plan, batch, space, threads)
            team = 1 if -(-batch // samples) >= threads else team_size()
            sizes.append(space)
            tiles.append((samples, team))
            space = plan.output_space(space)
        key = sizes[0], threads, *tiles
        found = self._layouts.pop(key, None)
        if found is None:
            found, first = _Layouts(), 0
            for plan, size in zip(self.plans, sizes):
                check_space(plan, size)
            for (samples, team), alike in itertools.groupby(tiles):
                last = first + len(list(alike))
                whole = functools.reduce(joined, self.plans[first:last])
                found.layouts.append(Layout(whole, sizes[first], samples, team, threads))
                first = last
        self._layouts[key] = found
        if len(self._layouts) > KEPT:
            self._layouts.pop(next(iter(self._layouts)), None)
        return found

    def save(self, path: str | Path) -> None:
        """Writes a file that :func:`neuralgraph.inference.load` reads."""
        from .files import save
        save(self, path)

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

    def __init__(self) -> None:
        self.layouts: list[Layout] = []
        self.free: list[tuple[int, list[torch.Tensor]]] = []  # with their batch

    def run(self, x: torch.Tensor) -> torch.Tensor:
        batch, between = popped(self.free) or (0, [])
        if batch != len(x):
            batch, between = len(x), [x.new_empty(layout.output_shape(len(x)))
                                      for layout in self.layouts[:-1]]
        for layout, maps in zip(self.layouts, between):
            x = layout.run(x, maps)
        last = self.layouts[-1]
        y = last.run(x, x.new_empty(last.output_shape(batch)))
        self.free.append((batch, between))
        return y


def _samples(plan: Plan, batch: int, space: tuple[int, ...], threads: int) -> int:
    """Samples per tile: as many as fill a row of the smallest maps, and leave work for all threads."""
    smallest = min((math.prod(reduced(space, group.scale)) for group in plan.groups
                    if group.kind != "input"), default=ROW)
    return max(1, min(ROW // smallest, batch // threads))
