"""Several processes train one run: what torchrun started, each with its share of every batch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputError, RunError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them; alone, there is one.

    Args:
        rank: number of this process, from 0; only number 0 writes.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, batch: torch.Tensor) -> torch.Tensor:
        """This process's part of a batch; all parts together are the batch, sizes differ by one at most."""
        return batch.tensor_split(self.size)[self.rank]

    def sum(self, *numbers: float) -> list[float]:
        """Each number summed over all processes."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def from_first(self, value: Value) -> Value:
        """What the first process has for it."""
        if self.size == 1:
            return value
        values = [value]
        with self.watched():
            dist.broadcast_object_list(values)
        return values[0]

    def check_same(self, things: dict[str, object]) -> None:
        """Raises RunError, on every process, for things of which the processes have different ones."""
        if self.size == 1:
            return
        gathered: list = [None] * self.size
        with self.watched():
            dist.all_gather_object(gathered, things)
        for name, first in gathered[0].items():
            odd = [rank for rank, theirs in enumerate(gathered) if theirs[name] != first]
            if odd:
                raise RunError(f"the processes of this run do not agree: {name} is {first} at rank 0 but "
                               f"{gathered[odd[0]][name]} at rank {', '.join(map(str, odd))}. Start all "
                               "with the same command, images and versions.")

    @contextlib.contextmanager
    def parallel(self, model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
        """The model as its gradients are averaged over the processes."""
        if self.size == 1:
            yield model
            return
        parallel = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
        try:
            yield parallel
        finally:
            # An exception may keep the model until the processes have parted. Its reducer would then be the last to
            # hold their group, and would wait for a thread of gloo's, which may wait for the interpreter's lock.
            vars(parallel).update(reducer=None, logger=None)

    def spread_buffers(self, model: nn.Module) -> None:
        """Gives every process the first one's buffers (running statistics), for evaluation."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Turns the failure to reach another process into RunError."""
        try:
            yield
        except RuntimeError as error:
            lost = isinstance(error, getattr(dist, "DistError", ())) or "gloo" in str(error).lower()
            if self.size == 1 or not lost:
                raise
            raise RunError(f"rank {self.rank} of {self.size} lost another process of this run "
                           f"({str(error).splitlines()[0]}). The last checkpoint is untouched: start all "
                           "again with --resume.") from error


def current() -> Ranks:
    """The processes that :func:`join` or the caller has brought together."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


@contextlib.contextmanager
def join() -> Iterator[Ranks]:
    """Brings the processes together that torchrun has started, and parts them in the end.

    Metrics and objects travel by gloo, gradients by gloo or, on GPUs, by NCCL.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield Ranks()
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield current()
    finally:
        dist.destroy_process_group()


def choose_device(name: str) -> torch.device:
    """The device of this name; "auto" is a GPU if there is one. Each process of a machine has its own.

    Raises:
        InputError: for a device that this machine does not have.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    try:
        found = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(found if name == "auto" else name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"device must be 'cpu', 'cuda', 'cuda:N' or 'auto', got {name!r}.")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        device = torch.device("cuda", local if device.index is None else device.index)
        if device.index >= count:
            raise InputError(f"device {name!r} asks for GPU {device.index}, but PyTorch finds "
                             f"{count} GPUs here; use --device cpu, or a PyTorch built for the driver.")
        torch.cuda.set_device(device)
    return device
