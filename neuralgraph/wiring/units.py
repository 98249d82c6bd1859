"""Ordinary networks of units as wirings: multi-layer perceptrons, recurrent networks, LSTMs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from ..errors import WiringError
from ..nodes import NodeFunction
from .assembling import assemble, generator_of, integer
from .devices import on_cpu
from .ends import Ends, Entries, Rectangle, Rectangles, entry_type
from .reading import HIDDEN, INPUT, OUTPUT
from .wiring import Wiring


@on_cpu
def mlp(sizes: Sequence[int], activation: str = "relu", output_activation: str | None = None) -> Wiring:
    """A multi-layer perceptron: every edge from a layer to the next, a bias for every unit.

        s_v = x_v                                               for input nodes
        s_v = activation( bias_v + sum over (u,v) of w_uv s_u )   for all others

    Edges are sorted by destination, then source, so that the weights between two layers are the matrix
    [destination, source] of a ``torch.nn.Linear``, row by row, one layer after the other. A static graph
    computes it layer by layer; in discrete time it is there after as many steps as there are layers of edges.

    Args:
        sizes: units of each layer, of the inputs and of the outputs.
        activation: of the hidden units, a key of :data:`neuralgraph.nodes.ACTIVATIONS`.
        output_activation: of the outputs; None for none.

    >>> mlp([4, 16, 3])
    Wiring(23 nodes: 4 input, 16 hidden, 3 output; 112 candidate edges)
    """
    layers = [] if isinstance(sizes, str) or not isinstance(sizes, Iterable) else list(sizes)
    if len(layers) < 2:
        raise WiringError(f"sizes must be the units of two or more layers, got {sizes!r}.")
    sizes = [_size("the size of a layer", size) for size in layers]
    hidden = _unit(activation)
    output = NodeFunction(receive="bias") if output_activation is None else _unit(output_activation)
    layers = _Layers()
    for number, size in enumerate(sizes):
        is_last = number == len(sizes) - 1
        layers.add(number, size, OUTPUT if is_last else HIDDEN if number else INPUT,
                   (output if is_last else hidden) if number else NodeFunction())
        if number:
            layers.connect(number - 1, number)
    return layers.wiring()


@on_cpu
def rnn(inputs: int, hidden: int, outputs: int | None = None, activation: str = "tanh") -> Wiring:
    """A recurrent network of Elman's kind, for discrete time.

        h(l+1) = activation( bias + W x(l) + U h(l) )

    It is ``torch.nn.RNN``: the hidden state after element l of a sequence is there after update l + 1. The
    edges are those of W, a matrix [hidden, inputs] row by row, then those of U, [hidden, hidden].

    Args:
        inputs: of each element of the sequence.
        hidden: units; they are the outputs if ``outputs`` is None.
        outputs: units that read the hidden ones, y(l+1) = bias + V h(l), whose edges come last. They lag by
            one update: for the last element give one more, of zeros.
        activation: of the hidden units.

    >>> rnn(3, 5)
    Wiring(8 nodes: 3 input, 0 hidden, 5 output; 40 candidate edges)
    """
    layers = _Layers()
    layers.add("x", _size("inputs", inputs), INPUT, NodeFunction())
    layers.add("h", _size("hidden", hidden), OUTPUT if outputs is None else HIDDEN, _unit(activation))
    layers.connect("x", "h")
    layers.connect("h", "h")
    if outputs is not None:
        layers.add("y", _size("outputs", outputs), OUTPUT, NodeFunction(receive="bias"))
        layers.connect("h", "y")
    return layers.wiring()


@on_cpu
def lstm(inputs: int, hidden: int, seed: int = 0) -> Wiring:
    """A long short-term memory for discrete time: gates are nodes, and products are nodes that multiply.

        i, f, o = sigmoid( bias + W x + U h ),  g = tanh( bias + W x + U h )
        c <- f c + i g,  h <- o tanh(c)

    It is ``torch.nn.LSTM`` (Hochreiter and Schmidhuber, 1997; the forget gate is of Gers et al., 2000). One
    step of it takes four updates of the graph: gates, products, cell, output. So an element of a sequence
    must arrive at every fourth update and zeros at the three others, and the hidden states, which are the
    outputs, are there after every fourth update (``trajectory(x)[:, 3::4]``).

    Nodes are, in this order, x, the gates i, f, g, o (``hidden`` each), and what carries and multiplies them.
    The edges are those of W, a matrix [4 hidden, inputs] with the rows of i, f, g and o, then those of U,
    [4 hidden, hidden], as ``weight_ih_l0`` and ``weight_hh_l0``, and last the ones that only carry, of weight
    1. Weights and biases start as in torch, uniform in (-1/sqrt(hidden), 1/sqrt(hidden)).

    Args:
        inputs: of each element of the sequence.
        hidden: size of the hidden state.
        seed: of the initial weights.

    >>> lstm(3, 5)
    Wiring(68 nodes: 3 input, 60 hidden, 5 output; 230 weighted edges)
    """
    inputs, hidden, generator = _size("inputs", inputs), _size("hidden", hidden), generator_of(seed)
    gate, carry, product = _unit("sigmoid"), NodeFunction(), NodeFunction(aggregate="product")
    squash = NodeFunction(receive="activation", activation="tanh")
    layers = _Layers()
    layers.add("x", inputs, INPUT, carry)
    for kind, function in {"i": gate, "f": gate, "g": _unit("tanh"), "o": gate,       # first update
                           "kept": product, "new": product, "o1": carry,              # second
                           "cell": carry, "tanh": squash, "o2": carry,                # third
                           "h": product, "cell1": carry, "cell2": carry}.items():     # fourth, and memory
        layers.add(kind, hidden, OUTPUT if kind == "h" else HIDDEN, function)
    for kind in "ifgo":
        layers.connect("x", kind)
    for kind in "ifgo":
        layers.connect("h", kind)
    learned = layers.num_edges
    for source, target in [("f", "kept"), ("cell2", "kept"), ("i", "new"), ("g", "new"), ("o", "o1"),
                           ("kept", "cell"), ("new", "cell"), ("kept", "tanh"), ("new", "tanh"),
                           ("o1", "o2"), ("o2", "h"), ("tanh", "h"), ("cell", "cell1"), ("cell1", "cell2")]:
        layers.connect(source, target, one_to_one=True)
    bound, weight, bias = hidden**-0.5, torch.ones(layers.num_edges), torch.zeros(len(layers.role))
    weight[:learned].uniform_(-bound, bound, generator=generator)
    bias[inputs:inputs + 4 * hidden].uniform_(-bound, bound, generator=generator)
    return layers.wiring(weight=weight, parameters={"bias": bias})


class _Layers:
    """Groups of units with a name each, and the edges between them."""

    def __init__(self) -> None:
        self.nodes: dict[object, range] = {}
        self.role: list[int] = []
        self.block: list[int] = []
        self.functions: list[NodeFunction] = []
        self.edges: list[Rectangle | tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def num_edges(self) -> int:
        return sum(len(edges if isinstance(edges, Rectangle) else edges[0]) for edges in self.edges)

    def add(self, name: object, size: int, role: int, function: NodeFunction) -> None:
        start = len(self.role)
        self.block += [len(self.nodes)] * size
        self.nodes[name] = range(start, start + size)
        self.role += [role] * size
        self.functions += [function] * size

    def connect(self, source: object, target: object, one_to_one: bool = False) -> None:
        """Edges as a matrix [target, source] row by row, or from each unit to the one of its index."""
        u, v = self.nodes[source], self.nodes[target]
        self.edges.append((torch.tensor(u), torch.tensor(v)) if one_to_one else Rectangle(u, v))

    def ends(self) -> Ends:
        full = [edges for edges in self.edges if isinstance(edges, Rectangle)]
        if len(full) == len(self.edges):
            return Rectangles(*full)
        lists = [(torch.tensor(edges.sources), torch.tensor(edges.targets)[:, None]) if isinstance(edges, Rectangle)
                 else edges for edges in self.edges]
        number = len(self.role)
        shape = number, number
        entries = [(dst * number + src).flatten().to(entry_type(shape)) for src, dst in lists]
        return Entries.numbered(torch.cat(entries), shape)

    def wiring(self, **learned) -> Wiring:
        return assemble(self.ends(), torch.tensor(self.role), torch.tensor(self.block), self.functions, **learned)


def _unit(activation: str) -> NodeFunction:
    return NodeFunction(receive="bias activation", activation=activation)


def _size(what: str, value: object) -> int:
    size = integer(what, value)
    if size < 1:
        raise WiringError(f"{what} must be at least 1, got {size}.")
    return size
