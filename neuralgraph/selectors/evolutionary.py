"""Growing at random."""

from __future__ import annotations

import math

import torch

from ..errors import SelectionError, lookup
from .candidates import Candidates
from .registry import register
from .regrowth import DropAndGrow


@register("set")
class SET(DropAndGrow):
    """Every ``every`` steps, drop the share ``drop`` of smallest real |w| and grow as many others at random.

    Sparse Evolutionary Training ("Scalable training of artificial neural networks with adaptive sparse
    connectivity inspired by network science", Mocanu et al., 2018). No gradient of an absent candidate is ever
    computed. Of k candidates that compete floor(drop k) are dropped, and of all that are not left as many grow,
    each set of them as likely. New weights are 0, or drawn from

        U(-sqrt(3) sigma, sqrt(3) sigma),    sigma^2 the variance of the layer's weights when it was bound,

    as initial weights were; their momentum is 0. Draws come from a seed drawn when it is bound, and the step. Differs
    from the paper: k candidates are real at the start, not each with a probability.

    Args:
        k: number of real edges, 0 to the number of candidates.
        drop: zeta, the share that is dropped.
        every: steps between changes; the paper's is an epoch.
        end: the share of all steps after which nothing changes.
        per, group, always, never: as for :class:`TopK`.
        new: "zero" (default), or "init" to draw new weights.

    Raises:
        SelectionError: for new="init", when it is bound to a layer whose weights are all equal.
    """

    by_gradient, draws = False, True

    def __init__(self, k: int, drop: float = 0.3, every: int = 100, end: float = 1.0, per: str = "graph",
                 group: int | None = None, always: torch.Tensor | None = None, never: torch.Tensor | None = None,
                 new: str = "zero"):
        super().__init__(k, drop, drop, every, end, per, group, always, never)
        self.new = new
        lookup("new", new, dict.fromkeys(("zero", "init")))
        self.register_buffer("sigma", None)

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        super().prepare(candidates, weight, generator)
        if self.new == "init":
            parts = weight.split([part.num_weights for part in candidates.parts])
            self.sigma = torch.stack([part.std(correction=0) if len(part) else part.new_ones(()) for part in parts])
            if not (self.sigma > 0).all():
                raise SelectionError("new='init' takes the standard deviation of a layer's weights, but all of them "
                                     "are equal: use new='zero'.")

    def growth(self, kept: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
        return self.uniform()[0]

    def new_weights(self) -> torch.Tensor | None:
        if self.new == "zero":
            return None
        sizes = torch.tensor([part.num_weights for part in self.candidates.parts], device=self.sigma.device)
        most = (math.sqrt(3) * self.sigma).repeat_interleave(sizes)
        return (2 * self.uniform(1, len(most), stream=1)[0] - 1) * most

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", new={self.new!r}" if self.new != "zero" else "")
