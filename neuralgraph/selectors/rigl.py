"""Growing by the gradient."""

from __future__ import annotations

import torch

from .registry import register
from .regrowth import DropAndGrow


@register("rigl")
class RigL(DropAndGrow):
    """Every ``every`` steps, drop the smallest real |w| and grow the absent candidates of largest |dL/dw|.

    At step t of T, for t < end T, of k candidates that compete

        floor(f_t k)   are dropped,    f_t = drop / 2 (1 + cos(pi t / (end T))),

    and as many of those that are not left grow, by the gradient of that step at every candidate. New weights
    are 0, as is their momentum; one that is dropped and grows again stays. Between these steps gradients
    reach real candidates only ("Rigging the Lottery", Evci et al., 2020, algorithm 1). Starts with k
    candidates drawn uniformly. Differs from the paper: the optimizer also steps where edges change.

    Args:
        k: number of real edges, 0 to the number of candidates.
        drop: the share that is dropped at first.
        every: steps between changes.
        end: the share of all steps after which nothing changes.
        per, group, always, never: as for :class:`TopK`.

    >>> RigL(k=100).fraction(25, 100)
    0.22499999999999998
    """

    def __init__(self, k: int, drop: float = 0.3, every: int = 100, end: float = 0.75, per: str = "graph",
                 group: int | None = None, always: torch.Tensor | None = None, never: torch.Tensor | None = None):
        super().__init__(k, drop, 0.0, every, end, per, group, always, never)
