"""What a loop trains on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .progress import Progress


@dataclass(frozen=True)
class Learned:
    """What one step learned from, in this process and in all of them.

    Args:
        loss: mean over the own samples, to be differentiated.
        own: samples of this process that count.
        count: samples of all processes.
        sums: of each metric over the own samples; tensors are read after the step, so that a GPU need not be waited for.
    """

    loss: torch.Tensor
    own: int
    count: int
    sums: Mapping[str, float | torch.Tensor]


class Task(ABC):
    """Batches, a loss and metrics: all of a training that is not the same for every one."""

    unit: str  # what a sample is called, in the plural

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int: ...

    @abstractmethod
    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        """The batches of an epoch, ``steps_per_epoch`` of them, from number ``first`` on."""

    @abstractmethod
    def learn(self, model: nn.Module, batch: Any) -> Learned:
        """The loss of a batch by a model in training mode."""

    @abstractmethod
    def training_row(self, progress: Progress) -> dict[str, float]:
        """The metrics of an epoch as it was trained on, "train_loss" the first of them."""

    @abstractmethod
    def test_row(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """The metrics of a model in evaluation mode on what it is tested on after an epoch."""

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """The names in :meth:`training_row` and :meth:`test_row`, in this order."""


def draw_from(device: torch.device, seed: int, epoch: int, step: int) -> None:
    """Sets torch's global generators for what is drawn at a step, so that it can be repeated."""
    words = np.random.SeedSequence((seed, epoch, step)).generate_state(1, np.uint64)
    number = int(words[0] >> np.uint64(1))
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(number)
