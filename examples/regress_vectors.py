"""A regression on vectors: every node is a number, and training picks 120 of 1,776 connections.

Friedman's function (1991), 10 sin(pi a b) + 20 (c - 1/2)^2 + 10 d + 5 e plus noise, of five of ten inputs; the
other five mean nothing. Which inputs does the learned wiring read?

    python examples/regress_vectors.py [FOLDER]
"""

import math
import sys
import tempfile

import torch
from torch.utils.data import DataLoader, TensorDataset

import neuralgraph as ng

INPUTS, USED = 10, 5


def friedman(samples: int, seed: int) -> TensorDataset:
    """x (samples, 10) uniform in [0, 1) and the function's values (samples, 1), standardised."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(samples, INPUTS, generator=generator)
    a, b, c, d, e = x[:, :USED].T
    y = 10 * torch.sin(math.pi * a * b) + 20 * (c - 0.5) ** 2 + 10 * d + 5 * e
    y = y + torch.randn(samples, generator=generator)
    return TensorDataset(2 * x - 1, (y[:, None] - 14.4) / 4.9)


def r_squared(y: torch.Tensor, target: torch.Tensor) -> float:
    """The share of the variance that is explained."""
    return 1 - ((y - target).square().mean() / target.var()).item()


def train(folder: str, selector: ng.selectors.Selector) -> tuple[ng.StaticNeuralGraph, float]:
    """A trained network and its R^2 on test data."""
    unit = ng.NodeFunction(receive="norm activation", activation="silu")
    wiring = ng.wirings.blocks([INPUTS, 24, 24, 1], [ng.NodeFunction(), unit, unit, ng.NodeFunction(receive="bias")])
    network = ng.StaticNeuralGraph(wiring, selector, dims=0)
    ng.training.fit(
        network, DataLoader(friedman(2000, seed=0), batch_size=100, shuffle=True), folder=folder, epochs=30,
        loss=torch.nn.functional.mse_loss,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.01))
    x, target = friedman(1000, seed=1).tensors
    with torch.no_grad():
        return network, r_squared(network(x), target)


if __name__ == "__main__":
    torch.set_num_threads(1)  # for work as small as this
    folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()
    network, learned = train(f"{folder}/learned", ng.TopK(k=120))
    _, drawn = train(f"{folder}/random", ng.RandomGraph(k=120))
    print(network.wiring)
    print(f"R^2 on test data: {learned:.3f} with a discovered and {drawn:.3f} with a random wiring of 120 edges")
    degree = torch.bincount(network.learned_wiring().src, minlength=network.wiring.num_nodes)[:INPUTS]
    print(f"edges from inputs that matter: {degree[:USED].tolist()}; from those that do not: {degree[USED:].tolist()}")
