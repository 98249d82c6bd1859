"""The contract of backends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch

from ..selectors import Selection
from ..wiring import Stage
from .pool import Pool


@dataclass(eq=False)
class Shared:
    """Where the messages that one stage reads stand among those that several stages of one pass read.

    They are rows ``first`` to ``last`` of one tensor (B, rows, *space), in the order of the stage's sources.

    Args:
        first: the row of the stage's first source.
        last: one after that of its last.
        cache: the same dict for all stages of this pass that read rows of that tensor, at first empty; for
            what a backend prepares from messages. It dies with the pass's autograd graph.
        pool: of which they are rows where gradients of all stages are added up in one tensor, if they are: a backend
            may then compute from its ``state``, make that a result too, and add to its gradient.
    """

    first: int
    last: int
    cache: dict[Any, Any] = field(default_factory=dict)
    pool: Pool | None = None


class Backend(ABC):
    """One way to compute the sums over real edges.

    A backend has no parameters and can be exchanged at any time. Whatever it prepares for one
    selection goes into ``selection.cache``, and may depend on nothing but the real edges; whatever it
    prepares for a stage, into :class:`~neuralgraph.backends.layout.Layout`.

    ``fuses_nodes`` says whether the steps of node functions too are to be compiled together; ``package``, which
    package it needs that may not be installed.
    """

    fuses_nodes = False
    package: str | None = None

    @abstractmethod
    def propagate(self, stage: Stage, messages: torch.Tensor, selection: Selection,
                  shared: Shared | None = None) -> torch.Tensor:
        """I_v = sum over real edges (u,v) of w_uv z_u  (equation 2 of the paper).

        Differentiable in ``messages`` (through real edges only) and in ``selection.weight`` (at
        every candidate edge if ``selection.reaches_all``, otherwise at the real ones). What is not finite
        reaches the sums through real edges only (except off the CPU, where nobody looks for it).

        Args:
            stage: the candidate edges into some nodes.
            messages: z of the stage's sources, (B, n_src, *space) of 0 to 3 dimensions of space.
            selection: over all E candidate edges of the wiring.
            shared: given where ``fuses_nodes`` is True and the messages of a static network are rows of one
                tensor that other stages read too; a backend may ignore it.

        Returns:
            The sums of the stage's nodes, (B, n_dst, *space).
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
