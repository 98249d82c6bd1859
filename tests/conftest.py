import os
from importlib.util import find_spec

import hypothesis
import pytest
import torch
from precision import double_precision

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
