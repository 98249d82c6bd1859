"""The contract of selectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable

import torch
from torch import nn

from ..errors import SelectionError, lookup
from ..wiring import Wiring
from .selection import GRADIENTS, GradientRule


class Selector(nn.Module, ABC):
    """Decides which k of the candidate edges are real.

    A selector owns nothing but its own state (a frozen mask, say), which it registers as buffers so
    that it is saved with the network. It serves one network.

    Args:
        gradient: a key of :data:`GRADIENTS`.
    """

    def __init__(self, gradient: str):
        super().__init__()
        lookup("gradient rule", gradient, GRADIENTS)
        self.gradient = gradient
        self.num_edges: int | None = None

    @property
    def rule(self) -> GradientRule:
        return GRADIENTS[self.gradient]

    def bind(self, wiring: Wiring, weight: torch.Tensor, generator: torch.Generator) -> None:
        """Called once by the network that takes this selector; draws what is random."""
        if self.num_edges is not None:
            raise SelectionError(
                f"this {type(self).__name__} already serves a network with {self.num_edges} "
                "candidate edges; make a new one for each network."
            )
        self.num_edges = wiring.num_edges
        self.prepare(wiring, weight.detach(), generator)

    def prepare(self, wiring: Wiring, weight: torch.Tensor, generator: torch.Generator) -> None:
        """Checks the settings against the candidates and makes the state."""

    def advance(self, step: int, total_steps: int, weight: torch.Tensor) -> None:
        """Called by the training after each update: ``step`` of ``total_steps`` are done."""

    def penalty(self, weight: torch.Tensor) -> torch.Tensor | None:
        """A term to add to the loss, or None."""
        return None

    @abstractmethod
    def select(self, weight: torch.Tensor) -> torch.Tensor:
        """The real edges, a mask (E,), from finite weights (E,).

        Exactly ``num_real`` ones; only targeted dropout lets others in at random while it trains.
        """

    @abstractmethod
    def fingerprint(self) -> tuple[Hashable, ...]:
        """What the selection depends on beside the weights; equal fingerprints, equal selection."""

    @property
    @abstractmethod
    def num_real(self) -> int:
        """k, the number of real edges."""


class MaskSelector(Selector):
    """A selector whose choice is a mask it keeps: the buffer ``real``, made when it is bound.

    Only real edges receive gradients.
    """

    def __init__(self):
        super().__init__("masked")
        self.register_buffer("real", None)

    def select(self, weight):
        return self.real

    def fingerprint(self):
        return (self.real.data_ptr(), self.real._version)


def check_k(k: int, num_edges: int | None = None) -> int:
    """k as an integer within 0..num_edges, or an error."""
    if isinstance(k, bool) or not isinstance(k, int):
        raise SelectionError(f"k, the number of real edges, must be an integer, got {k!r}.")
    if k < 0 or (num_edges is not None and k > num_edges):
        most = "" if num_edges is None else f" and at most the {num_edges} candidate edges"
        raise SelectionError(f"k must be at least 0{most}, got {k}.")
    return k


def check_finite(weight: torch.Tensor) -> None:
    """Refuses weights that have no order."""
    weight = weight.detach()
    if weight.sum().isfinite():  # so all are, in a fraction of the time of looking at each
        return
    finite = weight.isfinite()
    if not finite.all():
        edge = int((~finite).nonzero()[0])
        raise SelectionError(
            f"{int((~finite).sum())} of {len(weight)} edge weights are NaN or infinite (the first is "
            f"edge {edge}: {weight[edge].item()}), so edges cannot be ranked: the training has "
            "diverged; lower the learning rate or resume from an earlier checkpoint."
        )
