"""Batches of x and a target, from any loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import InputError, whole
from .progress import Progress
from .task import Learned, Task, draw_from

Batches = Iterable | Callable[[int], Iterable]


class Supervised(Task):
    """A loss of what the model makes of x, and of a target. Arguments as for :func:`fit`."""

    unit = "samples"

    def __init__(self, loader: Batches, test: Batches | None, loss: Callable[..., torch.Tensor], metrics: Mapping,
                 steps: int | None,
                 seed: int, device: torch.device):
        for name, metric in {"loss": loss, **_checked_names(metrics)}.items():
            if not callable(metric):
                raise InputError(f"{name} must be a function of the model's output and the target, got "
                                 f"{metric!r}.")
        _check_loader("loader", loader)
        if test is not None:
            _check_loader("test", test)
        self.loader, self.test, self.loss, self.metrics = loader, test, loss, dict(metrics)
        self.seed, self.device = seed, device
        self._is_cut = steps is not None
        steps = _length(loader) if steps is None else steps
        check_integers(steps_per_epoch=(steps, 1))
        self._steps = int(steps)

    @property
    def steps_per_epoch(self) -> int:
        return self._steps

    def batches(self, epoch: int, first: int) -> Iterator[object]:
        draw_from(self.device, self.seed, epoch, 0)
        batches = iter(_of_epoch(self.loader, epoch))
        for step in range(self._steps):
            draw_from(self.device, self.seed, epoch, step)
            try:
                batch = next(batches)
            except StopIteration:
                raise InputError(f"the loader gave {step} batches in epoch {epoch + 1} instead of "
                                 f"{self._steps}: every epoch must have as many; give steps_per_epoch=N to "
                                 "use N of each.") from None
            if step >= first:
                yield batch
        if not self._is_cut and next(batches, None) is not None:
            raise InputError(f"the loader gave more than the {self._steps} batches of its length in epoch "
                             f"{epoch + 1}; give steps_per_epoch=N to use N of each.")

    def learn(self, model: nn.Module, batch: object) -> Learned:
        x, target, count = self._taken(batch)
        output = model(x)
        loss = self._loss_of(output, target)
        if not loss.requires_grad:
            raise InputError("the loss does not depend on the model's parameters: nothing can be learned.")
        with torch.no_grad():
            sums = {name: value * count for name, value in self._measured(output, target).items()}
        return Learned(loss, count, count, sums)

    def training_row(self, progress: Progress) -> dict[str, float]:
        return {"train_loss": progress.loss / progress.seen,
                **{f"train_{name}": total / progress.seen for name, total in progress.sums.items()}}

    @torch.no_grad()
    def test_row(self, model: nn.Module, epoch: int) -> dict[str, float]:
        if self.test is None:
            return {}
        draw_from(self.device, self.seed, epoch, self._steps)
        sums, seen = dict.fromkeys(("loss", *self.metrics), 0.0), 0
        for batch in _of_epoch(self.test, epoch):
            x, target, count = self._taken(batch)
            output = model(x)
            for name, value in {"loss": self._loss_of(output, target).item(),
                                **self._measured(output, target)}.items():
                sums[name] += value * count
            seen += count
        if not seen:
            raise InputError("test gave no batch; leave it out if there is nothing to test on.")
        return {f"test_{name}": total / seen for name, total in sums.items()}

    @property
    def columns(self) -> list[str]:
        parts = ("train",) if self.test is None else ("train", "test")
        return [f"{part}_{name}" for part in parts for name in ("loss", *self.metrics)]

    def _taken(self, batch: object) -> tuple[object, object, int]:
        """x and target on the device, and the number of samples."""
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
            raise InputError(f"a batch must be a pair (x, target), got {type(batch).__name__}{size}.")
        x, target = (_moved(part, self.device) for part in batch)
        sizes = [len(tensor) for tensor in _tensors((x, target)) if tensor.dim()]
        if not sizes or not sizes[0]:
            raise InputError("a batch must hold a tensor whose first dimension is its number of samples, at "
                             "least one.")
        return x, target, sizes[0]

    def _loss_of(self, output: object, target: object) -> torch.Tensor:
        loss = self.loss(output, target)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise InputError(f"loss must return a tensor of one number, the mean over the batch, got {got}.")
        return loss.reshape(())

    def _measured(self, output: object, target: object) -> dict[str, float]:
        values = {}
        for name, metric in self.metrics.items():
            value = metric(output, target)
            try:
                values[name] = float(value)
            except (TypeError, ValueError, RuntimeError):
                raise InputError(f"the metric {name!r} must return one number, the mean over the batch, got "
                                 f"{value!r}.") from None
        return values


def _of_epoch(batches: Batches, epoch: int) -> Iterable:
    """What is gone through in an epoch."""
    if not isinstance(batches, Iterable):
        return batches(epoch)
    for part in (batches, getattr(batches, "sampler", None), getattr(batches, "batch_sampler", None)):
        set_epoch = getattr(part, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
    return batches


def _check_loader(name: str, batches: object) -> None:
    if isinstance(batches, Iterator):
        raise InputError(f"{name} is a {type(batches).__name__}, which is used up after one epoch: give a "
                         "list, a DataLoader, or a function of the epoch that returns it.")
    if isinstance(batches, (torch.Tensor, str, Mapping)) or \
            not (hasattr(batches, "__iter__") or callable(batches)):
        raise InputError(f"{name} must give batches (x, target): a DataLoader, a list, or a function of the "
                         f"epoch, got {type(batches).__name__}.")


def _length(loader: Batches) -> int:
    """The number of batches, as the loader has it."""
    try:
        batches: Any = loader if isinstance(loader, Iterable) else loader(0)
        steps = len(batches)
    except TypeError:
        raise InputError("this loader has no length: give steps_per_epoch=N, the number of batches of an "
                         "epoch.") from None
    if steps == 0:
        raise InputError("the loader is empty: it gives no batch.")
    return steps


def _checked_names(metrics: object) -> Mapping:
    if not isinstance(metrics, Mapping):
        raise InputError(f"metrics must be a dict of names and functions, got {type(metrics).__name__}.")
    for name in metrics:
        if not isinstance(name, str) or not name.isidentifier() or name == "loss":
            raise InputError(f"the name of a metric must be a word other than 'loss', got {name!r}.")
    return metrics


def _moved(thing: Any, device: torch.device) -> object:
    if isinstance(thing, torch.Tensor):
        return thing.to(device)
    if isinstance(thing, dict):
        return {key: _moved(value, device) for key, value in thing.items()}
    if type(thing) in (list, tuple):
        return type(thing)(_moved(value, device) for value in thing)
    return thing


def _tensors(thing: object) -> Iterator[torch.Tensor]:
    """The tensors in nested dicts, lists and tuples, in order."""
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, (dict, list, tuple)):
        for value in thing.values() if isinstance(thing, dict) else thing:
            yield from _tensors(value)


def check_integers(**values: tuple[object, int]) -> None:
    for name, (value, least) in values.items():
        number = whole(value)
        if number is None or number < least:
            raise InputError(f"{name} must be an integer of at least {least}, got {value!r}.")
