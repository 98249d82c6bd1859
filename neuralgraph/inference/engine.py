"""Compiled networks: plans, laid out for each size of maps that comes, and run."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import nn

from .. import kernels
from .._torch import not_compiled
from ..errors import InputError
from ..plan import Plan, check_space, joined, reduced
from .ends import NO_ENDS, Ends
from .inputs import check_numbers, check_stays
from .passes import check_compiles

if kernels.AVAILABLE:
    from ..kernels.halves import converts_float16
    from ..kernels.launch import Crowds, team_size
    from .layout import ProgramLayout
    from .rows import largest_level

SIDES = ((), ("length",), ("height", "width"), ("depth", "height", "width"))
KEPT = 16  # sizes of maps and batches whose layouts are kept
SAMPLES = 8  # of a tile at most: results of sixteen lie so far apart that their lines displace each other in the first cache
WORKSPACE = 2**21  # bytes that the maps of a tile have at most, if they are of several samples: the second cache
PADDED = 1.25  # how many times as many samples are computed at most as there are, to fill the last tile


class CompiledNetwork(nn.Module):
    """A network, or several of which each takes the outputs of the one before, fast to run.

    x (B, inputs, *space) to y (B, outputs, *space') for any B and sides, on the CPU; it can no longer be
    trained. What depends on the size of maps is laid out when it is first seen, and so is what depends
    on how many samples and threads there are; the last few of these are kept. Outputs that no later
    network reads may be left out.

    Args:
        plans: of the networks.
        storage: of the maps that nodes send, None or 16 bits, see :func:`neuralgraph.compile`.

    Raises:
        InputError: without numba, for another storage, if a network does not take the outputs of the one before, or for a
            function without a formula.
    """

    def __init__(self, *plans: Plan, storage: torch.dtype | None = None):
        super().__init__()
        if not kernels.AVAILABLE:
            raise InputError("a compiled network needs numba, which is not installed or switched off: "
                             "pip install numba.")
        self.plans, self.storage = plans, storage
        self._crowds = Crowds()
        self._layouts: dict[tuple, ProgramLayout] = {}  # the least recently used first
        self._needed: dict[tuple[int, ...], int] = {}  # bytes of a sample, for sizes of maps
        if not plans:
            raise InputError("a compiled network needs at least one plan.")
        check_storage(storage, plans[0].dtype)
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

    @not_compiled  # numbers leave torch by their addresses
    def _computed(self, x: torch.Tensor, ends: Ends = NO_ENDS) -> torch.Tensor:
        """The result, or what the ends of a classifier make of it; then x is what its stem takes."""
        check_numbers(x)
        if not len(x):
            space = reduced(tuple(x.shape[2:]), ends.stride)
            for plan in self.plans:
                space = plan.output_space(space)
            return x.new_empty(0, self.plans[-1].num_outputs, *(() if ends.pooled else space))
        if not x[0, 0].is_contiguous():
            x = x.contiguous()
        layout = self._laid_out(x.shape, ends)
        return layout.run(x, x.new_empty(layout.output_shape(len(x))))

    def _shape(self) -> list[str]:
        return ["batch", str(self.plans[0].num_inputs), *SIDES[self.plans[0].dims]]

    @functools.cached_property
    def _whole(self) -> Plan:
        """All plans as one."""
        return functools.reduce(joined, self.plans)

    def _laid_out(self, shape: tuple[int, ...], ends: Ends = NO_ENDS) -> ProgramLayout:
        batch, data, threads = shape[0], tuple(shape[2:]), torch.get_num_threads()
        space = reduced(data, ends.stride)
        if space not in self._needed:
            self._needed[space] = largest_level(self._whole, space) * self._whole.weight.itemsize
        samples = _samples(batch, threads, self._needed[space])
        team = 1 if -(-batch // samples) >= threads else team_size()
        key = data, samples, team, threads, ends.version(), ends.pooled
        found = self._layouts.pop(key, None)
        if found is None:
            side = space
            for plan in self.plans:
                check_space(plan, side)
                side = plan.output_space(side)
            found = ProgramLayout(self._whole, data, samples, team, threads, ends, self.storage)
        self._layouts[key] = found
        if len(self._layouts) > KEPT:
            self._layouts.pop(next(iter(self._layouts)), None)
        return found

    def save(self, path: str | Path) -> None:
        """Writes a file that :func:`neuralgraph.inference.load` reads."""
        from .files import save
        save(self, path)

    def _apply(self, fn, recurse=True):
        check_stays(self, fn, self.plans[0].dtype)
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return (f"{self.plans[0].num_inputs} inputs, {self.plans[-1].num_outputs} outputs, "
                f"{sum(len(group.nodes) for plan in self.plans for group in plan.groups)} nodes, "
                f"{sum(len(plan.src) for plan in self.plans)} edges"
                + ("" if self.storage is None else f", maps in {self.storage}"))

    def __getstate__(self):
        state = {**self.__dict__, "_layouts": {}}  # addresses mean nothing elsewhere
        state.pop("_whole", None)
        return state

    def __deepcopy__(self, memo) -> CompiledNetwork:
        return CompiledNetwork(*self.plans, storage=self.storage).train(self.training)  # nothing changes the plans


def check_storage(storage: torch.dtype | None, dtype: torch.dtype) -> None:
    """Raises InputError for a storage that networks of these numbers cannot have."""
    if storage is None:
        return
    if storage not in (torch.float16, torch.bfloat16):
        raise InputError(f"expected storage=torch.float16 or torch.bfloat16, or None for that of the weights, got {storage!r}.")
    if dtype != torch.float32:
        raise InputError(f"maps of 16 bits are for networks of float32, got one of {dtype}.")
    if storage == torch.float16 and not converts_float16():
        raise InputError("this machine's processor cannot convert float16: use storage=torch.bfloat16.")


def _samples(batch: int, threads: int, needed: int) -> int:
    """Samples per tile: as many as leave work for all threads and fit the cache, of which each needs so many bytes."""
    samples = SAMPLES
    while samples > 1 and (samples > batch // threads or samples * needed > WORKSPACE
                           or -(-batch // samples) * samples > PADDED * batch):
        samples //= 2
    return samples
