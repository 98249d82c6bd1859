"""Whether an operation keeps what networks, backends and compiled models take for granted."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch

from ..backends import Backend, available
from ..errors import InputError, WiringError, lookup
from ..inference import compile
from ..networks import StaticNeuralGraph
from ..nodes import ACTIVATIONS, OPERATIONS, NodeFunction, Operation, check_acts
from ..nodes.registry import REGISTER, operations_of
from ..selectors import Complete, TopK
from ..wiring import generators as wirings
from .comparing import require, require_close

SPACE = {0: (), 1: (9,), 2: (9, 8), 3: (5, 4, 6)}


def check_operation(operation: str | NodeFunction, *, backends: Iterable[str | Backend] | None = None,
                    seed: int = 0) -> None:
    """An operation or activation keeps its contract by itself and inside networks.

    By itself, for maps of all dimensions that its method ``check`` does not refuse: some channels give what they give
    among all; sides are those that ``shrinks`` says; what it is given stays as it is; every learned value has a row for
    each channel, and a gradient. In networks: every backend gives the output, and all gradients, of its own ``forward``
    called node by node (to 1e-9, in float64); its values travel with a learned wiring; compiled it gives the same, or is
    refused by name.

    Args:
        operation: the name of a registered operation or activation, or a node function that uses it.
        backends: on which networks run; all that are available by default.
        seed: of what is random.

    Raises:
        AssertionError: says what differs.
        UnknownNameError: for a name that is not registered.

    >>> import neuralgraph as ng
    >>> ng.testing.check_operation("bias", backends=["dense"])
    """
    function = operation if isinstance(operation, NodeFunction) else _function_with(operation)
    kinds = [*operations_of(function, "receive"), *operations_of(function, "send")]
    acting = [dims for dims in SPACE if _acts(kinds, function, dims)]
    require(bool(acting), f"{function} acts on maps of no number of dimensions from 0 to 3")
    for dims in acting:
        for kind in dict.fromkeys(kinds):
            _check_alone(kind, function, dims, seed)
    dims = 2 if 2 in acting else acting[0]
    for backend in available() if backends is None else backends:
        _check_in_network(function, dims, backend, seed)
    _check_elsewhere(function, dims, seed)


def by_node(network: StaticNeuralGraph, x: torch.Tensor) -> torch.Tensor:
    """The output of a static network in evaluation, by its operations' own ``forward``, one channel at a time."""
    wiring, weight, real = network.wiring, network.weight, network.selection().real
    channel = {node: i for i, node in enumerate(wiring.inputs.tolist())}
    state: dict[int, torch.Tensor] = {}
    message: dict[int, torch.Tensor] = {}
    for node in sorted(range(wiring.num_nodes), key=lambda n: int(wiring.block[n])):
        group = network.functions.groups[int(wiring.function[node])]
        place = int((group.nodes == node).nonzero())
        row = slice(place, place + 1)
        if node in channel:
            state[node] = x[:, [channel[node]]]
        else:
            edges = ((wiring.dst == node) & real).nonzero().flatten().tolist()
            state[node] = sum((weight[e] * message[int(wiring.src[e])] for e in edges),
                              torch.zeros_like(message[int(wiring.src[wiring.dst == node][0])]))
            for operation in group.receive:
                state[node] = operation(state[node], row)
        message[node] = state[node]
        for operation in group.send:
            message[node] = operation(message[node], row)
    return torch.cat([state[node] for node in wiring.outputs.tolist()], dim=1)


def shaken(network: StaticNeuralGraph, seed: int = 0) -> StaticNeuralGraph:
    """The network in evaluation, the values of its nodes away from their neutral start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            if "functions" in name and "kernel" not in name and value.dim() < 3 and value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator, dtype=value.dtype) + 0.5)
    return network.eval()


def _function_with(name: str) -> NodeFunction:
    """A node function that uses it, when a node sends and when it receives."""
    if name in ACTIVATIONS:
        return NodeFunction("activation", "bias activation", activation=name)
    lookup("operation or activation", name, {**OPERATIONS, **ACTIVATIONS}, REGISTER.format("operation"))
    return NodeFunction("conv") if name == "conv" else NodeFunction(name, f"bias {name}")  # a node has one kernel


def _acts(kinds: list[type[Operation]], function: NodeFunction, dims: int) -> bool:
    """Whether none of them refuses such maps (method ``check``); those that do not may not fail on them."""
    try:
        for kind in kinds:
            kind.check(function, dims)
    except WiringError:
        return False
    try:
        for kind in kinds:
            check_acts(kind, function, dims)
    except WiringError as error:
        raise AssertionError(f"{error} If it is not made for such maps, its method check should say so.") from error
    return True


def _check_alone(kind: type[Operation], function: NodeFunction, dims: int, seed: int) -> None:
    what, generator = f"{kind.__name__} with dims={dims}", torch.Generator().manual_seed(seed)
    made = kind(function, 5, dims)
    made.reset(generator)
    made = made.double().eval()
    x = torch.randn(3, 5, *SPACE[dims], dtype=torch.float64, generator=generator).requires_grad_()
    before = x.detach().clone()
    y = made(x, slice(None))
    require(torch.equal(x, before), f"{what} changes the maps that it is given")
    space = tuple(-(-side // kind.shrinks(function)) for side in SPACE[dims])
    require(tuple(y.shape) == (3, 5, *space), f"{what}: expected maps {(3, 5, *space)}, as shrinks says, got "
                                              f"{tuple(y.shape)}")
    for rows in (torch.tensor([3, 1]), slice(1, 4)):
        require_close(f"{what}: channels {rows} by themselves", made(x[:, rows], rows), y[:, rows], 1e-10)
    for name, attribute in kind.learned.items():
        value = made.value(attribute)
        require(len(value) == 5, f"{what}: the learned value {name!r} needs a row for each of 5 channels, got shape "
                                 f"{tuple(value.shape)}")
    y.square().sum().backward()
    for name, parameter in made.named_parameters():
        require(parameter.grad is not None or not parameter.requires_grad, f"{what}: no gradient reaches {name!r}")


def _network(function: NodeFunction, dims: int, backend: str | Backend, seed: int) -> StaticNeuralGraph:
    # nearer and farther blocks together only where maps keep their size
    keeps = function.send_stride == function.receive_stride == 1
    wiring = (wirings.blocks if keeps else wirings.chain)([2, 4, 4, 3], function)
    network = StaticNeuralGraph(wiring, TopK(20, gradient="masked"), backend, seed, dims=dims, dtype=torch.float64)
    return shaken(network, seed)


def _check_in_network(function: NodeFunction, dims: int, backend: str | Backend, seed: int) -> None:
    network = _network(function, dims, backend, seed)
    x = _data(network, dims, seed)
    results = []
    for forward in (network, lambda x: by_node(network, x)):
        network.zero_grad()
        own = x.clone().requires_grad_()
        y = forward(own)
        y.square().sum().backward()
        results.append((y, {"the data": own.grad,
                            **{name: p.grad for name, p in network.named_parameters() if p.requires_grad}}))
    (y, gradients), (expected, wanted) = results
    what = f"{function} on {network.backend!r}"
    require_close(f"{what}: the output", y, expected, 1e-9)
    for name, gradient in gradients.items():
        require_close(f"{what}: the gradient of {name}", gradient, wanted[name], 1e-8)


@torch.no_grad()
def _check_elsewhere(function: NodeFunction, dims: int, seed: int) -> None:
    network = _network(function, dims, "dense", seed)
    x = _data(network, dims, seed)
    expected = network(x)
    again = StaticNeuralGraph(network.learned_wiring(), Complete(), "dense", dims=dims, dtype=torch.float64).eval()
    require_close(f"{function}: a network of its learned wiring", again(x), expected, 1e-6)  # wirings keep float32
    require_close(f"{function}: a copy", copy.deepcopy(network)(x), expected, 0.0)
    names = {function.activation, *f"{function.send} {function.receive}".split()}
    try:
        fast = compile(network)
    except InputError as error:
        require(any(repr(name) in str(error) for name in names), f"{function} is refused for compilation, but not by "
                f"name: {error}")
        return
    require_close(f"{function}: compiled", fast(x), expected, 1e-9)


def _data(network: StaticNeuralGraph, dims: int, seed: int) -> torch.Tensor:
    return torch.randn(3, len(network.wiring.inputs), *SPACE[dims], dtype=torch.float64,
                       generator=torch.Generator().manual_seed(seed))
