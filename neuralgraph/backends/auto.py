"""The backend that chooses."""

from __future__ import annotations

from .. import kernels
from .backend import Backend
from .dense import Dense
from .sparse import Sparse

DENSE_FROM = 0.35  # share of real edges from which a matrix product is faster than sums over edges


class Auto(Backend):
    """Per stage, the sparse backend below a density of 0.35, the dense one from there on.

    The density is that of real edges among all pairs of the stage's sources and nodes; where the two
    take the same time was measured (``benchmarks/propagate.py``). Off the CPU, and where kernels
    cannot be compiled, it is always the dense one. Node functions are compiled with either.
    """

    fuses_nodes = kernels.AVAILABLE

    def __init__(self):
        self._dense = Dense()
        self._sparse = Sparse() if kernels.AVAILABLE else self._dense

    def propagate(self, stage, messages, selection):
        pairs = len(stage.nodes) * len(stage.sources)
        if messages.device.type != "cpu" or self._num_real(stage, selection) >= DENSE_FROM * pairs:
            return self._dense.propagate(stage, messages, selection)
        return self._sparse.propagate(stage, messages, selection)

    @staticmethod
    def _num_real(stage, selection) -> int:
        """The number of real edges into the stage."""
        key = (Auto, stage)
        if key not in selection.cache:
            selection.cache[key] = int(stage.values(selection.real).sum())
        return selection.cache[key]
