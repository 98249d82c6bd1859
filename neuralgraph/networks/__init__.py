"""Networks: a wiring, node functions, a selector and a backend put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..wiring import Wiring, to_networkx as _wiring_to_networkx
from .canonical import Canonical, canonicalise
from .continuous import ContinuousTimeNeuralGraph
from .discrete import DiscreteTimeNeuralGraph
from .network import NeuralGraph
from .static import StaticNeuralGraph

if TYPE_CHECKING:
    import networkx as nx


def to_networkx(wiring_or_network: Wiring | NeuralGraph, real_only: bool = True) -> nx.DiGraph:
    """A wiring or a network as a :class:`networkx.DiGraph`; see :func:`neuralgraph.wiring.to_networkx`.

    Args:
        wiring_or_network: of a network, the learned wiring with all learned values of its nodes.
        real_only: of a network, leave out the candidate edges that are not real; with False all are
            there and the edge attribute ``real`` tells which is which. A wiring has only its own.
    """
    if isinstance(wiring_or_network, NeuralGraph):
        network = wiring_or_network
        if real_only:
            return _wiring_to_networkx(network.learned_wiring())
        return _wiring_to_networkx(network.complete_wiring(), real=network.selection().real)
    return _wiring_to_networkx(wiring_or_network)


__all__ = ["Canonical", "ContinuousTimeNeuralGraph", "DiscreteTimeNeuralGraph", "NeuralGraph", "StaticNeuralGraph",
           "canonicalise", "to_networkx"]


def __dir__() -> list[str]:
    return __all__
