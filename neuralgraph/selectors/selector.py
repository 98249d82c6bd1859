"""The contract of selectors."""

from __future__ import annotations

import math
import numbers
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
        gradient: a key of :data:`GRADIENTS`, or a :class:`GradientRule`.
    """

    def __init__(self, gradient: str | GradientRule):
        super().__init__()
        self.gradient = gradient
        self.wiring: Wiring | None = None
        self.rule  # refuses an unknown name

    @property
    def rule(self) -> GradientRule:
        if isinstance(self.gradient, GradientRule):
            return self.gradient
        return lookup("gradient rule", self.gradient, GRADIENTS)

    @property
    def num_edges(self) -> int | None:
        """The candidates of the network that this selector serves; None as long as there is none."""
        return None if self.wiring is None else self.wiring.num_edges

    def bind(self, wiring: Wiring, weight: torch.Tensor, generator: torch.Generator) -> None:
        """Called once by the network that takes this selector; draws what is random.

        A selector that cannot serve this network can still serve another.
        """
        if self.num_edges is not None:
            raise SelectionError(
                f"this {type(self).__name__} already serves a network with {self.num_edges} "
                "candidate edges; make a new one for each network."
            )
        self.wiring = wiring
        try:
            with torch.inference_mode(False):  # what it keeps must serve training too
                self.prepare(wiring, weight.detach(), generator)
        except BaseException:
            self.wiring = None
            raise

    def prepare(self, wiring: Wiring, weight: torch.Tensor, generator: torch.Generator) -> None:
        """Checks the settings against the candidates and makes the state."""

    def advance(self, step: int, total_steps: int, weight: torch.Tensor) -> None:
        """Called by the training after each update: ``step`` of ``total_steps`` are done."""

    def penalty(self, weight: torch.Tensor) -> torch.Tensor | None:
        """A term to add to the loss, or None."""
        return None

    @abstractmethod
    def select(self, weight: torch.Tensor) -> torch.Tensor:
        """The real edges, a new mask (E,) of exactly ``num_real`` ones, from finite weights (E,).

        Changes nothing, in training neither.
        """

    def sample(self, weight: torch.Tensor) -> torch.Tensor:
        """The edges of one forward in training, a mask (E,): the real ones, or what is drawn."""
        return self.select(weight)

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

    Args:
        k: number of real edges (in the end), 0 to the number of candidates.
    """

    def __init__(self, k: int):
        super().__init__("masked")
        self.register_buffer("real", None)
        self.k = k

    @property
    def k(self) -> int:
        """The number of real edges (in the end); cannot change once the mask is made."""
        return self._k

    @k.setter
    def k(self, k: int) -> None:
        if self.real is not None:
            raise SelectionError(
                f"this {type(self).__name__} keeps the edges it chose for k={self.k}, so k cannot become "
                f"{k!r}: make a network with a new selector, on network.complete_wiring() to keep what "
                "was learned."
            )
        self._k = check_k(k)

    def select(self, weight):
        return self.real.clone()

    def fingerprint(self):
        # By value, as the weights are compared: writes through real.data leave no trace.
        return (self.real.cpu().numpy().tobytes(),)

    @property
    def num_real(self):
        return self.k if self.real is None else int(self.real.sum())


def check_k(k: int, num_edges: int | None = None) -> int:
    """k as an integer within 0..num_edges, or an error."""
    if isinstance(k, bool) or not isinstance(k, int):
        raise SelectionError(f"k, the number of real edges, must be an integer, got {k!r}.")
    if k < 0 or (num_edges is not None and k > num_edges):
        most = "" if num_edges is None else f" and at most the {num_edges} candidate edges"
        raise SelectionError(f"k must be at least 0{most}, got {k}.")
    return k


def check_number(what: str, value: float, least: float, most: float = math.inf) -> float:
    """A number within least..most and finite, or an error."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or \
            not least <= value <= most or math.isinf(value):
        bounds = f"{least} to {most}" if most < math.inf else f"at least {least}"
        raise SelectionError(f"{what} must be a number, expected {bounds}, got {value!r}.")
    return value


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
