"""Residual networks and a transformer block as ordinary torch models, to be made sparse and compiled."""

from __future__ import annotations

import torch
from torch import nn


class Basic(nn.Module):
    """Two 3x3 convolutions and what passes them by (He et al., 2016)."""

    grows = 1

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.second, self.second_norm = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.past = _past(inputs, width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        y += self.past(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """A 3x3 convolution of few channels between two 1x1 convolutions, and what passes them by."""

    grows = 4

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.second, self.second_norm = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.third, self.third_norm = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.past = _past(inputs, 4 * width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.first_norm(self.first(x)))
        y = self.relu(self.second_norm(self.second(y)))
        y = self.third_norm(self.third(y))
        y += self.past(x)
        return self.relu(y)


def _past(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """For images of 224 pixels as published; for small ones the first layers keep the size, as usual for CIFAR-10."""

    def __init__(self, block: type[Basic] | type[Bottleneck], depths: list[int], pixels: int = 224, classes: int = 1000):
        super().__init__()
        if pixels > 64:
            self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
                                      nn.MaxPool2d(3, 2, 1))
        else:
            self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
        blocks, channels = [], 64
        for stage, depth in enumerate(depths):
            for number in range(depth):
                blocks.append(block(channels, 64 * 2**stage, 2 if stage and not number else 1))
                channels = 64 * 2**stage * block.grows
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)))


def resnet18(pixels: int = 224) -> ResNet:
    return ResNet(Basic, [2, 2, 2, 2], pixels)


def resnet50(pixels: int = 224) -> ResNet:
    return ResNet(Bottleneck, [3, 4, 6, 3], pixels)
