"""An LSTM is a dynamic neural graph: gates are nodes, and products are nodes that multiply.

One step of the LSTM takes four updates of the graph (gates; products; cell; output), so an input
arrives at every fourth update. The graph is compared with torch.nn.LSTM on real sequences: the rows
of handwritten digits.

    python examples/lstm_as_a_graph.py
"""

import torch

import neuralgraph as ng

PHASES = 4


def lstm_graph(lstm: torch.nn.LSTM) -> ng.DiscreteTimeNeuralGraph:
    """The network whose outputs after every fourth update are the hidden states of ``lstm``."""
    wiring = ng.wirings.lstm(lstm.input_size, lstm.hidden_size)
    network = ng.DiscreteTimeNeuralGraph(wiring, ng.Complete(), steps=None)
    # the edges come in the order of torch's matrices, and after the inputs the gates i, f, g, o
    given = dict(lstm.named_parameters())
    weights = torch.cat([given["weight_ih_l0"].flatten(), given["weight_hh_l0"].flatten()])
    gates = slice(lstm.input_size, lstm.input_size + 4 * lstm.hidden_size)
    bias = network.functions.export()["bias"]
    with torch.no_grad():
        network.weight[:len(weights)] = weights
        bias[gates] = given["bias_ih_l0"] + given["bias_hh_l0"]
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
