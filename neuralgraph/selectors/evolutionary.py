"""Growing at random."""

from __future__ import annotations

import torch

from .regrowth import DropAndGrow
from .registry import register


@register("set")
class SET(DropAndGrow):
    """Every ``every`` steps, drop the share ``drop`` of smallest real |w| and grow as many others at random.

    Sparse Evolutionary Training ("Scalable training of artificial neural networks with adaptive sparse
    connectivity inspired by network science", Mocanu et al., 2018). No gradient of an absent candidate is ever
    computed. Of k candidates that compete floor(drop k) are dropped, and of all that are not left as many grow,
    each set of them as likely; new weights are 0, as is their momentum. Draws come from a seed drawn when it is
    bound, and the step. Differs from the paper: k candidates are real at the start, not each with a
    probability, and new weights are not drawn.

    Args:
        k: number of real edges, 0 to the number of candidates.
        drop: zeta, the share that is dropped.
        every: steps between changes; the paper's is an epoch.
        end: the share of all steps after which nothing changes.
        per, group, always, never: as for :class:`TopK`.
    """

    by_gradient, draws = False, True

    def __init__(self, k: int, drop: float = 0.3, every: int = 100, end: float = 1.0, per: str = "graph",
                 group: int | None = None, always: torch.Tensor | None = None, never: torch.Tensor | None = None):
        super().__init__(k, drop, drop, every, end, per, group, always, never)

    def growth(self, kept, gradient):
        return self.uniform()[0]
