"""Nodes and edges with their data, as plain tensors: what a wiring holds, and what a DGL graph is made of."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING

import torch

from .._dgl import load
from ..errors import WiringError
from .ends import Ends, Entries

if TYPE_CHECKING:
    from .._dgl import DGLGraph


class Columns(MutableMapping[str, torch.Tensor]):
    """Named tensors that have one row for each node, or each edge.

    Args:
        of: "node" or "edge".
        number: of rows.
    """

    def __init__(self, of: str, number: int):
        self.of, self.number = of, number
        self._values: dict[str, torch.Tensor] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._values[name]

    def __setitem__(self, name: str, value: torch.Tensor) -> None:
        if value.dim() == 0 or len(value) != self.number:
            raise WiringError(f"{self.of} data {name!r} must have one row for each of the {self.number} {self.of}s, "
                              f"got the shape {tuple(value.shape)}.")
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Graph:
    """A directed graph with data on nodes and edges.

    Args:
        ends: where edges begin and end, int64.
        num_nodes: V.
    """

    def __init__(self, ends: Ends, num_nodes: int):
        self.ends, self.num_nodes = ends, num_nodes
        self.ndata, self.edata = Columns("node", num_nodes), Columns("edge", len(ends))

    @property
    def src(self) -> torch.Tensor:
        """The nodes at which edges begin, int64 (E,)."""
        return self.ends.src

    @property
    def dst(self) -> torch.Tensor:
        """The nodes at which they end, likewise."""
        return self.ends.dst

    def __setstate__(self, state: dict) -> None:
        if "ends" not in state:  # in pickles of version 0.2
            state = {"ends": Entries(state.pop("src"), state.pop("dst"), (state["num_nodes"],) * 2), **state}
        self.__dict__.update(state)

    def copy(self) -> Graph:
        """The same, sharing no tensor."""
        copy = Graph(self.ends.copy(), self.num_nodes)
        for data, own in ((self.ndata, copy.ndata), (self.edata, copy.edata)):
            own.update((name, value.detach().clone()) for name, value in data.items())
        return copy

    @classmethod
    def from_dgl(cls, graph: DGLGraph) -> Graph:
        """A homogeneous graph of DGL; the data are the same tensors."""
        src, dst = graph.edges()
        number = graph.num_nodes()
        found = cls(Entries(src, dst, (number, number)), number)
        found.ndata.update(graph.ndata)
        found.edata.update(graph.edata)
        return found

    def to_dgl(self, what: str) -> DGLGraph:
        """The graph as one of DGL, which shares no tensor with it.

        Args:
            what: needs it, for the message where DGL is not installed.
        """
        dgl, own = load(what), self.copy()
        with torch.device("cpu"):  # DGL makes tensors on torch's default device
            graph = dgl.graph((own.src, own.dst), num_nodes=own.num_nodes)
        graph.ndata.update(own.ndata)
        graph.edata.update(own.edata)
        return graph
