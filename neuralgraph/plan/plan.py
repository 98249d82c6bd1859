"""What is left to compute of a network, as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ..nodes import Lowered


@dataclass
class Group:
    """Nodes of one level with one function.

    Args:
        level: when they are computed, from 0 on.
        nodes: their numbers in the plan, (n,).
        kind: "input" (from the data), "sum" or "product" (of parents).
        scale: how many times smaller than the data the maps are that enter the function.
        steps: the function, one step after the other.
        channels: of "input", the channels of the data, (n,).
        outputs: the channels of the result if they are outputs, (n,), otherwise None.
    """

    level: int
    nodes: np.ndarray
    kind: str
    scale: int
    steps: list[Lowered] = field(default_factory=list)
    channels: np.ndarray | None = None
    outputs: np.ndarray | None = None

    def of(self, nodes: np.ndarray) -> Group:
        """The group of some of the nodes, by index or mask."""
        return replace(self, steps=[step.of(nodes) for step in self.steps],
                       **{name: value[nodes] for name in ("nodes", "channels", "outputs")
                          if (value := getattr(self, name)) is not None})

    @property
    def stride(self) -> int:
        """How many times smaller the function makes maps."""
        return math.prod(step.shrinks for step in self.steps)


@dataclass
class Plan:
    """A network as one acyclic graph of nodes to compute; nodes at several times are several nodes.

    Args:
        dtype: of the numbers.
        num_inputs, num_outputs: channels of the data and of the result.
        output_scale: how many times smaller than the data the result is.
        groups: in order of levels.
        src, dst, weight: real edges, sorted by dst, then src.
        before: groups that do not depend on the data, computed once.
        dims: dimensions of a map, 0 to 3.
    """

    dtype: torch.dtype
    num_inputs: int
    num_outputs: int
    output_scale: int
    groups: list[Group]
    src: np.ndarray
    dst: np.ndarray
    weight: np.ndarray
    before: list[Group] = field(default_factory=list)
    dims: int = 2

    def output_space(self, space: tuple[int, ...]) -> tuple[int, ...]:
        """The sides of the result's maps for maps of these sides."""
        return reduced(space, self.output_scale)

    @property
    def read(self) -> set[int]:
        """The channels of the data that are read."""
        return {c for group in self.groups if group.kind == "input" and group.channels is not None
                for c in group.channels.tolist()}

    @property
    def written(self) -> set[int]:
        """The channels of the result that are written."""
        return {c for group in self.groups if group.outputs is not None for c in group.outputs.tolist()}


def reduced(space: tuple[int, ...], scale: int) -> tuple[int, ...]:
    """The sides of maps that are ``scale`` times smaller."""
    return tuple(-(-side // scale) for side in space)
