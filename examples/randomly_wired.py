"""A randomly wired network: small worlds of layers, the edges of which have one weight each, learned on digits.

"Exploring Randomly Wired Neural Networks for Image Recognition" (Xie, Kirillov, Girshick, He, ICCV 2019): the wiring
of each stage is a random graph. Its nodes are separable convolutions of many channels, its edges have a weight
sigmoid(alpha) that all channels share. Here a layer is a set of single channels, so that everything else that this
library does with a wiring can be done with such a network too.
"""

import sys

import torch
from torch import nn

import neuralgraph as ng


def stage(seed: int, inputs: int, channels: int, nodes: int = 8) -> ng.StaticNeuralGraph:
    """A small world of ``nodes`` layers; those that read the input have stride 2."""
    graph = ng.wirings.watts_strogatz(nodes, 4, 0.75, inputs=1, outputs=1, seed=seed)
    macro = ng.wirings.macro(graph, channels, inputs=inputs, stride=2, seed=seed)
    network = ng.StaticNeuralGraph(macro.wiring, ng.Complete(), seed=seed)
    return ng.sharing.tie(network, macro.tie, fixed=macro.fixed, through="sigmoid")


def randomly_wired(channels: int, classes: int, image_channels: int, seed: int = 0) -> nn.Sequential:
    """Two stages of C and 2 C channels, at half and at a quarter of the resolution."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(image_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
        stage(seed, channels, channels), stage(seed + 1, channels, 2 * channels),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * channels, classes))


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        return (model.eval()(images).argmax(1) == labels).float().mean().item()


def main(epochs: int = 4) -> None:
    data = ng.data.load("digits")
    images, test_images = (data.normalise(part) for part in (data.train_images, data.test_images))
    model = randomly_wired(channels=12, classes=10, image_channels=images.shape[1])
    networks = [part for part in model if isinstance(part, ng.StaticNeuralGraph)]
    ties = [parameter for name, parameter in model.named_parameters() if name.endswith("alpha")]
    print(f"{sum(len(network.weight) for network in networks)} edges of single channels, of which those between layers "
          f"have {sum(map(len, ties))} weights")

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-5)
    steps = epochs * -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    for epoch in range(epochs):
        model.train()
        for batch in torch.randperm(len(images)).split(64):
            loss = loss_of(model(images[batch]), data.train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    print(f"test accuracy after {epochs} epochs: {100 * accuracy(model, test_images, data.test_labels):.1f} %")

    weights = torch.cat([weights.detach() for weights in ties]).sigmoid()
    print(f"weights of edges between layers began at 0.5 and are now from {weights.min():.2f} to {weights.max():.2f}")
    fast = ng.compile(model)
    with torch.no_grad():
        off = (fast(test_images[:50]) - model(test_images[:50])).abs().max()
    print(f"compiled, the outputs differ by {off:.1e}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
