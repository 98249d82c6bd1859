"""Whether a backend computes the sums that all others compute."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..backends import Backend, create
from ..networks import StaticNeuralGraph
from ..selectors import Complete, RandomGraph, Selector, TopK
from ..wiring import Wiring
from ..wiring.reading import middle
from .comparing import require, require_close
from .graphs import STATIC_GENERATORS, random_dag
from .reference import edge_gradient, node_values, static_forward

# of which the gradient reaches every candidate, the real ones of a frozen choice, those of one that is learned
SELECTORS: dict[str, Callable[[int], Selector]] = {
    "dnw": TopK, "random": RandomGraph, "dnw-masked": lambda k: TopK(k, gradient="masked"),
    "complete": lambda k: Complete()}
SIZES = {0: (), 1: (7,), 2: (6, 5), 3: (3, 4, 3)}


def check_backend(backend: str | Backend, *, graphs: int = 24, seed: int = 0) -> None:
    """A backend agrees with the equations written down node by node, and leaves alone what it is given.

    On a wiring of every generator and on random ones of 0 to 3 dimensions, with mixed node functions, strides,
    dead nodes, no edge and all edges real, in training and evaluation: the outputs, and the gradients of the data,
    of every node's values and of all candidate edges are those of the reference to 1e-10 in float64, and of the
    dense backend to 1e-4 in float32. All numbers are finite: what becomes of others, which may reach the sums through
    real edges only (see :meth:`~neuralgraph.backends.Backend.propagate`), is not compared.

    Args:
        backend: its name, or one of your own.
        graphs: how many random ones.
        seed: of what is random.

    Raises:
        AssertionError: says on which graph what differs.

    >>> import neuralgraph as ng
    >>> ng.testing.check_backend("dense", graphs=2)
    """
    backend = create(backend)
    for name, make in STATIC_GENERATORS.items():
        for selector in SELECTORS:
            for training in (True, False):
                _check(f"{backend!r} on the wiring {name!r}", make(), backend, selector, 0.4, training, 2, seed)
        _check_float32(f"{backend!r} on the wiring {name!r} in float32", make(), backend, seed)
        _check_leaves_alone(backend, make(), seed)
    for number in range(seed, seed + graphs):
        dims = (2, 0, 1, 3)[number % 4]
        share = (0.5, 0.2, 0.0, 1.0)[number // 4 % 4]
        _check(f"{backend!r} on random_dag({number}, dims={dims})", random_dag(number, dims=dims), backend,
               list(SELECTORS)[number % 3], share, number % 2 == 0, dims, number, tolerance=1e-9)


def check_network(network: StaticNeuralGraph, x: torch.Tensor, *, tolerance: float = 1e-10, what: str = "") -> None:
    """A static network equals the equations written down node by node, in output and in every gradient.

    Its effective weights must be w 1{real}, with a gradient that reaches every candidate or the real ones: those of
    :class:`~neuralgraph.TopK` and its kin. Node functions are the library's own.

    Args:
        network: in float64; its gradients are those of this check afterwards.
        x: data for it.
        tolerance: relative and absolute.
        what: begins messages.

    Raises:
        AssertionError: says what differs.

    >>> import torch, neuralgraph as ng
    >>> network = ng.StaticNeuralGraph(ng.wirings.blocks([2, 3, 1]), ng.TopK(5)).double()
    >>> check_network(network, torch.randn(3, 2, 4, 4, dtype=torch.float64))
    """
    wiring, values, what = network.wiring, node_values(network), what or repr(network.backend)
    network.zero_grad()
    x = x.detach().clone().requires_grad_()
    y = network(x)
    cotangent = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    (y * cotangent).sum().backward()

    real = network.selection().real
    twin = x.detach().clone().requires_grad_()
    weight = (network.weight.detach() * real).requires_grad_()
    expected, sums, messages = static_forward(wiring, values, weight, twin, network.training)
    (expected * cotangent).sum().backward()
    require_close(f"{what}: the output", y, expected, tolerance)
    require_close(f"{what}: the gradient of the data", x.grad, twin.grad, tolerance)
    gradient = edge_gradient(wiring, sums, messages, weight)
    require_close(f"{what}: the gradient of the edges", network.weight.grad,
                  gradient if network.selector.reaches_all else gradient * real, tolerance)
    for name, value in values.items():
        if value.requires_grad:
            require_close(f"{what}: the gradient of the nodes' {name}", _by_node(network, name, value), value.grad,
                          tolerance)


def perturb(network: StaticNeuralGraph, seed: int = 0) -> None:
    """Moves node values away from their neutral start, so that no term is hidden."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for group in network.functions.groups:
            for _, operation, attribute in group.learned():
                value = getattr(operation, attribute)
                value.copy_(torch.rand(value.shape, generator=generator, dtype=value.dtype) + 0.3)


def _by_node(network: StaticNeuralGraph, name: str, value: torch.Tensor) -> torch.Tensor:
    """The gradient of a learned value, a row for each node, kernels in the middle of the largest."""
    padded = torch.zeros_like(value)
    for group in network.functions.groups:
        for key, operation, attribute in group.learned():
            gradient = getattr(operation, attribute).grad
            if key == name and gradient is not None:
                part = gradient.squeeze(1) if key == "kernel" else gradient
                padded[middle(value.shape[1:], part.shape[1:], group.nodes)] = part
    return padded


def _check(what: str, wiring: Wiring, backend: Backend, selector: str, share: float, training: bool, dims: int,
           seed: int, tolerance: float = 1e-10) -> None:
    chosen: Selector = SELECTORS[selector](round(share * wiring.num_edges))
    network = StaticNeuralGraph(wiring, chosen, backend, seed, dims=dims).double().train(training)
    perturb(network, seed)
    x = _data(network, dims, seed, torch.float64)
    check_network(network, x, tolerance=tolerance, what=f"{what}, selector {selector!r}, "
                                                        f"{'training' if training else 'evaluation'}")


def _data(network: StaticNeuralGraph, dims: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, len(network.wiring.inputs), *SIZES[dims], dtype=dtype, generator=generator)


def _check_float32(what: str, wiring: Wiring, backend: Backend, seed: int) -> None:
    results = []
    for way in ("dense", backend):
        network = StaticNeuralGraph(wiring, TopK(wiring.num_edges // 2), way, seed)
        x = _data(network, 2, seed, torch.float32)
        y = network(x)
        y.square().sum().backward()
        results.append((y, network.weight.grad))
    (expected, gradient), (y, own) = results
    require_close(f"{what}: the output", y, expected, 1e-4, 1e-5)
    require_close(f"{what}: the gradient of the edges", own, gradient, 1e-4, 1e-3)


def _check_leaves_alone(backend: Backend, wiring: Wiring, seed: int) -> None:
    network = StaticNeuralGraph(wiring, TopK(wiring.num_edges // 2), "dense", seed).double()
    selection = network.selection()
    real, weight = selection.real.clone(), selection.weight.detach().clone()
    for stage in network.stages:
        if len(stage.src):
            messages = torch.randn(2, len(stage.sources), 4, 3, dtype=torch.float64,
                                   generator=torch.Generator().manual_seed(seed))
            before = messages.clone()
            sums = backend.propagate(stage, messages, selection)
            require(sums.shape == (2, len(stage.nodes), 4, 3), f"{backend!r}: expected sums (batch, nodes of the stage, "
                    f"*space) = {(2, len(stage.nodes), 4, 3)}, got {tuple(sums.shape)}")
            require(torch.equal(messages, before), f"{backend!r} changes the messages that it is given")
    require(torch.equal(selection.real, real) and torch.equal(selection.weight, weight),
            f"{backend!r} changes the selection that it is given")
