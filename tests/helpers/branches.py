"""Ordinary models whose layers are made sparse."""

import torch
from torch import nn


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 12, 1, bias=False),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 5))


def largest(weight, k):
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[weight.reshape(-1).abs().argsort(stable=True)[weight.numel() - k:]] = True
    return mask.view(weight.shape)


class Branches(nn.Module):
    """Its classifier is registered first, and two convolutions meet the input."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(8, 5)
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2, groups=2)

    def forward(self, x):
        x = torch.relu(self.left(x) + self.right(x))
        return self.head(torch.relu(self.up(torch.relu(self.body(x)))).mean((2, 3)))


class Looping(Branches):
    """What torch.fx cannot trace."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


IMAGES = torch.rand(4, 3, 8, 8)


def encoder(kind=nn.TransformerEncoderLayer):
    torch.manual_seed(0)
    return nn.TransformerEncoder(kind(16, 4, 32, dropout=0.0, batch_first=True), num_layers=2)


def encoder_layer():
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, activation="gelu")
