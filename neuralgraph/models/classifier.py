"""What all classifiers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from .._html import beside
from .._modules import module_list
from ..errors import InputError
from ..layers import summary
from ..layers.sparse import sparse_layers
from ..networks import NeuralGraph
from ..networks.network import autocasts
from .preprocessing import Preprocessing


class Classifier(nn.Module):
    """stem -> networks -> head: images (B, C, H, W) to logits (B, classes).

    Args:
        stem: images to the input channels of the first network.
        networks: each takes the outputs of the one before; none, if ordinary layers are all there is.
        head: outputs of the last network to logits.
        in_channels: C.
        image_size: side of the images the model was made for, in pixels.
    """

    def __init__(self, stem: nn.Module, networks: Sequence[NeuralGraph], head: nn.Module, *,
                 in_channels: int, image_size: int):
        super().__init__()
        self.stem, self.stages, self.head = stem, module_list(networks), head
        self.in_channels, self.image_size = in_channels, image_size
        self.preprocessing: Preprocessing | None = None  # of the images it was trained on, once it was

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.dim() != 4 or images.shape[1] != self.in_channels or \
                not images.is_floating_point():
            raise InputError(
                f"expected floating-point images (batch, {self.in_channels}, {self.image_size}, "
                f"{self.image_size}), got {images.dtype} of shape {tuple(images.shape)}."
            )
        dtype = next(self.parameters(), images).dtype
        if images.dtype != dtype and not autocasts(images.device.type):
            raise InputError(f"images are {images.dtype} but the model's weights {dtype}: use "
                             f"images.to({dtype}) or model.to({images.dtype}).")
        x = self.stem(images)
        for network in self.stages:
            x = network(x)
        return self.head(x)

    if TYPE_CHECKING:
        def __call__(self, images: torch.Tensor) -> torch.Tensor: ...

    @property
    def networks(self) -> list[NeuralGraph]:
        """The neural graphs in forward order, a sparse head's included."""
        return [module for module in (*self.stages, *self.head.modules())
                if isinstance(module, NeuralGraph)]

    @property
    def num_real_edges(self) -> int:
        """k, summed over the networks; real weights of sparse layers count too."""
        return sum(network.num_real for network in self.networks) + sum(layer.k for layer in sparse_layers(self))

    def _repr_html_(self) -> str | None:
        """Pictures of the neural graphs, and a table of sparse layers; None, for the text, without either."""
        layers = [summary(self)._repr_html_()] if sparse_layers(self) else []
        return beside(*(network._repr_html_() for network in self.networks), *layers) or None
