import os
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules

import hypothesis
import pytest
import torch
from precision import double_precision

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels for GPUs then run on the CPU; read when Triton is imported
hypothesis.settings.register_profile("default", max_examples=40, deadline=None)
hypothesis.settings.load_profile("default")
# as many processes as cores run the tests; each of them alone may use two threads
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
torch.set_num_threads(max(1, min(2, (os.cpu_count() or 1) // WORKERS)))


def pytest_collection_modifyitems(items):
    """Where DGL is not installed, tests are skipped that are marked ``dgl`` or have the backend "dgl" as a parameter."""
    if find_spec("dgl") is not None:
        return
    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if item.get_closest_marker("dgl") or any(isinstance(value, str) and value == "dgl" for value in values):
            item.add_marker(pytest.mark.skip(reason="DGL is not installed"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session):
    """Before all tests are run by several processes, each compiles some of the kernels, and the others find them on the disk.

    No process gets a test before all have been here.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and len(session.items) > 2000:
        for kernel, dtype in kernels()[int(worker.removeprefix("gw"))::WORKERS]:
            kernel._compile(dtype)


def kernels():
    """Every (kernel, dtype) of the library."""
    from neuralgraph import kernels

    if not kernels.AVAILABLE:
        return []
    from neuralgraph.kernels import matrix_units
    from neuralgraph.kernels.launch import Kernel

    modules = [import_module(f"neuralgraph.kernels.{module.name}") for module in iter_modules(kernels.__path__)
               if not module.name.startswith("gpu")  # those are Triton's
               and (module.name != "matrix_units" or matrix_units.AVAILABLE)]
    found = {id(thing): thing for module in modules for thing in vars(module).values() if isinstance(thing, Kernel)}
    return [(kernel, dtype) for kernel in found.values() for dtype in kernel._sources]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Each test draws the same numbers alone and among others; hypothesis goes on with new ones between its examples."""
    torch.manual_seed(0)


@pytest.fixture
def two_threads(monkeypatch):
    """Two threads of torch, for what works in a team, however little work there is."""
    from neuralgraph import kernels

    if kernels.AVAILABLE:
        monkeypatch.setattr("neuralgraph.kernels.launch.GRAIN", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def float64():
    """Networks and tensors in double precision, for comparisons to rounding."""
    with double_precision():
        yield
