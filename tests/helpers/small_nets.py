"""Small networks of the kinds that are pruned: plain, with sums, with concatenations, with groups."""

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def vgg():
    return nn.Sequential(conv(3, 8), conv(8, 8), nn.MaxPool2d(2), conv(8, 12), nn.AvgPool2d(2), nn.Flatten(),
                         nn.Linear(12 * 9, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.first, self.second = conv(inputs, outputs, stride), conv(outputs, outputs)[:2]
        self.skip = conv(inputs, outputs, stride)[:2] if stride > 1 else nn.Identity()

    def forward(self, x):
        y = self.second(self.first(x))
        y += self.skip(x)
        return torch.relu_(y)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = conv(3, 8), nn.Linear(12, 5)
        self.blocks = nn.Sequential(Block(8, 8), Block(8, 12, 2), Block(12, 12))

    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1).view(x.size(0), -1))


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, channels, layers = nn.Conv2d(3, 6, 3, padding=1), 6, []
        for _ in range(3):
            layers.append(nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 4, 3, padding=1)))
            channels += 4
        self.layers, self.norm, self.head = nn.ModuleList(layers), nn.BatchNorm2d(channels), nn.Linear(channels, 5)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


class Mixed(nn.Module):
    """Depthwise, grouped, transposed and padded-by-reflection convolutions, PReLU, instance norm, sigmoid."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.InstanceNorm2d(8, affine=True), nn.PReLU(8),
            nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.BatchNorm2d(16), nn.Sigmoid(), nn.Conv2d(16, 8, 1, bias=False),
            nn.ELU(), nn.Conv2d(8, 8, 3, padding="same", groups=4), nn.LeakyReLU(0.2), nn.AvgPool2d(3, 2, 1),
            nn.ConvTranspose2d(8, 6, 2, 2), nn.Hardswish(), nn.Conv2d(6, 6, 3, 1, 1))
        self.head = nn.Conv2d(6, 4, 1, bias=False)

    def forward(self, x):
        y = self.layers(x)
        return self.head(torch.tanh(y) + 0.5 * y), y.mean(dim=(2, 3))


class Gated(nn.Module):
    """What is not understood: a gate, a split, one layer twice, and a hard-coded number of features."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 8), conv(8, 8)
        self.gate, self.twice, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(4, 4, 1), nn.Linear(8, 5)

    def forward(self, x):
        x = self.b(self.a(x))
        x = x * torch.sigmoid(self.gate(x))
        first, second = self.c(x).chunk(2, dim=1)
        x = torch.cat([self.twice(self.twice(first)), second], 1)
        return self.head(F.adaptive_avg_pool2d(x, 1).view(-1, 8))


NETS = {"vgg": vgg, "resnet": ResNet, "densenet": DenseNet, "mixed": Mixed, "gated": Gated}


def pruned(name, seed, share=0.5, zeros=0.3, dtype=torch.float64):
    """A net with random values, of whose connections a share is left, and a share of whose channels are silent."""
    generator = torch.Generator().manual_seed(seed)
    model = NETS[name]().to(dtype).eval()

    def some(*shape, kept):
        return (torch.rand(shape, generator=generator) < kept).to(dtype)
    with torch.no_grad():
        for tensor in (*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())):
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=dtype))
        for layer in model.modules():
            if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
                rows, columns = layer.weight.shape[:2]
                mask = some(rows, columns, kept=share) * some(rows, 1, kept=1 - zeros) * some(1, columns, kept=1 - zeros)
                layer.weight *= mask.view(rows, columns, *[1] * (layer.weight.dim() - 2)) / (rows * columns)**0.25
            if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.running_var is not None:
                layer.running_var.abs_().add_(0.5)
    return model
