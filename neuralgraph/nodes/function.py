"""What one node computes, as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from ..errors import WiringError, lookup, whole
from .activation import ACTIVATIONS
from .norm import NORMS
from .registry import OPERATIONS, REGISTER, operations_of

# A name's place here is its code in a DGL graph: append, never reorder.
AGGREGATES = ("sum", "product")
LARGEST = 2**15  # sides and strides of kernels are below it


@dataclass(frozen=True, init=False)
class NodeFunction:
    """The channel operations of a node, before and after its state.

    In one update a node v with state s_v computes

        s_v  <-  receive_v( sum over real edges (u,v) of  w_uv * send_u(s_u) )

    ``receive`` and ``send`` are sequences of the steps ``norm``, ``activation``, ``conv`` (depthwise,
    one kernel per node, no bias, padded so that stride 1 keeps the size), ``bias`` and whatever
    :func:`neuralgraph.register_operation` added, written with spaces; an empty text is the identity.
    The paper's equation 1 is ``receive=f, send=""``; its MobileNet graphs are ``receive="", send="norm activation conv"``
    ("Discovering Neural Wirings", Wortsman, Farhadi, Rastegari, NeurIPS 2019, equations 1, 11 and section 2.4).

    Args:
        send: steps from the state to the message.
        receive: steps from the weighted sum to the state. Input nodes of a static graph hold the
            data itself, so ``receive`` does not act on them.
        norm: "batch", "instance" or "none"; by default "batch" where a step says ``norm``.
        activation: a key of :data:`neuralgraph.nodes.ACTIVATIONS`; by default "relu" where a step says ``activation``.
        kernel_size: odd side of the kernel in pixels, 0 for none; by default 3 where a step says
            ``conv``.
        stride: of the convolution, in pixels.
        aggregate: "sum", or "product" to multiply the weighted messages w_uv send_u(s_u) instead of
            adding them, as the gates of an LSTM do; without a real in-edge a product is 1. A selector
            whose gradient reaches all candidate edges treats the factor of one that is not real as 1
            in the forward pass and as 1 + w_uv send_u(s_u) towards w_uv, so that for every candidate

                dL/dw_uv = < send_u(s_u) prod over real (t,v), t != u of w_tv send_t(s_t), dL/dI_v >

            with I_v the product; as in a sum, nothing flows through an edge that is not real.
        zero_pad: after a strided convolution, surround the map with zeros up to its old size, so that
            a graph keeps one resolution throughout (the paper's Figure 2).

    A step whose operation is "none", "identity" or of kernel size 0 does nothing and is left out, so
    that two nodes which compute the same compare equal.

    Raises:
        WiringError: for an unknown step, an even kernel, or an operation that no step uses.

    >>> NodeFunction("norm activation conv", norm="instance")
    NodeFunction(send='norm activation conv', receive='', norm='instance', activation='relu', kernel_size=3, stride=1,
                 aggregate='sum', zero_pad=False)
    >>> NodeFunction("norm activation conv", norm="none", kernel_size=0)       # a unit of an MLP
    NodeFunction(send='activation', receive='', norm='none', activation='relu', kernel_size=0, stride=1,
                 aggregate='sum', zero_pad=False)
    """

    send: str
    receive: str
    norm: str
    activation: str
    kernel_size: int
    stride: int
    aggregate: str
    zero_pad: bool

    def __init__(self, send: str = "", receive: str = "", norm: str | None = None, activation: str | None = None,
                 kernel_size: int | None = None, stride: int = 1, aggregate: str = "sum", zero_pad: bool = False):
        given = (send, receive, norm, activation, kernel_size, stride, aggregate, zero_pad)
        for field, value in zip(fields(self), given):
            object.__setattr__(self, field.name, value)
        self._check()

    def _check(self) -> None:
        """Checks what is given and settles what is left out: norm, activation and kernel_size are never None after it."""
        for name in ("send", "receive"):
            if not isinstance(getattr(self, name), str):
                raise WiringError(f"{name} must be a text of steps such as 'norm activation conv', got "
                                  f"{getattr(self, name)!r}.")
        steps = (*self.send.split(), *self.receive.split())
        for step in steps:
            lookup("node step", step, OPERATIONS, REGISTER.format("operation"))
        if steps.count("conv") > 1:
            raise WiringError(
                f"a node has one kernel, but 'conv' stands {steps.count('conv')} times in "
                f"send={self.send!r}, receive={self.receive!r}: split it over two nodes."
            )
        for name, least in (("kernel_size", 0), ("stride", 1)):
            if getattr(self, name) is not None or name == "stride":
                object.__setattr__(self, name, _whole(name, getattr(self, name), least))
        if not isinstance(self.zero_pad, (bool, int)) or self.zero_pad not in (0, 1):
            raise WiringError(f"zero_pad must be True or False, got {self.zero_pad!r}.")
        object.__setattr__(self, "zero_pad", bool(self.zero_pad))
        lookup("aggregate", self.aggregate, dict.fromkeys(AGGREGATES))
        for name, family, more in (("norm", NORMS, ""), ("activation", ACTIVATIONS, REGISTER.format("activation"))):
            if getattr(self, name) is not None:
                lookup(name, getattr(self, name), family, more)
        self._settle("norm", "norm", steps, present="batch", absent="none")
        self._settle("activation", "activation", steps, present="relu", absent="identity")
        self._settle("kernel_size", "conv", steps, present=3, absent=0)
        if self.kernel_size and self.kernel_size % 2 == 0:
            raise WiringError(
                f"kernel_size must be odd (so that the output is centred) or 0, got {self.kernel_size}."
            )
        if self.stride != 1 and not self.kernel_size:
            raise WiringError(
                f"stride={self.stride} needs a convolution; without one (kernel_size=0) use stride=1."
            )
        if self.zero_pad and self.stride == 1:
            raise WiringError(f"zero_pad={self.zero_pad!r} needs a stride above 1; without one leave "
                              "it False.")
        idle = {"norm": self.norm == "none", "activation": self.activation == "identity",
                "conv": self.kernel_size == 0}
        for name in ("send", "receive"):
            kept = [step for step in getattr(self, name).split() if not idle.get(step)]
            object.__setattr__(self, name, " ".join(kept))

    def _settle(self, name, step, steps, present, absent):
        """The default of an operation follows from whether a step uses it."""
        value = getattr(self, name)
        if value is None:
            object.__setattr__(self, name, present if step in steps else absent)
        elif value != absent and step not in steps:
            raise WiringError(
                f"{name}={value!r} is never used: neither send={self.send!r} nor "
                f"receive={self.receive!r} has the step {step!r}."
            )

    @property
    def receive_stride(self) -> int:
        """How much ``receive`` shrinks a side."""
        return self._stride("receive")

    @property
    def send_stride(self) -> int:
        """How much ``send`` shrinks a side."""
        return self._stride("send")

    def _stride(self, side: str) -> int:
        return math.prod(operation.shrinks(self) for operation in operations_of(self, side))


def _whole(name: str, value: object, least: int) -> int:
    """The value as an integer in its bounds."""
    number = whole(value)
    if number is None or not least <= number < LARGEST:
        raise WiringError(f"{name} must be an integer of at least {least} and below {LARGEST}, got {value!r}.")
    return number


STATIC = NodeFunction("norm activation conv")
IDENTITY = NodeFunction()
