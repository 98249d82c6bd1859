"""An LSTM is a dynamic neural graph: gates are nodes, and products are nodes that multiply.

One step of the LSTM takes four updates of the graph (gates; products; cell; output), so an input
arrives at every fourth update. The graph is compared with torch.nn.LSTM on real sequences: the rows
of handwritten digits.

    python examples/lstm_as_a_graph.py
"""

import torch

import neuralgraph as ng
from neuralgraph import NodeFunction

PHASES = 4


def lstm_graph(lstm: torch.nn.LSTM) -> ng.DiscreteTimeNeuralGraph:
    """The network whose outputs after every fourth update are the hidden states of ``lstm``."""
    n, m = lstm.input_size, lstm.hidden_size
    gate = NodeFunction(receive="bias activation", activation="sigmoid")
    squash = NodeFunction(receive="bias activation", activation="tanh")
    product, carry = NodeFunction(aggregate="product"), NodeFunction()
    kinds = {"x": carry, "i": gate, "f": gate, "g": squash, "o": gate,   # update 1
             "kept": product, "new": product, "o1": carry,               # update 2
             "cell": carry, "tanh": NodeFunction(receive="activation", activation="tanh"),
             "o2": carry,                                                # update 3
             "h": product, "cell1": carry, "cell2": carry}               # update 4, and memory
    nodes, functions = {}, []
    for kind, function in kinds.items():
        size = n if kind == "x" else m
        nodes[kind] = list(range(len(functions), len(functions) + size))
        functions += [function] * size

    edges, weights = [], []

    def connect(source, target, matrix=None):
        """Edges with a weight matrix [target, source], or one to one with weight 1."""
        for t, node in enumerate(nodes[target]):
            for s, other in enumerate(nodes[source]):
                if matrix is not None or s == t:
                    edges.append((other, node))
                    weights.append(1.0 if matrix is None else matrix[t, s].item())

    bias = torch.zeros(len(functions))
    for number, kind in enumerate("ifgo"):
        rows = slice(number * m, (number + 1) * m)
        connect("x", kind, lstm.weight_ih_l0[rows])
        connect("h", kind, lstm.weight_hh_l0[rows])
        bias[nodes[kind]] = (lstm.bias_ih_l0 + lstm.bias_hh_l0)[rows].detach().to(bias.dtype)
    for source, target in [("f", "kept"), ("cell2", "kept"), ("i", "new"), ("g", "new"), ("o", "o1"),
                           ("kept", "cell"), ("new", "cell"), ("kept", "tanh"), ("new", "tanh"),
                           ("o1", "o2"), ("o2", "h"), ("tanh", "h"), ("cell", "cell1"),
                           ("cell1", "cell2")]:
        connect(source, target)

    wiring = ng.wirings.from_edges(edges, inputs=nodes["x"], outputs=nodes["h"], functions=functions,
                                   weight=torch.tensor(weights))
    network = ng.DiscreteTimeNeuralGraph(wiring, ng.Complete(), steps=None)
    network.functions.load({"bias": bias})
    return network


def hidden_states(network: ng.DiscreteTimeNeuralGraph, sequences: torch.Tensor) -> torch.Tensor:
    """The hidden state after every element of sequences (B, T, n), (B, T, m)."""
    batch, length, size = sequences.shape
    x = sequences.new_zeros(batch, length, PHASES, size)
    x[:, :, 0] = sequences
    states = network.trajectory(x.view(batch, length * PHASES, size, 1, 1))
    return states[:, PHASES - 1::PHASES, :, 0, 0]


if __name__ == "__main__":
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(input_size=8, hidden_size=12, batch_first=True)
    network = lstm_graph(lstm)
    print(network.wiring)
    data = ng.data.load("digits")
    rows = data.normalise(data.test_images[:32])[:, 0]  # 32 sequences of 8 rows of 8 pixels
    mine, theirs = hidden_states(network, rows), lstm(rows)[0]
    difference = (mine - theirs).abs().max().item()
    print(f"largest difference from torch.nn.LSTM over {mine.numel()} numbers: {difference:.1e}")
    assert difference < 1e-5
