"""Prune the connections of ordinary networks by synaptic strength, fine-tune, and keep a smaller dense model.

    python examples/prune_connections.py [EPOCHS]
"""

import sys

import torch
import torch.nn.functional as F
from torch import nn

import neuralgraph as ng

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 6


def conv(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def vgg():
    return nn.Sequential(conv(1, 16), conv(16, 16), nn.MaxPool2d(2), conv(16, 24), conv(24, 24),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))


class ResNet(nn.Module):
    """y = relu(x + two convolutions of x), twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.pool, self.head = conv(1, 20), nn.AvgPool2d(2), nn.Linear(20, 10)
        self.first, self.second = (nn.Sequential(conv(20, 20), conv(20, 20)[:2]) for _ in range(2))

    def forward(self, x):
        x = self.stem(x)
        x = self.pool(F.relu(x + self.first(x)))
        x = F.relu(x + self.second(x))
        return self.head(x.mean((2, 3)))


class DenseNet(nn.Module):
    """Every layer reads all before it: norm, ReLU, convolution."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 12, 3, padding=1), nn.Linear(44, 10)
        self.layers = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, 8, 3, padding=1))
                                    for n in (12, 20, 28, 36))
        self.norm = nn.BatchNorm2d(44)

    def forward(self, x):
        x = F.avg_pool2d(self.stem(x), 2)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


data = ng.data.load("digits")
images, labels = data.normalise(data.train_images), data.train_labels


def train(model, epochs, lr):
    """SGD; the penalty is added by ng.rewire, in any loop."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    rewiring = ng.rewire(model, optimizer, total_steps=epochs * -(-len(labels) // 64))
    model.train()
    for epoch in range(epochs):
        for batch in ng.data.training_order(len(labels), seed=0, epoch=epoch).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    rewiring.remove()


@torch.no_grad()
def accuracy(model):
    answers = model.eval()(data.normalise(data.test_images)).argmax(1)
    return 100 * (answers == data.test_labels).float().mean().item()


for make in (vgg, ResNet, DenseNet):
    torch.manual_seed(0)
    # 1. Strengths become parameters: |gamma| goes into the kernels, and K = s K / ||K||. All of them are trained, with
    #    the loss + 0.004 sum |s|.
    model, left = ng.layers.absorb_scales(make(), example=images[:1])
    model = ng.sparsify(model, 1.0, selector="synaptic-strength", granularity="kernel",
                        selector_options={"strength": 4e-3}, example=images[:1])
    train(model, epochs, lr=0.05)
    whole = accuracy(model)

    # 2. The strongest eighth of each layer's connections stays (or all of at least selector.tau), and is fine-tuned.
    for _, choice in ng.layers.choices_of(model):
        choice.selector.k = choice.selector.num_edges // 8
    pruned = accuracy(model)
    ng.layers.freeze(model)
    train(model, max(1, epochs // 2), lr=0.02)
    tuned = accuracy(model)

    # 3. Channels that nobody reads, or that are constant, go for good.
    small, report = ng.layers.shrink(model, example=images[:1])
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(images[:50]), model(images[:50]), rtol=1e-3, atol=1e-4)
    print(f"{make.__name__}: {whole:.1f} % with all connections, {pruned:.1f} % with an eighth, {tuned:.1f} % "
          f"fine-tuned; {report.parameters[0]} parameters became {report.parameters[1]}, the outputs are the same "
          f"({len(left)} scales stayed in norms)")
