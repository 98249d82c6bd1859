"""Grow a network: where training is stuck in a minimum, split the nodes whose splitting lowers the loss.

A network of two hidden units learns a curve until its loss falls no further. No step of its weights helps there, but a
unit that becomes two can move in two directions: ng.growing.split finds those for which that lowers the loss
("Splitting Steepest Descent", Wu, Wang, Liu, 2019), and training goes on. A network that is trained as long and is
not split stays where it is.

Writes grow_a_network.png, loss against steps, if matplotlib is installed: python examples/grow_a_network.py [FOLDER]
"""

import math
import sys
from pathlib import Path

import torch

import neuralgraph as ng

STEPS, ROUNDS = 300, 3


def curve(x):
    """What is to be learned: bumps of different widths."""
    return torch.sin(3 * x) * torch.exp(-x.square() / 4) + 0.5 * torch.tanh(4 * x - 6)


def train(network, x, y, steps):
    """The loss of every step, by an optimizer of its own."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(network(x), y)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def draw(grown, stayed, splits, path):
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no drawing without matplotlib")
        return
    figure = Figure(figsize=(7, 4))
    axes = figure.add_subplot()
    axes.semilogy(grown, label="split where marked")
    axes.semilogy(stayed, label="never split")
    for step, units in splits:
        axes.axvline(step, color="grey", linewidth=0.8, linestyle=":")
        axes.annotate(f"{units} units", (step, grown[step]), xytext=(4, 8), textcoords="offset points")
    axes.set(xlabel="step", ylabel="mean squared error")
    axes.legend()
    figure.savefig(path, dpi=150)
    print(f"drawn: {path}")


def main(folder):
    points = torch.linspace(-3, 3, 128)[:, None]
    x, y = torch.cat([points, torch.ones_like(points)], 1), curve(points)  # the second input is for biases
    unit = ng.NodeFunction(receive="activation", activation="tanh")
    wiring = ng.wirings.chain([2, 2, 1], [ng.NodeFunction(), unit, ng.NodeFunction(receive="bias")])
    torch.set_num_threads(1)  # for work as small as this
    network = ng.StaticNeuralGraph(wiring, ng.Complete(), dims=0, seed=3)
    stayed = train(ng.StaticNeuralGraph(wiring, ng.Complete(), dims=0, seed=3), x, y, STEPS * (ROUNDS + 1))
    losses, splits, reports = train(network, x, y, STEPS), [], []
    for _ in range(ROUNDS):
        before = losses[-1]
        network, report = ng.growing.split(network, [(x, y)], torch.nn.functional.mse_loss, fraction=0.5, epsilon=0.1)
        reports.append(report)
        units = network.wiring.num_nodes - 3
        splits.append((len(losses), units))
        losses += train(network, x, y, STEPS)
        print(f"stuck at {before:.5f}, lowest eigenvalue {min(node.eigenvalue for node in report.nodes):.2e}; "
              f"with {units} units {losses[-1]:.5f}")
    print(reports[-1])
    print(f"never split: {stayed[-1]:.5f}, split: {losses[-1]:.5f}, {math.floor(stayed[-1] / losses[-1])} times less")
    draw(losses, stayed, splits, Path(folder) / "grow_a_network.png")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".")
