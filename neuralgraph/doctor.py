"""What is installed here, and what of it works."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from typing import TYPE_CHECKING

from ._dgl import INSTALL, load
from ._version import __version__
from .errors import MissingPackageError

if TYPE_CHECKING:
    import torch

    from .networks import StaticNeuralGraph

IMPORTED_AS = {"pillow": "PIL"}  # where it is not the name of the package
WITHOUT_DGL = "only wirings from and to DGL graphs and the backend 'dgl' need it"
NOT_IMPORTED = ("docs", "test")  # extras for those who change the library: their packages are only looked up


@dataclass(frozen=True)
class Finding:
    """One line of what was found.

    Args:
        part: "python", "packages", an extra, "machine" or "checks".
        name: of what.
        text: what was found.
        fails: something that is there does not work.
    """

    part: str
    name: str
    text: str
    fails: bool = False


def examine() -> Iterator[Finding]:
    """Looks at packages, the processor and kernels, and tries every backend and compiled inference.

    A tiny network makes a forward and a backward on every backend in float64 and is compared with the dense one, which
    is compared with the equations written down node by node; then it is compiled.

    >>> next(examine()).name
    'neuralgraph'
    """
    yield Finding("python", "neuralgraph", f"{__version__}, in {os.path.dirname(__file__)}")
    yield Finding("python", "python", f"{platform.python_version()}, {sys.executable}")
    yield from _packages()
    yield from _attempts("machine", {"processor": _processor, "kernels": _kernels})
    cause = _cause(lambda: import_module("neuralgraph.backends"))
    if cause is not None:
        yield Finding("checks", "backends", f"fail: {cause}", True)
        return
    import torch

    from .backends import BACKENDS

    checks = {f"backend {name}": partial(_backend, name) for name in BACKENDS}
    on_gpu = {"GPU": _gpu} if torch.cuda.is_available() else {}
    yield from _attempts("checks", {**checks, "compiled inference": _compiled, **on_gpu})


def _packages() -> Iterator[Finding]:
    try:
        requirements = metadata.requires("neuralgraph") or []
    except metadata.PackageNotFoundError:
        yield Finding("packages", "neuralgraph", "is not installed, so that what it needs is not known: "
                      "pip install neuralgraph")
        return
    for requirement in requirements:
        name = re.split(r"[^\w.-]", requirement)[0]
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        part, wanted = (extra[1], f"neuralgraph[{extra[1]}]") if extra else ("packages", "neuralgraph")
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(part, name, f"missing: {INSTALL}; {WITHOUT_DGL}" if name == "dgl" else
                          f"missing: pip install '{wanted}'")
            continue
        cause = None if part in NOT_IMPORTED else _cause(partial(_import, name))
        yield Finding(part, name, version if cause is None else f"{version} cannot be imported: {cause}", cause is not None)


def _import(package: str) -> None:
    if package == "dgl":
        load("doctor")
    else:
        import_module(IMPORTED_AS.get(package, package))


def _attempts(part: str, attempts: dict[str, Callable[[], str]]) -> Iterator[Finding]:
    for name, attempt in attempts.items():
        fails = False
        try:
            text = attempt()
        except MissingPackageError as error:
            text = f"not tried: {error}"
        except Exception as error:  # whatever a kernel raises
            text, fails = f"fails: {_in_a_line(error)}", True
        yield Finding(part, name, text, fails)


def _cause(attempt: Callable[[], object]) -> str | None:
    """Why it fails, in one line; None where it does not."""
    try:
        attempt()
    except Exception as error:  # whatever a package that does not load raises
        return _in_a_line(error)
    return None


def _in_a_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _processor() -> str:
    import torch

    from . import kernels

    has = []
    if kernels.AVAILABLE:
        from .kernels.matrix_units import AVAILABLE
        has += ["matrix units (AMX)"] if AVAILABLE else []
    if torch.cuda.is_available():
        has.append(f"{torch.cuda.device_count()} GPUs")
    return ", ".join([platform.machine(), f"{os.cpu_count()} cores", f"{torch.get_num_threads()} threads of PyTorch", *has])


def _kernels() -> str:
    from . import kernels

    if not kernels.AVAILABLE:
        return "not compiled: numba is missing or switched off (NUMBA_DISABLE_JIT), PyTorch does the sums"
    from .kernels.keeping import folder

    try:
        place = folder()
    except (RuntimeError, OSError) as error:
        return f"compiled, not kept: {_in_a_line(error)} (NUMBA_CACHE_DIR names another folder)"
    size = sum(file.stat().st_size for file in place.glob("*.nbc"))
    return f"compiled, kept in {place} ({size / 1e6:.1f} MB, which may be deleted at any time)"


def _network(backend: str) -> tuple[StaticNeuralGraph, torch.Tensor]:
    """A tiny network in float64, and data."""
    import torch

    from .networks import StaticNeuralGraph
    from .selectors import TopK
    from .wiring import generators

    network = StaticNeuralGraph(generators.blocks([3, 6, 6, 2]), TopK(30), backend, seed=0).double()
    return network, torch.randn(3, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _backend(name: str) -> str:
    from .testing import check_network

    network, x = _network(name)
    if name == "dense":
        check_network(network, x)
        return "works: as the equations"
    network.backend = "dense"
    expected = _results(network, x)
    network.backend = name
    _require_same(network, _results(network, x), expected, 1e-10)
    return "works: as the dense one"


def _gpu() -> str:
    import torch

    from . import kernels

    network, x = _network("auto")
    expected = _results(network, x)
    _require_same(network, _results(network.cuda(), x.cuda()), expected, 1e-9)
    how = "in Triton" if kernels.TRITON and kernels.AVAILABLE else "by PyTorch"
    return f"works: {torch.cuda.get_device_name()} as the CPU, node functions {how}"


def _results(network: StaticNeuralGraph, x: torch.Tensor) -> list[torch.Tensor | None]:
    """The output and the gradient of every parameter, on the CPU."""
    network.zero_grad()
    y = network(x)
    y.square().sum().backward()
    return [None if found is None else found.cpu() for found in (y, *(parameter.grad for parameter in network.parameters()))]


def _require_same(network: StaticNeuralGraph, own: list, expected: list, tolerance: float) -> None:
    from .testing.comparing import require_close

    names = ["the output", *(f"the gradient of {name}" for name, _ in network.named_parameters())]
    for what, found, wanted in zip(names, own, expected, strict=True):
        require_close(what, found, wanted, tolerance)


def _compiled() -> str:
    import torch

    from .inference import compile
    from .testing.comparing import require_close

    network, x = _network("dense")
    with torch.no_grad():
        require_close("the output", compile(network.eval())(x), network(x), 1e-10)
    return "works: as the dense backend"
