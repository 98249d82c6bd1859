"""Growing where the wiring itself suggests it, without any gradient."""

from __future__ import annotations

import torch

from .. import kernels
from ..errors import SelectionError
from ..wiring.wiring import INPUT, OUTPUT
from .candidates import Candidates
from .registry import register
from .regrowth import DropAndGrow, filled, largest


@register("cht")
@register("chts", soft=True)
class CHT(DropAndGrow):
    """Drop the share ``drop`` of smallest real |w|, and grow where paths of three real edges already lead.

    Cannistraci-Hebb training ("Epitopological learning and Cannistraci-Hebb network shape intelligence brain-
    inspired theory for ultra-sparse advantage in deep learning", Zhang et al., 2024). An absent candidate from u
    to v gets the score CH3-L3

        sum over real u -> a <- b -> v of  1 / sqrt((1 + e_a) (1 + e_b)),

    where e counts the other ends of the real edges of a and b that are on no such path from u to v, u and v
    aside. The largest grow; where too few candidates have such a path the rest is drawn. In a graph, edges of
    nodes that no real edge reaches or leaves (inputs and outputs aside) are dropped too, and so on along the chain.

    With ``soft``, as ``chts``, edges are drawn ("Brain network science modelling of sparse neural networks enables
    Transformers and LLMs to perform as fully connected", Zhang et al., 2025): kept ones with probability
    in proportion to |w|^T, T growing from 1 to 9 with the training, and grown ones in proportion to the score CH2-L3n

        sum over a of (1 + i_a) / (1 + e_a)  +  sum over b of (1 + i_b) / (1 + e_b),

    a over the targets of u that share i_a sources with v and have e_a others but u, b over the sources of v
    that share i_b targets with u and have e_b others but v.

    No gradient of an absent candidate is ever computed. New weights are 0, as is their momentum. Each entry of a
    convolution's kernels counts as a source of its own, as if it were a matrix (out, in x kernel). Starts with k
    candidates drawn uniformly. Differs from the paper: chains are not followed from layer to layer of a
    model.

    Args:
        k: number of real edges, 0 to the number of candidates.
        soft: see above.
        drop: zeta, the share that is dropped.
        every: steps between changes.
        end: the share of all steps after which nothing changes.
        chains: whether edges on chains to and from dead nodes are dropped; by default in graphs, the only
            ones where it is known.
        per, group, always, never: as for :class:`TopK`.
    """

    by_gradient, draws = False, True

    def __init__(self, k: int, soft: bool = False, drop: float = 0.3, every: int = 100, end: float = 0.75,
                 chains: bool | None = None, per: str = "graph", group: int | None = None,
                 always: torch.Tensor | None = None, never: torch.Tensor | None = None):
        super().__init__(k, drop, drop, every, end, per, group, always, never)
        for name, flag in (("soft", soft), ("chains", chains)):
            if flag not in (True, False, None) or flag is None and name == "soft":
                raise SelectionError(f"{name} must be True or False, got {flag!r}.")
        self.soft, self.chains = soft, chains

    def prepare(self, candidates: Candidates, weight: torch.Tensor, generator: torch.Generator) -> None:
        if self.chains and candidates.wiring is None:
            raise SelectionError("chains=True needs a graph: layers do not know which of their nodes are dead.")
        if self.chains and self.per == "group":
            raise SelectionError("chains=True drops single edges, but per='group' all candidates of a parent "
                                 "together.")
        super().prepare(candidates, weight, generator)

    def changed(self, real: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
        keep = self._groups.keep
        draws = self.uniform(2)
        worth = self.worth(weight)
        if self.soft:
            worth = exponent(*self.done, self.end) * worth.double().log().clamp(min=LEAST) + gumbel(draws[0])
        kept = largest(self._groups, worth, real, keep - self.dropped(keep))
        wiring = self.candidates.wiring
        if wiring is not None and self.per != "group" and self.chains is not False:
            kept &= ~dead_ends(wiring.src, wiring.dst, wiring.role, kept)
        score = path_scores(self.candidates, kept, self.soft)
        growth = (score.log() + gumbel(draws[1]) if self.soft else score).where(score > 0, draws[1] - OUTSIDE)
        return filled(self._groups, growth, kept, keep)


LEAST = -1e4     # the logarithm of a weight of 0
OUTSIDE = 1e6    # below every score, what has none
SPARSE = 0.08    # share of real candidates below which following paths is faster than products of matrices


def gumbel(draw: torch.Tensor) -> torch.Tensor:
    """Noise from draws of U[0, 1): the largest of log p + noise are a sample without replacement by p."""
    return -(-draw.clamp(min=torch.finfo(draw.dtype).tiny).log()).log()


def exponent(step: int, total_steps: int, end: float) -> float:
    """T: from 1 to 9, as far as the changes have gone."""
    return 1 + 8 * min(1.0, step / (end * total_steps))


def dead_ends(src: torch.Tensor, dst: torch.Tensor, role: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Real edges that no path of real edges from an input to an output uses, a mask (E,)."""
    alive = real.nonzero().flatten().cpu()
    while True:
        is_fed = (role == INPUT).index_fill(0, dst[alive], True)
        is_read = (role == OUTPUT).index_fill(0, src[alive], True)
        still = alive[is_fed[src[alive]] & is_read[dst[alive]]]
        if len(still) == len(alive):
            return real.index_fill(0, alive.to(real.device), False)
        alive = still


def path_scores(candidates: Candidates, real: torch.Tensor, soft: bool) -> torch.Tensor:
    """The scores of absent candidates, float64 (n,): CH3-L3, or CH2-L3n if ``soft``, within each layer.

    They are rounded to float32, so that sums that are equal but for the order of their terms are.
    """
    parts = candidates.parts
    return torch.cat([_scores_of(part, own, soft)
                      for part, own in zip(parts, real.split([part.num for part in parts]))]).double()


def _scores_of(part: Candidates, real: torch.Tensor, soft: bool) -> torch.Tensor:
    number = int(real.sum())
    score = torch.zeros(part.num, dtype=torch.float32, device=real.device)
    if not number:
        return score
    nth = part.nth()
    target, source = part.target(), part.source() * (int(nth.max()) + 1) + nth
    if real.device.type == "cpu" and kernels.AVAILABLE and number < SPARSE * part.num:
        from ..kernels.paths import path_scores  # numba is loaded where it is used
        return path_scores(target, source, real, soft)
    row, rows = _numbered(target.to(real.device), real)
    column, columns = _numbered(source.to(real.device), real)
    matrix = torch.zeros(rows, columns, dtype=torch.float64, device=real.device)
    matrix[row[real], column[real]] = 1
    between = (row >= 0) & (column >= 0)  # others are on no path
    scores = fast_scores(matrix) if soft else ch3_l3(matrix)
    score[between] = scores.float()[row[between], column[between]]
    return score


def _numbered(node: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, int]:
    """New numbers for the nodes of candidates (n,), -1 for those without a real one, and how many there are."""
    is_used = torch.zeros(int(node.max()) + 1, dtype=torch.bool, device=node.device).index_fill_(0, node[real], True)
    number = is_used.cumsum(0) - 1
    return number.where(is_used, -1)[node], int(is_used.sum())


def ch3_l3(matrix: torch.Tensor) -> torch.Tensor:
    """CH3-L3 of every absent pair of a target and a source, from the 0/1 matrix [target, source]."""
    shared_by_targets, shared_by_sources = _shared(matrix)
    # 1 + e_a = degree of a - sources that it shares with v, as u is one of its and none of v's; so with b and u
    targets = (matrix.sum(1) - shared_by_targets).clamp(min=1).rsqrt()   # [v, a]
    sources = (matrix.sum(0) - shared_by_sources).clamp(min=1).rsqrt()   # [u, b]
    is_read_by = matrix.T.contiguous()  # rows of sources, so that whole rows are gathered and added
    score = torch.zeros_like(is_read_by)
    for a, own in enumerate(matrix):
        ends = own.nonzero().flatten()  # of a: u and b alike
        score.index_add_(0, ends, sources[ends][:, ends] @ is_read_by[ends] * targets[:, a])
    return score.T


def fast_scores(matrix: torch.Tensor) -> torch.Tensor:
    """CH2-L3n, likewise: P A + (Q A^T)^T with P = (D + 1{D != 0}) / (e + 1) of D = A A^T, Q of A^T A."""
    def weighed(shared, degree):
        outside = (degree - shared).clamp(min=1) - 1
        return (shared + 1) * (shared > 0) / (outside + 1)
    shared_by_targets, shared_by_sources = _shared(matrix)
    p, q = weighed(shared_by_targets, matrix.sum(1)), weighed(shared_by_sources, matrix.sum(0))
    sparse = matrix.to_sparse()
    return torch.sparse.mm(sparse.t(), p.T).T + torch.sparse.mm(sparse, q.T)


def _shared(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """D: how many sources two targets share, A A^T, and how many targets two sources share, A^T A."""
    sparse = matrix.to_sparse()
    return torch.sparse.mm(sparse, matrix.T), torch.sparse.mm(sparse.t(), matrix)
