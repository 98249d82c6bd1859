"""Wirings that training does not change."""

from __future__ import annotations

import torch

from ..errors import SelectionError
from .selector import Selector, check_k
from .topk import top_k


class RandomGraph(Selector):
    """k edges drawn uniformly once and kept: the paper's baseline RG (section 3.3).

    Every candidate gets r_uv ~ U[0, 1), the k largest are real for ever, and only they receive
    gradients. The draw does not depend on the edge weights, as in the authors' code.

    Args:
        k: number of real edges, 0 to the number of candidates.
    """

    def __init__(self, k: int):
        super().__init__("masked")
        self.k = check_k(k)
        self.register_buffer("real", None)

    def prepare(self, generator):
        check_k(self.k, self.num_edges)
        draw = torch.rand(self.num_edges, generator=generator, dtype=torch.float64)
        self.real = top_k(draw, self.k)

    def select(self, weight):
        return self.real

    def fingerprint(self):
        return (self.real.data_ptr(), self.real._version)

    @property
    def num_real(self):
        return self.k

    def extra_repr(self):
        return f"k={self.k}"


class Complete(Selector):
    """Every candidate edge is real: the dense network."""

    def __init__(self, k: None = None):
        super().__init__("masked")
        if k is not None:
            raise SelectionError(
                f"the selector 'complete' keeps every candidate edge and takes no k, got k={k!r}: "
                "leave k out (on the command line, --set k=none)."
            )

    def select(self, weight):
        return torch.ones_like(weight, dtype=torch.bool)

    def fingerprint(self):
        return ()

    @property
    def num_real(self):
        return self.num_edges
