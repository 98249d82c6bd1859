"""What one node computes, as plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..errors import WiringError, lookup

# The position of a name in these families is its code in a DGL graph: append, never reorder.
STEPS = ("norm", "activation", "conv", "bias")
AGGREGATES = ("sum", "product")
NORMS = {name: code for code, name in enumerate(("none", "batch", "instance"))}
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class NodeFunction:
    """The channel operations of a node, before and after its state.

    In one update a node v with state s_v computes

        s_v  <-  receive_v( sum over real edges (u,v) of  w_uv * send_u(s_u) )

    ``receive`` and ``send`` are sequences of the steps ``norm``, ``activation``, ``conv`` (depthwise,
    one kernel per node, no bias, padded so that stride 1 keeps the size) and ``bias``, written with
    spaces; an empty text is the identity. The paper's equation 1 is ``receive=f, send=""``; its
    MobileNet graphs are ``receive="", send="norm activation conv"`` ("Discovering Neural Wirings",
    Wortsman, Farhadi, Rastegari, NeurIPS 2019, equations 1, 11 and section 2.4).

    Args:
        send: steps from the state to the message.
        receive: steps from the weighted sum to the state. Input nodes of a static graph hold the
            data itself, so ``receive`` does not act on them.
        norm: "batch", "instance" or "none"; by default "batch" where a step says ``norm``.
        activation: a key of :data:`ACTIVATIONS`; by default "relu" where a step says ``activation``.
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
    NodeFunction(send='norm activation conv', receive='', norm='instance', activation='relu', kernel_size=3, stride=1, aggregate='sum', zero_pad=False)
    >>> NodeFunction("norm activation conv", norm="none", kernel_size=0)       # a unit of an MLP
    NodeFunction(send='activation', receive='', norm='none', activation='relu', kernel_size=0, stride=1, aggregate='sum', zero_pad=False)
    """

    send: str = ""
    receive: str = ""
    norm: str | None = None
    activation: str | None = None
    kernel_size: int | None = None
    stride: int = 1
    aggregate: str = "sum"
    zero_pad: bool = False

    def __post_init__(self):
        for name in ("send", "receive"):
            if not isinstance(getattr(self, name), str):
                raise WiringError(f"{name} must be a text of steps such as 'norm activation conv', got "
                                  f"{getattr(self, name)!r}.")
        steps = (*self.send.split(), *self.receive.split())
        for step in steps:
            lookup("node step", step, dict.fromkeys(STEPS))
        if steps.count("conv") > 1:
            raise WiringError(
                f"a node has one kernel, but 'conv' stands {steps.count('conv')} times in "
                f"send={self.send!r}, receive={self.receive!r}: split it over two nodes."
            )
        self._settle("norm", "norm", steps, present="batch", absent="none")
        self._settle("activation", "activation", steps, present="relu", absent="identity")
        self._settle("kernel_size", "conv", steps, present=3, absent=0)
        lookup("aggregate", self.aggregate, dict.fromkeys(AGGREGATES))
        lookup("norm", self.norm, NORMS)
        lookup("activation", self.activation, ACTIVATIONS)
        for name, least in (("kernel_size", 0), ("stride", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise WiringError(f"{name} must be an integer of at least {least}, got {value!r}.")
        if self.kernel_size and self.kernel_size % 2 == 0:
            raise WiringError(
                f"kernel_size must be odd (so that the output is centred) or 0, got {self.kernel_size}."
            )
        if self.stride != 1 and not self.kernel_size:
            raise WiringError(
                f"stride={self.stride} needs a convolution; without one (kernel_size=0) use stride=1."
            )
        if self.zero_pad not in (True, False) or (self.zero_pad and self.stride == 1):
            raise WiringError(f"zero_pad={self.zero_pad!r} needs a stride above 1; without one leave "
                              "it False.")
        idle = {"norm": self.norm == "none", "activation": self.activation == "identity",
                "conv": self.kernel_size == 0, "bias": False}
        for name in ("send", "receive"):
            kept = [step for step in getattr(self, name).split() if not idle[step]]
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
        return self.stride if "conv" in self.receive.split() and not self.zero_pad else 1

    @property
    def send_stride(self) -> int:
        """How much ``send`` shrinks a side."""
        return self.stride if "conv" in self.send.split() and not self.zero_pad else 1


def encode_steps(text: str) -> int:
    """The steps as octal digits in order: ``norm activation conv`` is 0o123.

    >>> oct(encode_steps("norm activation conv"))
    '0o123'
    """
    code = 0
    for step in text.split():
        code = code * 8 + STEPS.index(step) + 1
    return code


def decode_steps(code: int) -> str:
    """The inverse of :func:`encode_steps`."""
    steps = []
    while code > 0:
        code, digit = divmod(code, 8)
        if not 1 <= digit <= len(STEPS):
            raise WiringError(
                f"a node's send/receive code has the octal digit {digit}; digits are "
                + ", ".join(f"{i + 1} = {name}" for i, name in enumerate(STEPS)) + "."
            )
        steps.append(STEPS[digit - 1])
    return " ".join(reversed(steps))


# Learned values of nodes; a second operation of the same kind has the suffix "_2", and so on.
LEARNED = ("kernel", "norm_weight", "norm_bias", "norm_mean", "norm_var", "bias")


def is_learned(name: object) -> bool:
    """Whether this is the name of a learned value of a node."""
    base, _, number = str(name).rpartition("_")
    return name in LEARNED or (base in LEARNED and number.isdigit())


def used_values(function: NodeFunction) -> set[str]:
    """The names of the learned values that a node with this function has."""
    kinds = {"norm": ["norm_weight", "norm_bias"], "conv": ["kernel"], "bias": ["bias"],
             "activation": []}
    if function.norm == "batch":
        kinds["norm"] += ["norm_mean", "norm_var"]
    seen: dict[str, int] = {}
    names = set()
    for step in (*function.receive.split(), *function.send.split()):
        seen[step] = seen.get(step, 0) + 1
        names |= {value_name(name, seen[step]) for name in kinds[step]}
    return names


def value_name(name: str, occurrence: int) -> str:
    """The name of a learned value of the n-th operation of its kind (receive first) in a node.

    >>> value_name("bias", 1), value_name("bias", 2)
    ('bias', 'bias_2')
    """
    return name if occurrence == 1 else f"{name}_{occurrence}"


STATIC = NodeFunction("norm activation conv")
IDENTITY = NodeFunction()
