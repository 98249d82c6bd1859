"""Wirings to start from. Every generator returns a frozen :class:`~neuralgraph.Wiring`."""

from __future__ import annotations

import torch

from ..errors import WiringError
from ..nodes import NodeFunction
from .assembling import DYNAMIC, all_but_outputs, assemble, default_function, integer
from .composed import Macro, macro, micro
from .devices import on_cpu
from .ends import Rectangle, Rectangles
from .expanders import expander
from .layered import blocks, chain
from .lists import from_adjacency, from_edges, from_table
from .matrices import entries_of
from .random_graphs import barabasi_albert, erdos_renyi, watts_strogatz
from .reading import HIDDEN, INPUT, OUTPUT
from .units import lstm, mlp, rnn
from .wiring import Wiring

__all__ = ["DYNAMIC", "Macro", "barabasi_albert", "blocks", "chain", "complete", "complete_dag", "erdos_renyi", "expander",
           "from_adjacency", "from_edges", "from_table", "lstm", "macro", "micro", "mlp", "rnn", "watts_strogatz"]


def __dir__() -> list[str]:
    return __all__


@on_cpu
def complete_dag(nodes: int, *, inputs: int, outputs: int, function: NodeFunction | None = None,
                 dims: int = 2) -> Wiring:
    """Every edge u -> v with u < v: the acyclic graph of the paper's Algorithm 1.

    The first ``inputs`` nodes are inputs (no edges among them), the last ``outputs`` nodes outputs
    (no edges among them either). ``function`` and ``dims`` as in :func:`blocks`.

    >>> complete_dag(5, inputs=2, outputs=1).num_edges      # pairs of 5, less the pair of inputs
    9
    """
    nodes, inputs, outputs, role = _roles(nodes, inputs, outputs)
    earlier = torch.ones(nodes, nodes, dtype=torch.bool).triu(1)
    earlier[:, role == INPUT], earlier[role == OUTPUT] = False, False
    block = (torch.arange(nodes) - inputs + 1).clamp(0, nodes - outputs - inputs + 1)
    function = default_function(dims, function)
    return assemble(entries_of(earlier)[0], role, block, all_but_outputs(role, function))


@on_cpu
def complete(nodes: int, *, inputs: int, outputs: int, function: NodeFunction | None = None,
             dims: int = 2) -> Wiring:
    """Every ordered pair of nodes, self-loops and edges into the inputs too: A = V x V.

    The node set of the paper's dynamic graphs (section 2.3). The first ``inputs`` nodes are inputs,
    the last ``outputs`` nodes outputs, and all have the same function: by default they send
    "activation conv" and receive an instance norm; where ``dims`` is 0, "activation" and a batch norm.

    >>> complete(4, inputs=1, outputs=1)
    Wiring(4 nodes: 1 input, 2 hidden, 1 output; 16 candidate edges)
    """
    nodes, inputs, outputs, role = _roles(nodes, inputs, outputs)
    block = torch.tensor([1, 0, 2])[role]
    function = default_function(dims, function, dynamic=True)
    return assemble(Rectangles(Rectangle(range(nodes), range(nodes))), role, block, [function] * nodes)


def _roles(nodes, inputs, outputs):
    """The three numbers, checked, and the role of each node."""
    nodes, inputs = integer("nodes", nodes), integer("inputs", inputs)
    outputs = integer("outputs", outputs)
    if inputs < 1 or outputs < 1 or inputs + outputs > nodes:
        raise WiringError(
            f"need at least one input and one output among the nodes, got {inputs} inputs and "
            f"{outputs} outputs of {nodes} nodes."
        )
    role = torch.full((nodes,), HIDDEN)
    role[:inputs], role[nodes - outputs:] = INPUT, OUTPUT
    return nodes, inputs, outputs, role
