"""The contract of backends."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from ..selectors import Selection
from ..wiring import Stage


class Backend(ABC):
    """One way to compute the sums over real edges.

    A backend has no parameters and can be exchanged at any time. Whatever it prepares for one
    selection goes into ``selection.cache``.

    ``fuses_nodes`` says whether the steps of node functions too are to be compiled together.
    """

    fuses_nodes = False

    @abstractmethod
    def propagate(self, stage: Stage, messages: torch.Tensor, selection: Selection) -> torch.Tensor:
        """I_v = sum over real edges (u,v) of w_uv z_u  (equation 2 of the paper).

        Differentiable in ``messages`` (through real edges only) and in ``selection.weight`` (at
        every candidate edge if ``selection.reaches_all``, otherwise at the real ones).

        Args:
            stage: the candidate edges into some nodes.
            messages: z of the stage's sources, (B, n_src, H, W).
            selection: over all E candidate edges of the wiring.

        Returns:
            The sums of the stage's nodes, (B, n_dst, H, W).
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
