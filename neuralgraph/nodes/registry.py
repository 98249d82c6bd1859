"""All that a node can compute, by name, and how users add to it."""

from __future__ import annotations

import functools
import hashlib
import inspect
import keyword
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError, UnknownNameError, WiringError
from .activation import ACTIVATIONS, BUILT_IN_ACTIVATIONS, Activation, Scalar
from .bias import Bias
from .conv import DepthwiseConv
from .norm import NORMS, Norm
from .operation import Operation

if TYPE_CHECKING:
    from .function import NodeFunction

# A name's place here is its code in a DGL graph: append, never reorder.
OPERATIONS: dict[str, type[Operation]] = {operation.name: operation for operation in
                                          (Norm, Activation, DepthwiseConv, Bias)}
BUILT_IN_OPERATIONS = len(OPERATIONS)
REGISTER = " If it is one of your own, register it first: ng.register_{}(...)."
ESCAPE, DIGITS = 7, 5  # in the code of steps: this octal digit, then so many for a registered operation


def register_activation(name: str, function: Callable[[torch.Tensor], torch.Tensor], *,
                        slope: float | None = None, formula: Callable[[float], float] | None = None,
                        onnx: str | Callable[..., Any] | None = None, replace: bool = False) -> None:
    """Makes an elementwise function an activation, usable at once in wirings, files and on all backends.

    A network with it is compiled if it has a ``slope`` or a ``formula``, and exported if it has an ``onnx``;
    otherwise these refuse it by name. Files hold its name: it has to be registered where they are read.

    Args:
        name: a Python name that neither an activation nor an operation has.
        function: of a tensor of any shape and floating-point type.
        slope: s, if the function is x from 0 on and s x below: then kernels fuse it with norms and
            convolutions.
        formula: the same of one Python number, in terms that numba compiles; see
            :class:`neuralgraph.nodes.Scalar`.
        onnx: an ONNX operator of one input, or a function that builds it; see there.
        replace: take it in place of another function of that name.

    Raises:
        InputError: for a name that is taken by another function or is none, or what is no elementwise
            function.

    >>> import neuralgraph as ng
    >>> import math, torch
    >>> ng.register_activation("sin", torch.sin, formula=math.sin, onnx="Sin")
    >>> ng.wirings.blocks([2, 3, 1], ng.NodeFunction("norm activation", activation="sin"))
    Wiring(6 nodes: 2 input, 3 hidden, 1 output; 11 candidate edges)
    """
    _checked_name("activation", name)
    if name in OPERATIONS:
        raise InputError(f"{name!r} is the name of an operation: give the activation another one.")
    _check_elementwise(name, function)
    if slope is not None:
        _check_slope(name, function, slope)
    new = Scalar(function, slope, formula, onnx)
    if ACTIVATIONS.get(name) != new:
        _check_free("activation", name, ACTIVATIONS, BUILT_IN_ACTIVATIONS, activation_code, replace)
        ACTIVATIONS[name] = new


def register_operation(operation: type[Operation], *, replace: bool = False) -> type[Operation]:
    """Makes a subclass of :class:`neuralgraph.nodes.Operation` a step of node functions, by its ``name``.

    Usable at once in wirings, files and on all backends, and counted in costs. Where the class has a method
    ``lower`` it is compiled and exported too; otherwise these refuse it by name. Files hold its name: it has
    to be registered where they are read. Can be a decorator.

    Args:
        operation: a class with a ``name`` that no operation or activation has, and names of ``learned``
            values that no operation has.
        replace: take it in place of another class of that name.

    Returns:
        The class.

    Raises:
        InputError: for what is no such class.
    """
    if not (inspect.isclass(operation) and issubclass(operation, Operation)) or inspect.isabstract(operation):
        raise InputError("expected a subclass of neuralgraph.nodes.Operation with its own forward, got "
                         f"{operation!r}.")
    name = _checked_name("operation", getattr(operation, "name", None))
    if name in ACTIVATIONS:
        raise InputError(f"{name!r} is the name of an activation: give the operation another one.")
    old = OPERATIONS.get(name)
    if old is operation:
        return operation
    _check_free("operation", name, OPERATIONS, BUILT_IN_OPERATIONS, _digits, replace)
    taken = {value for other in _classes() if other is not old for value in other.learned}
    for value in operation.learned:
        _checked_name("learned value", value)
        if value in taken or value in RESERVED or value.rpartition("_")[2].isdigit():
            raise InputError(f"the operation {name!r} cannot call a learned value {value!r}: "
                             + ("names must not end in _ and a number." if value not in (*taken, *RESERVED)
                                else "that name is taken."))
    if not set(operation.weights) <= set(operation.learned):
        raise InputError(f"weights of the operation {name!r} must be among its learned values "
                         f"{tuple(operation.learned)}, got {operation.weights!r}.")
    OPERATIONS[name] = operation
    value_shapes.cache_clear()
    return operation


# Names that node data of a wiring have already.
RESERVED = ("role", "block", "scale", "holds", "channel", "send", "receive", "norm", "activation", "kernel_size",
            "stride", "aggregate", "zero_pad", "weight", "magnitude", "real", "label")


def operations_of(function: NodeFunction, side: str) -> list[type[Operation]]:
    """The operations of ``side``, "send" or "receive", in their order."""
    return [OPERATIONS[step].of(function) for step in getattr(function, side).split()]


@functools.cache
def check_acts(operation: type[Operation], function: NodeFunction, dims: int) -> None:
    """Refuses an operation that cannot act on maps of so many dimensions, or does not keep what it promises.

    One that users registered is tried on small maps: it must give maps of the sides that its ``shrinks`` says,
    and learned values with a row per channel.

    Raises:
        WiringError: that names it.
    """
    operation.check(function, dims)
    if operation.name in list(OPERATIONS)[:BUILT_IN_OPERATIONS]:
        return
    x, rows = torch.linspace(-2, 2, 2 * 3 * 9**dims).view(2, 3, *[9] * dims), slice(0, 3)
    wanted = (2, 3, *[-(-9 // operation.shrinks(function))] * dims)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            instance = operation(function, 3, dims)
            instance.reset(torch.Generator().manual_seed(0))
            y, values = instance(x, rows), {name: instance.value(at) for name, at in operation.learned.items()}
    except Exception as error:
        raise WiringError(f"the operation {operation.name!r} cannot act on maps of {dims} dimensions: on a tensor of "
                          f"shape {tuple(x.shape)} it raises {type(error).__name__}: {error}.") from error
    if not isinstance(y, torch.Tensor) or tuple(y.shape) != wanted:
        got = tuple(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
        raise WiringError(f"the operation {operation.name!r} makes {got} of a tensor of shape {tuple(x.shape)}; "
                          f"expected {wanted} with dims={dims}.")
    for name, value in values.items():
        if not isinstance(value, torch.Tensor) or value.dim() < 1 or len(value) != 3:
            raise WiringError(f"the learned value {name!r} of the operation {operation.name!r} must have a row for "
                              "each channel.")


def scalar(name: str) -> Scalar:
    """The elementwise function of an activation, or of an operation that has one (``scalar``).

    Raises:
        UnknownNameError: if there is none of that name.
    """
    found = ACTIVATIONS.get(name) or getattr(OPERATIONS.get(name), "scalar", None)
    if found is None:
        raise UnknownNameError("elementwise function", name, ACTIVATIONS, REGISTER.format("activation"))
    return found


def learned_names() -> set[str]:
    """The names of the learned values of all operations."""
    return {name for operation in _classes() for name in operation.learned}


def _classes() -> list[type[Operation]]:
    return [*OPERATIONS.values(), *filter(None, NORMS.values())]


def is_learned(name: object) -> bool:
    """Whether this is the name of a learned value of a node; the second of its kind has the suffix _2."""
    base, _, number = str(name).rpartition("_")
    names = learned_names()
    return name in names or (base in names and number.isdigit())


def value_name(name: str, occurrence: int) -> str:
    """The name of a learned value of the n-th operation of its kind (receive first) in a node.

    >>> value_name("bias", 1), value_name("bias", 2)
    ('bias', 'bias_2')
    """
    return name if occurrence == 1 else f"{name}_{occurrence}"


@functools.cache
def value_shapes(function: NodeFunction, dims: int) -> dict[str, tuple[int, ...]]:
    """The learned values of a node with this function: name in a wiring to shape.

    >>> from neuralgraph import NodeFunction
    >>> value_shapes(NodeFunction("norm activation conv"), 2)["kernel"]
    (3, 3)
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for operation, names in _values(function):
        with torch.device("meta"):
            instance = operation(function, 1, dims)
        shapes |= {full: tuple(instance.value(operation.learned[name]).shape[1:])
                   for name, full in names.items()}
    return shapes


def used_values(function: NodeFunction) -> set[str]:
    """The names of the learned values that a node with this function has."""
    return {full for _, names in _values(function) for full in names.values()}


def _values(function: NodeFunction) -> Iterator[tuple[type[Operation], dict[str, str]]]:
    """The operations of a function with their learned values: the name alone to the name in a wiring."""
    seen: dict[type, int] = {}
    for operation in (*operations_of(function, "receive"), *operations_of(function, "send")):
        seen[operation] = occurrence = seen.get(operation, 0) + 1
        yield operation, {name: value_name(name, occurrence) for name in operation.learned}


# Codes in DGL graphs, which hold numbers only


def activation_code(name: str) -> int:
    """Its index among the built-in ones, or a hash of the name, the same wherever it is registered."""
    place = list(ACTIVATIONS).index(name) if name in ACTIVATIONS else BUILT_IN_ACTIVATIONS
    return place if place < BUILT_IN_ACTIVATIONS else 2**31 + _hash(name) % 2**31


def activation_name(code: int) -> str:
    """The inverse of :func:`activation_code`.

    Raises:
        WiringError: for a code that none has.
    """
    for name in ACTIVATIONS:
        if activation_code(name) == code:
            return name
    known = ", ".join(f"{i} = {name}" for i, name in enumerate(ACTIVATIONS) if i < BUILT_IN_ACTIVATIONS)
    raise WiringError(f"activation has the code {code}; codes are {known}, and those of registered ones."
                      + REGISTER.format("activation"))


def encode_steps(text: str) -> int:
    """The steps as octal digits in order: ``norm activation conv`` is 0o123.

    A registered operation is a 7 and five digits made from its name.

    Raises:
        WiringError: for more than the 20 digits that a graph's numbers have room for.

    >>> oct(encode_steps("norm activation conv"))
    '0o123'
    """
    digits = "".join(map(_digits, text.split()))
    if len(digits) > 20:
        raise WiringError(f"a DGL graph cannot hold so many steps in one node: {text!r}; split it over two nodes.")
    return int(digits or "0", 8)


def decode_steps(code: int) -> str:
    """The inverse of :func:`encode_steps`.

    Raises:
        WiringError: for digits that no operation has.
    """
    digits, steps = f"{code:o}" if code else "", []
    built_in, by_digits = list(OPERATIONS)[:BUILT_IN_OPERATIONS], {_digits(name): name for name in OPERATIONS}
    while digits:
        length = 1 + DIGITS if digits[0] == str(ESCAPE) else 1
        name = by_digits.get(digits[:length])
        if name is None:
            raise WiringError(
                f"a node's send/receive code has the octal digit {digits[:length]}; digits are "
                + ", ".join(f"{i + 1} = {name}" for i, name in enumerate(built_in))
                + f", and {ESCAPE} with {DIGITS} more for a registered one." + REGISTER.format("operation"))
        steps.append(name)
        digits = digits[length:]
    return " ".join(steps)


def _digits(step: str) -> str:
    """The octal digits of a step."""
    place = list(OPERATIONS).index(step) if step in OPERATIONS else BUILT_IN_OPERATIONS
    return str(place + 1) if place < BUILT_IN_OPERATIONS else f"{ESCAPE}{_hash(step) % 8**DIGITS:0{DIGITS}o}"


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


# Checks


def _checked_name(kind: str, name: object) -> str:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name == "none":
        raise InputError(f"the name of the {kind} must be a Python name such as 'my_{kind.split()[-1]}', got "
                         f"{name!r}.")
    return name


def _check_free(kind: str, name: str, family: dict, built_in: int, code_of: Callable, replace: bool) -> None:
    """Refuses a name that a member has, or whose code in DGL graphs is, by chance, that of another."""
    if name in list(family)[:built_in]:
        raise InputError(f"there is a built-in {kind} {name!r} already: give yours another name.")
    if name in family and not replace:
        raise InputError(f"there is another {kind} {name!r} already: give yours another name, or replace=True "
                         "to put it in place of that one.")
    for other in family:
        if other != name and code_of(other) == code_of(name):
            raise InputError(f"the {kind}s {other!r} and {name!r} would have the same code in DGL graphs: give "
                             "yours another name.")


def _check_elementwise(name: str, function: Callable) -> None:
    x = torch.tensor([-1.5, -0.25, 0.0, 0.5, 2.0])
    try:
        whole, apart = function(x), torch.stack([function(number) for number in x])
    except Exception as error:
        raise InputError(f"the activation {name!r} must be a function of a tensor, but on {x.tolist()} it raises "
                         f"{type(error).__name__}: {error}.") from error
    if not isinstance(whole, torch.Tensor) or whole.shape != x.shape or whole.dtype != x.dtype or \
            not torch.allclose(whole, apart, equal_nan=True):
        raise InputError(f"the activation {name!r} must be elementwise and keep shape and type, but of "
                         f"{x.tolist()} it makes {whole!r}: what looks at a whole map is an operation; see "
                         "ng.register_operation.")


def _check_slope(name: str, function: Callable, slope: float) -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 3.0])
    if not torch.allclose(function(x), x.where(x >= 0, slope * x)):
        raise InputError(f"the activation {name!r} is not x from 0 on and {slope} x below: leave slope out.")
