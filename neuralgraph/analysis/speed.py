"""How long things take, measured so that they can be compared."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import torch

from .._html import table
from .._version import __version__
from ..backends import available
from ..errors import InputError
from ..inference import compile
from ..models import Classifier
from .cost import cost


@dataclass(frozen=True)
class Timing:
    """Times of one contender, in milliseconds.

    Args:
        median: of all rounds.
        low, high: the first and third quartile, the spread.
    """

    median: float
    low: float
    high: float


def alternate(contenders: Mapping[str, Callable[[], object]], rounds: int = 9, warm_up: int = 2,
              settle: float = 0.0) -> dict[str, Timing]:
    """Times contenders in turn, round after round, so that what disturbs one disturbs all.

    Args:
        settle: seconds to wait before each turn, which then starts with a run that is not timed.
            Libraries with threads of their own keep them busy for a while after they are done, which
            would slow down whoever is next.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warm_up + rounds):
        for name, run in contenders.items():
            if settle:
                time.sleep(settle)
                run()
            begin = time.perf_counter()
            run()
            if number >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: Timing(statistics.median(some), *_quartiles(some)) for name, some in times.items()}


def _quartiles(times):
    if len(times) < 2:
        return times[0], times[0]
    first, _, third = statistics.quantiles(times, n=4, method="inclusive")
    return first, third


def environment() -> dict[str, object]:
    """What a measurement depends on beside the program."""
    return {"neuralgraph": __version__, "torch": torch.__version__, **_installed("dgl"),
            "numpy": np.__version__, "python": platform.python_version(), "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)), "threads": torch.get_num_threads(),
            **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})}


def _installed(package: str) -> dict[str, str]:
    """Its version by its name, if it is there."""
    try:
        return {package: metadata.version(package)}
    except metadata.PackageNotFoundError:
        return {}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Speed:
    """One way to run a model.

    Args:
        timing: of a batch.
        images_per_second: from the median.
        useful_gflops: 10^9 multiplications and additions per second that real edges, kernels of live
            nodes and ordinary layers need, whatever else was computed: 2 multiply-adds per image
            (:func:`cost`) times images per second.
        difference: largest, from the outputs of the dense way, relative to the largest output.
    """

    timing: Timing
    images_per_second: float
    useful_gflops: float
    difference: float


class Speeds(dict[str, Speed]):
    """The speed of every way, by its name; a notebook shows a table."""

    def _repr_html_(self) -> str:
        first = next(iter(self.values())).timing.median if self else 1.0
        rows = [(name, one.timing.median, f"{one.timing.low:.2f} to {one.timing.high:.2f}", round(one.images_per_second),
                 one.useful_gflops, first / one.timing.median, one.difference) for name, one in self.items()]
        return table(("way", "ms", "quartiles", "images/s", "useful GFLOP/s", "speed-up", "difference"), rows)


def inference_speed(model: Classifier, images: torch.Tensor,
                    backends: Sequence[str] | None = None,
                    rounds: int = 9, storage: torch.dtype | None = None) -> Speeds:
    """The speed of every backend and of the compiled model on a batch, in evaluation, on the CPU.

    Models that cannot be compiled (continuous time) have no entry "compiled".

    Args:
        model: with neural graphs.
        images: (B, channels, height, width).
        backends: by default all that are available, "dense" first, from whose outputs differences are.
        rounds: in each of which every way takes its turn.
        storage: also the model compiled with maps of so many bits, see :func:`neuralgraph.compile`; its entry, such as
            "compiled, float16", has their error as its difference.

    Raises:
        InputError: for a model without neural graphs, which has no sums to compute in several ways; for a storage it
            cannot have.
    """
    if backends is None:
        backends = available()
    if not model.networks:
        raise InputError("this model has ordinary layers only, no neural graph whose backends could be compared.")
    was_training, before = model.training, [network.backend for network in model.networks]
    model.eval()

    def by(backend: str) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            for network in model.networks:
                network.backend = backend
            return model(images)
        return run

    contenders = {backend: by(backend) for backend in backends}
    try:
        fast = compile(model)
        contenders["compiled"] = lambda: fast(images)
    except InputError:
        pass
    if storage is not None:
        small = compile(model, storage=storage)
        contenders[f"compiled, {str(storage).removeprefix('torch.')}"] = lambda: small(images)
    try:
        with torch.no_grad():
            outputs = {name: run() for name, run in contenders.items()}
            timings = alternate(contenders, rounds)
        useful = 2 * cost(model).multiply_adds * len(images)
    finally:
        for network, backend in zip(model.networks, before):
            network.backend = backend
        model.train(was_training)
    reference = outputs[backends[0]]
    scale = reference.abs().max().clamp(min=1e-30)
    return Speeds((name, Speed(timing, 1e3 * len(images) / timing.median, useful / timing.median / 1e6,
                               float((outputs[name] - reference).abs().max() / scale)))
                  for name, timing in timings.items())
