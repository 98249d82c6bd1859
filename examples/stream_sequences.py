"""A sequence task with carried state: a recurrent graph learns to answer with what it heard four steps ago.

The stream never ends: it comes in pieces of 20 steps, the state goes from one to the next, and gradients reach
back within a piece only (truncated backpropagation through time). In the end the stream is fed step by step.

    python examples/stream_sequences.py [PIECES]
"""

import sys

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

import neuralgraph as ng

DELAY, PIECE, BATCH = 4, 20, 32


def stream(generator: torch.Generator):
    """Pieces (BATCH, PIECE, 1) of random bits, and what came ``DELAY`` steps before each."""
    past = torch.zeros(BATCH, DELAY, 1)
    while True:
        bits = torch.randint(2, (BATCH, PIECE, 1), generator=generator).float()
        everything = torch.cat([past, bits], dim=1)
        yield 2 * bits - 1, everything[:, :PIECE]
        past = everything[:, PIECE:]


def graph() -> ng.DiscreteTimeNeuralGraph:
    """30 nodes, all of which may read all; 90 of 900 edges are real at any time."""
    unit = ng.NodeFunction(receive="bias activation", activation="tanh")
    wiring = ng.wirings.complete(30, inputs=1, outputs=1, function=unit)
    network = ng.DiscreteTimeNeuralGraph(wiring, ng.TopK(k=90), steps=None, dims=0)
    with torch.no_grad():
        network.weight.mul_(3)  # so that what was heard does not fade at once
    return network


def train(network: ng.DiscreteTimeNeuralGraph, pieces: int) -> float:
    """The share of right answers over the last tenth of the pieces."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    data, state, right = stream(torch.Generator().manual_seed(0)), None, []
    for number, (x, target) in zip(range(pieces), data):
        y, state = network.trajectory(x, state=state and state.detach(), return_state=True)
        loss = binary_cross_entropy_with_logits(8 * y, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right.append(((y > 0) == (target > 0.5)).float().mean().item())
    return sum(right[-max(1, pieces // 10):]) / max(1, pieces // 10)


if __name__ == "__main__":
    torch.set_num_threads(1)  # for work as small as this
    pieces = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    network = graph()
    share = train(network, pieces)
    print(f"right answers after {pieces} pieces: {100 * share:.1f} % (guessing: 50 %)")

    network.eval()
    x, _ = next(stream(torch.Generator().manual_seed(1)))
    with torch.no_grad():
        whole, state = network.trajectory(x), None
        steps = []
        for element in x.unbind(1):
            y, state = network(element[:, None], state=state, return_state=True)
            steps.append(y)
    difference = (torch.stack(steps, dim=1) - whole).abs().max().item()
    print(f"fed step by step, the answers differ by {difference:.0e}")
