"""The backend that chooses."""

from __future__ import annotations

import torch

from .. import kernels
from ..selectors import Selection
from ..wiring import Stage
from .backend import Backend, Shared
from .dense import Dense
from .layout import Layout
from .sparse import Sparse
from .transforms import is_transformed

DENSE_FROM = 0.5   # share of real edges from which a matrix product is faster than sums over edges
SMALL = 2**23      # multiply-adds of a matrix product that costs no more than to start the sums


class Auto(Backend):
    """Per stage, the sparse backend below a density of 0.5, the dense one from there on.

    The density is that of real edges among all pairs of the stage's sources and nodes. Where the dense
    product has fewer than 2^23 multiply-adds, it is the dense one too. Both numbers were measured
    (``benchmarks/propagate.py``). Off the CPU, where kernels cannot be compiled, and where torch traces or
    transforms what is computed, it is always the dense one. Node functions are compiled with either.
    """

    fuses_nodes = kernels.AVAILABLE

    def __init__(self):
        self._dense = Dense()
        self._sparse = Sparse() if kernels.AVAILABLE else self._dense

    def propagate(self, stage: Stage, messages: torch.Tensor, selection: Selection,
                  shared: Shared | None = None) -> torch.Tensor:
        pairs = len(stage.nodes) * len(stage.sources)
        work = pairs * len(messages) * messages.shape[2:].numel()
        is_dense = messages.device.type != "cpu" or work < SMALL or is_transformed(messages) or \
            self._num_real(stage, selection) >= DENSE_FROM * pairs
        return (self._dense if is_dense else self._sparse).propagate(stage, messages, selection, shared)

    @staticmethod
    def _num_real(stage, selection) -> int:
        """The number of real edges into the stage."""
        key = (Auto, stage)
        if key not in selection.cache:
            selection.cache[key] = int(Layout.of(stage).values(selection.real).count_nonzero())
        return selection.cache[key]
