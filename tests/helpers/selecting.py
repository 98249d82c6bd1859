"""Selectors bound to candidates by hand."""

import torch

import neuralgraph as ng

UNIT = ng.NodeFunction(receive="bias activation", activation="tanh")


def bind(selector, candidates, weight, seed=0):
    selector.bind(candidates, weight, torch.Generator().manual_seed(seed))
    return weight


def weights(*values, grad=True):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


LINEAR = ng.NodeFunction()


def at(selector, step, total):
    """The selector as after that many steps."""
    selector.clock.copy_(torch.tensor([step, total]))
    return selector


def through(selector, weight, gradient, sampled=False):
    """Effective weights of one forward, once ``gradient`` went back through them."""
    real = (selector.sample if sampled else selector.select)(weight.detach())
    selection = selector.weighted(weight, real)
    selection.weight.backward(torch.as_tensor(gradient, dtype=weight.dtype))
    return selection


# One step on a graph of a few edges: x into each, y = their sum, loss = c y, weights after plain SGD of rate 0.5
X, COST = [1.0, 2.0, -1.0, 3.0], 0.1
G = [COST * x for x in X]
W = [0.5, -1.0, 0.25, 2.0]


def one_step(selector, total_steps=10, prepare=None):
    wiring = ng.wirings.chain([4, 1], LINEAR)
    net = ng.StaticNeuralGraph(wiring, selector, dims=0, dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(torch.tensor(W))
        if prepare:
            prepare(net.selector)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    ng.rewire(net, optimizer, total_steps=total_steps)
    y = net(torch.tensor([X], dtype=torch.float64))
    (COST * y).sum().backward()
    optimizer.step()
    return net, y.item()


def mask_of(*edges, n):
    return torch.zeros(n, dtype=torch.bool).index_fill_(0, torch.tensor(edges, dtype=torch.long), True)


def edges_of(mask):
    return mask.nonzero().flatten().tolist()
