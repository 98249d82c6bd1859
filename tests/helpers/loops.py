"""A small network with any selector, trained in a plain loop."""

import torch
from graphs import k_of
from torch import nn

import neuralgraph as ng

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}
OPTIONS = {"rigl": {"every": 3}, "l1-anneal": {"every": 3, "strength": 1e-3}, "gradual": {"every": 3},
           **{name: {"every": 3} for name in ("set", "snfs", "granet", "srigl", "cht", "chts")}}
UNIT = ng.NodeFunction(receive="bias activation", activation="tanh")
STEPS = 24


def network(name="rigl", seed=0, **options):
    selector = ng.selectors.create(name, k_of(name, 30), **{**OPTIONS.get(name, {}), **options})
    return ng.StaticNeuralGraph(ng.wirings.blocks([4, 8, 8, 3], UNIT), selector, seed=seed, dims=0)


def batch(step, size=16):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(size, 4, generator=generator)
    return x, torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin(), x.sum(1)], 1)


def loss_of(net, step):
    x, y = batch(step)
    return (net(x) - y).square().mean()


def train(net, optimizer, first=0, last=STEPS):
    for step in range(first, last):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss_of(net, step).backward()
        optimizer.step()


def same(a, b):
    return list(a.state_dict()) == list(b.state_dict()) and all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


class Net(nn.Module):
    """Two convolutions and an output layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.body, self.head = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.body(self.stem(x).tanh()).tanh().mean((2, 3)))


def train_layers(model, optimizer, steps):
    for step in steps:
        x = torch.randn(6, 2, 7, 7, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x) - x.mean((2, 3)).repeat(1, 2)).square().mean().backward()
        optimizer.step()
