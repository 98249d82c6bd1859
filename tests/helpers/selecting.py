"""Selectors bound to candidates by hand."""

import torch

import neuralgraph as ng

UNIT = ng.NodeFunction(receive="bias activation", activation="tanh")


def bind(selector, candidates, weight, seed=0):
    selector.bind(candidates, weight, torch.Generator().manual_seed(seed))
    return weight


def weights(*values, grad=True):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)
