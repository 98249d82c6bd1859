"""Activations with learned values: a PReLU, a spline."""

from __future__ import annotations

from typing import ClassVar

import torch

from .activation import Scalar
from .lowered import Lowered, Pointwise, array
from .operation import Operation, Rows


class LearnedActivation(Operation):
    """y = f(x, p) with learned values p of each channel.

    A subclass says what p is, as ``learned`` and parameters (N,) or (N, K), and ``scalar``, f in all forms;
    in p they stand one after the other, in the order of ``learned``.

    >>> import neuralgraph as ng
    >>> class PReLU(ng.nodes.LearnedActivation):
    ...     name, learned = "prelu", {"prelu_slope": "slope"}
    ...     scalar = ng.nodes.Scalar(lambda x, p: torch.where(x >= 0, x, p[0] * x),
    ...                              formula=lambda x, p: x if x >= 0 else p[0] * x)
    ...     def __init__(self, function, channels, dims):
    ...         super().__init__(function, channels, dims)
    ...         self.slope = torch.nn.Parameter(torch.full((channels,), 0.25))
    >>> PReLU(ng.NodeFunction(), channels=2, dims=0)(torch.tensor([[-4.0, 4.0]]), slice(None)).tolist()
    [[-1.0, 4.0]]
    """

    scalar: ClassVar[Scalar]

    def forward(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        p = self._values(rows)
        return self.scalar(x, p.T.view(*p.T.shape, *[1] * self.dims))

    def lower(self, rows: Rows) -> list[Lowered]:
        return [Pointwise(self.name, array(self._values(rows)))]

    def _values(self, rows: Rows) -> torch.Tensor:
        """p, (n, P)."""
        values = [self.value(attribute) for attribute in self.learned.values()]
        return torch.cat([value[rows].reshape(len(value[rows]), -1) for value in values], dim=1)
