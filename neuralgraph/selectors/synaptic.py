"""Edges by how much they carry: synaptic strength."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import nn

from ..errors import SelectionError, lookup
from .candidates import Candidates, Edges
from .groups import is_traced
from .registry import register
from .selection import GradientRule
from .selector import check_finite, check_number
from .topk import RankingSelector

# By the score, the operations of the source whose scale is a factor; None for all.
SCORES = {"full": None, "weight-kernel": ("conv",), "weight": (), "scale": ("norm",)}


@register("synaptic-strength")
class SynapticStrength(RankingSelector):
    """The candidates of largest strength, and a penalty that makes strengths small.

    Of an edge of a graph, the factors being those from the last norm of u on (what u does not have counts 1),

        s_uv = |w_uv| ||theta_u|| |gamma_u|

    and of a kernel in a layer a learned number: the effective kernel is s K / ||K||, where the parameter
    ``selector.strengths`` starts at ||K||. Where a candidate of a layer is a single weight, s = |w|. Real are
    the k largest |s|, or all of at least tau, as effective weights they are used as they are, and gradients
    reach w by the gradient rule as if it did not depend on s. The loss gains (by :func:`neuralgraph.rewire`)

        strength * sum over all candidates of |s|

    whose gradient goes to all factors of s. ("Synaptic Strength for Convolutional Neural Network", Lin et al.,
    NeurIPS 2018; the form on graphs, and the use at every step, are this library's.)

    To prune: train with k all candidates, then set ``k`` or ``tau``, freeze and fine-tune.

    Args:
        k: number of real edges, 0 to the number of candidates.
        tau: instead of k, the smallest strength of a real one; how many there are is then ``num_real``, as of
            the last selection.
        strength: lambda of the penalty.
        score: what candidates of a graph are ranked and penalised by: "full"; "weight-kernel", |w| ||theta||;
            "weight", |w|; "scale", |gamma| (network slimming; a node counts once in its penalty).
        gradient, per, group, always, never: as for :class:`TopK`; tau is for ``per="graph"`` alone.

    Raises:
        SelectionError: unless one of k and tau is given; from a forward, for a tau above all strengths.

    >>> import neuralgraph as ng
    >>> net = ng.StaticNeuralGraph(ng.wirings.chain([2, 2]), SynapticStrength(k=2))
    >>> net.weight.data[:] = torch.tensor([0.1, 0.2, 0.3, 0.4])       # 0 -> 2, 1 -> 2, 0 -> 3, 1 -> 3
    >>> net.functions.groups[0].send[0].weight.data[0] = 5.0          # gamma of node 0
    >>> net.selection().real.tolist() == [True, False, True, False]
    True
    """

    k_is = "optional"
    part_of_weight = ("strengths",)

    def __init__(self, k: int | None = None, tau: float | None = None, strength: float = 1e-4, score: str = "full",
                 gradient: str | GradientRule = "ste", per: str = "graph", group: int | None = None,
                 always: torch.Tensor | None = None, never: torch.Tensor | None = None):
        super().__init__(k, gradient, per, group, always, never)
        self.tau = tau
        self.strength = check_number("strength", strength, 0)
        lookup("score", score, SCORES)
        self.score, self._above = score, 0
        self.register_parameter("strengths", None)
        self._check_threshold()

    def _check_threshold(self):
        if (self.k is None) == (self.tau is None):
            raise SelectionError("synaptic-strength needs k, the number of real edges, or tau, their smallest strength, "
                                 f"and the other None; got k={self.k!r}, tau={self.tau!r}.")
        if self.tau is not None:
            check_number("tau", self.tau, 0)
            if self.per not in ("graph", "layer") or self._always is not None or self._never is not None:
                raise SelectionError("tau is the same for all candidates: per='graph' without always and never, or "
                                     "give k instead.")

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        if self.score != "full" and not isinstance(candidates, Edges):
            raise SelectionError(f"score={self.score!r} is for graphs: in a layer the strength is learned as one number "
                                 "(score='full').")
        if candidates.num_weights > candidates.num:
            self.strengths = nn.Parameter(candidates.magnitude(weight))
        if self.tau is None:
            super().prepare(candidates, weight, generator)
        else:
            self._above = int((self.strength_of(weight) >= self.tau).sum())  # weights may still be loaded

    def strength_of(self, weight: torch.Tensor) -> torch.Tensor:
        """|s| of every candidate, (n,), from the weights (W,); differentiable."""
        if self.strengths is not None:
            return self.strengths.abs()
        gain = self._gain()
        if gain is None:
            return self.candidates.magnitude(weight)
        gain = gain[self.candidates.source().to(gain.device)]
        return gain if self.score == "scale" else weight.abs() * gain

    def _gain(self) -> torch.Tensor | None:
        """How much each node of a network scales what it sends, (V,)."""
        candidates = self.candidates
        return candidates.gain(SCORES[self.score]) if isinstance(candidates, Edges) and self.score != "weight" else None

    def select(self, weight: torch.Tensor) -> torch.Tensor:
        self._check_threshold()
        if self.strengths is not None:
            check_finite(self.strengths)
        strength = self.strength_of(weight.detach()).detach()
        if self.tau is None:
            return self.groups().top(strength)
        real = strength >= self.tau
        if not is_traced():
            self._above = int(real.sum())
            if not self._above and len(real):
                raise SelectionError(f"tau={self.tau} is above all strengths, of which the largest is "
                                     f"{float(strength.max()):.4g}: nothing would be left of the network.")
        return real

    @property
    def num_real(self) -> int | None:
        return super().num_real if self.tau is None else self._above

    def effective(self, weight: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        if self.strengths is None:
            return super().effective(weight, real)
        candidates, flat = self.candidates, weight.reshape(-1)
        size = candidates.magnitude(flat)
        factor = self.strengths / size.where(size > 0, size.new_ones(()))
        return super().effective((flat * candidates.spread(factor)).view(weight.shape), real)

    def penalty(self, weight: torch.Tensor) -> torch.Tensor | None:
        if not self.strength:
            return None
        if self.score == "scale" and (gain := self._gain()) is not None:
            sources = self.candidates.source().unique()
            return self.strength * gain[sources.to(gain.device)].sum()
        return self.strength * self.strength_of(weight).sum()

    def penalised(self) -> Sequence[nn.Parameter]:
        candidates = self.candidates
        if not isinstance(candidates, Edges) or not self.strength or self._gain() is None:
            return ()
        return candidates.node_parameters()

    def fingerprint(self) -> tuple[Hashable, ...]:
        gain = self._gain()
        return super().fingerprint() if gain is None else (
            *super().fingerprint(), gain.detach().double().cpu().numpy().tobytes())

    def extra_repr(self) -> str:
        threshold = f"k={self.k}" if self.tau is None else f"tau={self.tau}"
        return f"{threshold}, strength={self.strength}" + (f", score={self.score!r}" if self.score != "full" else "")
