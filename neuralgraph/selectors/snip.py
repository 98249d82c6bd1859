"""Pruning once, before the training."""

from __future__ import annotations

import torch

from .candidates import Candidates
from .competition import Competing
from .registry import register
from .selector import MaskSelector


@register("snip")
class SNIP(Competing, MaskSelector):
    """The k candidates of largest |dL/dw w| on the first batch, chosen before it is learned from and kept.

    The score is the connection sensitivity |dL/dc| at c = 1 of a gate c on each candidate, of a kernel as a
    whole ("SNIP: Single-shot Network Pruning based on Connection Sensitivity", Lee et al., 2019, equation 6; its
    normalisation changes no order). The network is complete until the first ``optimizer.step()``: its gradients
    decide, and it trains the k that are kept, as all later ones do; other weights become 0. Accumulate gradients
    to decide by more than one batch.

    Args:
        k: number of real edges, 0 to the number of candidates.
        per, group, always, never: as for :class:`TopK`.
    """

    scheduled = True

    def __init__(self, k: int, per: str = "graph", group: int | None = None, always: torch.Tensor | None = None,
                 never: torch.Tensor | None = None):
        super().__init__(k)
        self.compete_within(per, group, always, never)

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        self._groups = self.groups()
        self.keep(torch.ones(candidates.num, dtype=torch.bool))

    def wants_gradient(self, step: int, total_steps: int) -> bool:
        return int(self.real.sum()) > self._groups.num_kept  # not chosen yet

    def decide(self, step: int, total_steps: int, weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        self.keep(self._groups.top(self.candidates.gather(gradient * weight).abs()))
        return ~self.mask

    def extra_repr(self) -> str:
        return f"k={self.k}{self.competition_repr()}"
