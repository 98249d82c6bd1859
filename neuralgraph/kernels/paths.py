"""Sums over paths of three edges of a sparse bipartite graph, compiled."""

from __future__ import annotations

import numpy as np
import torch

from .keeping import compiled
from .sorting import _by_other_end, _by_row


def path_scores(target: torch.Tensor, source: torch.Tensor, real: torch.Tensor, soft: bool) -> torch.Tensor:
    """The scores of candidates by the paths of real ones between their ends, float32 (n,).

    What :func:`neuralgraph.selectors.cht.ch3_l3` and :func:`~neuralgraph.selectors.cht.fast_scores` say, in a time
    in proportion to the number of these paths, and without any matrix.

    Args:
        target, source: the ends of each candidate, int64 (n,), at least one.
        real: a mask (n,).
        soft: the latter of the two, rather than the former.
    """
    num_targets, num_sources = int(target.max()) + 1, int(source.max()) + 1
    rows, columns = target.numpy(), source.numpy()
    known, sources, places = _by_row(np.flatnonzero(real.numpy()), rows, columns, num_targets)
    starts, targets, _ = _by_other_end(known, sources, places, num_sources)
    candidates = _by_row(np.arange(len(rows)), rows, columns, num_targets)
    scores = torch.zeros(len(rows), dtype=torch.float32, device="cpu")
    _follow(soft, known, sources, starts, targets, *candidates, scores.numpy())
    return scores


@compiled
def _follow(soft, known, sources, starts, targets, first, column, candidate, scores):
    """Along all paths v <- b -> a <- u of real edges; v and a share sources, b and u share targets."""
    most = max(np.diff(known).max(), np.diff(starts).max())
    factor = 1 / np.sqrt(np.maximum(1, np.arange(most + 1)))  # of a node with so many edges to others
    score, shared_by_sources = np.zeros(len(starts) - 1), np.zeros(len(starts) - 1, np.int32)
    shared_by_targets = np.zeros(len(known) - 1, np.int32)
    for v in range(len(known) - 1):
        own = sources[known[v]:known[v + 1]]
        score[:] = 0
        for b in own:
            for a in targets[starts[b]:starts[b + 1]]:
                shared_by_targets[a] += 1
        for b in own:
            of_b = targets[starts[b]:starts[b + 1]]
            for a in of_b:
                for u in sources[known[a]:known[a + 1]]:
                    shared_by_sources[u] += 1
            for a in of_b:
                shared, of_a = shared_by_targets[a], sources[known[a]:known[a + 1]]
                if not soft:
                    part = factor[len(of_a) - shared]
                    for u in of_a:
                        score[u] += part * factor[len(of_b) - shared_by_sources[u]]
                elif shared:  # once for each a
                    shared_by_targets[a], part = 0, (1 + shared) / max(1, len(of_a) - shared)
                    for u in of_a:
                        score[u] += part
            for a in of_b:
                for u in sources[known[a]:known[a + 1]]:
                    shared = shared_by_sources[u]
                    if soft and shared:  # once for each b and u
                        score[u] += (1 + shared) / max(1, len(of_b) - shared)
                    shared_by_sources[u] = 0
        for b in own:
            for a in targets[starts[b]:starts[b + 1]]:
                shared_by_targets[a] = 0
        for at in range(first[v], first[v + 1]):
            scores[candidate[at]] = score[column[at]]
