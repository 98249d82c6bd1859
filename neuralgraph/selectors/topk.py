"""Discovering Neural Wirings: the k edges of largest magnitude."""

from __future__ import annotations

import torch

from ..errors import SelectionError
from .candidates import Candidates
from .competition import Competing, check_k
from .groups import Whole, top_k
from .registry import register
from .selection import GradientRule
from .selector import Selector


class RankingSelector(Competing, Selector):
    """A selector that ranks scores anew at every selection: a setting that changes holds from the next one.

    Args:
        k: number of real edges, 0 to the number of candidates; None where ``k_is`` "optional", and then a subclass
            says what is real.
        gradient: a key of :data:`GRADIENTS`, or a :class:`GradientRule`.
        per: what candidates compete within, a key of :data:`~neuralgraph.selectors.COMPETITIONS`.
        group: for ``per="group"``, the number of nodes that share their parents.
        always, never: masks (n,) of candidates that are real, or not, whatever their score; those that are
            always real count among the k.
    """

    def __init__(self, k: int | None, gradient: str | GradientRule = "ste", per: str = "graph",
                 group: int | None = None, always: torch.Tensor | None = None, never: torch.Tensor | None = None):
        super().__init__(gradient)
        self.k = None if k is None and self.k_is == "optional" else check_k(k)
        self.compete_within(per, group, always, never)
        if self.k is None and per != "graph":
            raise SelectionError(f"without k nothing competes, so that per={per!r} means nothing: give k, or leave per "
                                 "out.")

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        if self.k is not None:
            self.groups()

    def remaining(self) -> torch.Tensor | None:
        """How many candidates each group keeps now, (G,), where a schedule says so; None for those of k."""
        return None

    def select(self, weight: torch.Tensor) -> torch.Tensor:
        groups, weight = self.groups(), weight.detach()
        keep = self.remaining()
        if keep is not None:
            return groups.top(self.candidates.magnitude(weight), keep)
        is_free = type(groups) is Whole and groups.always is None and groups.never is None
        if is_free and self.candidates.num == self.candidates.num_weights:
            return top_k(weight, groups.num_kept, by_magnitude=True)  # in one pass over the weights
        return groups.top(self.candidates.magnitude(weight))

    @property
    def num_real(self) -> int | None:
        if self.k is None or self.candidates is None:
            return self.k
        keep = self.remaining()
        return self.groups().num_kept if keep is None else self.groups().count(keep)


@register("dnw")
class TopK(RankingSelector):
    """E = the k candidates of largest |w| (the paper's Algorithm 1, line 5), chosen at every step.

    Forward uses real edges only; the gradient also reaches the others, though never through them:

        effective weight  w 1{real};    dL/dw_uv = <Z_u, dL/dI_v>  for every candidate (u,v)

    ("Discovering Neural Wirings", section 2.2 and appendix F); into a node that multiplies, Z_u is
    times the other real factors (see ``aggregate`` of :class:`neuralgraph.NodeFunction`). Ties: among
    edges of equal magnitude the one with the higher number is kept, as a stable ascending sort would
    have it.

    Args:
        k: number of real edges, 0 to the number of candidates.
        gradient: "ste" (default); "masked" to let it reach real edges only (the paper's No Update
            Rule); "soft_g", the same as "ste" by another way, or :func:`soft_gate` with an epsilon.
        per: what the edges compete within. "graph" (default, also called "layer"); "block": k is divided
            among the destination blocks in proportion to their candidates; "node": every node that can have
            in-edges keeps k / nodes of them (constant fan-in), which must be a whole number; "group": so
            does it, and every ``group`` nodes in a row have the same parents, ranked by the sum of |w|.
        group: see there.
        always, never: masks (n,) of candidates that are real, or not, whatever their |w|; those that are
            always real count among the k.

    >>> import neuralgraph as ng
    >>> selector = TopK(k=2)
    >>> wiring = ng.wirings.chain([2, 2])
    >>> selector.bind(wiring, torch.zeros(4), torch.Generator())
    >>> selector.select(torch.tensor([0.1, -3.0, 0.5, -0.5]))
    tensor([False,  True, False,  True])
    """

    def extra_repr(self) -> str:
        return f"k={self.k}, gradient={self.gradient!r}{self.competition_repr()}"


@register("no-update")
class NoUpdate(TopK):
    """The paper's No Update Rule: top k at every step, but gradients reach real edges only.

    Hallucinated edges still decay, so an edge comes in only where a real one falls below it
    ("Discovering Neural Wirings", section 3.3).

    Args:
        k: number of real edges.
        per, group, always, never: as for :class:`TopK`.
    """

    def __init__(self, k: int, per: str = "graph", group: int | None = None, always: torch.Tensor | None = None,
                 never: torch.Tensor | None = None):
        super().__init__(k, "masked", per, group, always, never)
