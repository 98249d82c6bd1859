"""Which edges are real now, and how gradients reach the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from .._html import facts
from ..errors import SelectionError


@dataclass(frozen=True, eq=False)
class Selection:
    """One choice of real edges.

    Args:
        real: which candidate edges are real, a mask (E,).
        weight: effective weights (E,), zero where not real, differentiable by the gradient rule.
        reaches_all: whether the gradient must reach every candidate edge or only the real ones.
        cache: structures that depend on ``real`` alone (a backend's graph of real edges, say); it
            lives as long as the same edges are real.
    """

    real: torch.Tensor
    weight: torch.Tensor
    reaches_all: bool
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)
    # the weights of candidates in a row, by the first and one after the last of them; of a selection made anew none
    _parts: dict[tuple[int, int], torch.Tensor] = field(init=False, default_factory=dict, repr=False)

    def cut(self, runs: Iterable[slice]) -> None:
        """Prepares for :meth:`of` these runs of candidates, of which no two overlap.

        Their weights become views that have one gradient in common, where each slice of ``weight`` would have one of
        all E candidates, most of it 0.
        """
        cuts = sorted({0, len(self.weight), *(end for run in runs for end in (run.start, run.stop))})
        pairs = list(zip(cuts, cuts[1:]))
        parts = self.weight.split([last - first for first, last in pairs]) if len(pairs) > 1 else [self.weight]
        self._parts.update(zip(pairs, parts))

    def of(self, run: slice) -> torch.Tensor:
        """The effective weights of candidates in a row, differentiable."""
        part = self._parts.get((run.start, run.stop))
        return self.weight[run] if part is None else part

    def threshold(self) -> float:
        """The smallest magnitude of a real edge, the paper's tau; nan without real edges."""
        kept = self.weight.detach()[self.real]
        return kept.abs().min().item() if len(kept) else float("nan")

    def _repr_html_(self) -> str:
        return facts({"real edges": int(self.real.sum()), "of candidates": len(self.real), "threshold": self.threshold(),
                      "gradient reaches": "every candidate" if self.reaches_all else "real edges"}, "selection")


class _StraightThrough(torch.autograd.Function):
    """w 1{real} forward, the identity backward."""

    @staticmethod
    def forward(ctx, weight, real):
        return weight.where(real, weight.new_zeros(()))

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def _straight_through(weight: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    if torch._C._are_functorch_transforms_active() or torch.jit.is_tracing():  # which see torch's own operations
        return weight.detach().where(real, weight.new_zeros(())) + (weight - weight.detach())
    return _StraightThrough.apply(weight, real)


def _soft_gate(weight: torch.Tensor, real: torch.Tensor, epsilon: float) -> torch.Tensor:
    """w 1{real} forward, the derivative of w - epsilon sgn(w) backward."""
    surrogate = weight - epsilon * weight.detach().sign()
    value = weight.detach().where(real, weight.new_zeros(()))
    return value + (surrogate - surrogate.detach())  # the bracket is 0: the value is exact


@dataclass(frozen=True)
class GradientRule:
    """How the effective weights depend on the weights, for autograd."""

    effective: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    reaches_all: bool


def soft_gate(epsilon: float = 1e-6) -> GradientRule:
    """Forward w 1{real}; backward the derivative of w g(w) with g(w) = 1 - epsilon / |w|.

    The surrogate of the author response to "Discovering Neural Wirings": w g(w) = w - epsilon sgn(w),
    whose derivative is 1 for every epsilon, as "ste" has it.

    Args:
        epsilon: above 0.

    >>> import neuralgraph as ng
    >>> selector = ng.TopK(k=2, gradient=ng.selectors.soft_gate(epsilon=1e-3))
    """
    if not isinstance(epsilon, (int, float)) or not 0 < epsilon < math.inf:
        raise SelectionError(f"epsilon must be a finite number above 0, got {epsilon!r}.")
    return GradientRule(partial(_soft_gate, epsilon=epsilon), reaches_all=True)


GRADIENTS = {
    # d(effective)/dw = 1 on every candidate: appendix F of the paper
    "ste": GradientRule(_straight_through, reaches_all=True),
    # d(effective)/dw = 1 on real edges, 0 elsewhere
    "masked": GradientRule(lambda weight, real: weight.where(real, weight.new_zeros(())),
                           reaches_all=False),
    # the same as "ste", derived from a gate
    "soft_g": soft_gate(),
}
