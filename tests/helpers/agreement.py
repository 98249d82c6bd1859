"""Networks against the plain reference."""

import torch

import neuralgraph as ng
from neuralgraph.testing import check_network
from neuralgraph.testing.backends import SELECTORS, perturb


def agreement(wiring, backend, selector, k_fraction, training, size=(6, 5), batch=3, tolerance=1e-10):
    """A network with perturbed values has k real edges, and equals the reference in output and in every gradient."""
    k = round(k_fraction * wiring.num_edges)
    network = ng.StaticNeuralGraph(wiring, SELECTORS[selector](k), backend=backend, dims=len(size)).double()
    perturb(network)
    network.train(training)
    x = torch.randn(batch, len(wiring.inputs), *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    check_network(network, x, tolerance=tolerance)
    assert network.selection().real.sum() == (wiring.num_edges if selector == "complete" else k)


SIZES = {0: (), 1: (7,), 2: (5, 4), 3: (3, 4, 3)}
