"""What stands around a compiled network and is computed with it: a convolution of the data before, a mean of maps after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..models.tiny import GlobalPool
from ..nodes import array
from ..plan import is_plain, special


@dataclass(frozen=True)
class Ends:
    """The ends of a classifier that its network's program takes over.

    Args:
        stem: a convolution from the data to the network's inputs, or None.
        pooled: whether the mean of each output's map is wanted and not the map.
    """

    stem: nn.Conv2d | None = None
    pooled: bool = False

    @property
    def stride(self) -> int:
        return 1 if self.stem is None else int(self.stem.stride[0])

    @property
    def side(self) -> int:
        return 1 if self.stem is None else int(self.stem.kernel_size[0])

    def filters(self) -> tuple[np.ndarray, np.ndarray]:
        """The stem's weights, (outputs, inputs, side, side), and a bias for each output."""
        assert self.stem is not None
        weight = array(self.stem.weight)
        return weight, np.zeros(len(weight), weight.dtype) if self.stem.bias is None else array(self.stem.bias)

    def numbers(self) -> tuple[torch.Tensor, ...]:
        """The stem's parameters."""
        return () if self.stem is None else tuple(value for value in self.stem._parameters.values() if value is not None)

    def version(self) -> tuple:
        """Another one where the stem's numbers are others, as long as these are kept."""
        return tuple((id(value), value._version) for value in self.numbers())


NO_ENDS = Ends()


def ends_of(stem: nn.Module, head: nn.Module) -> Ends:
    """What a program takes over of the layers around a network.

    Of a stem that is one convolution of odd kernels, with borders of half their side; of a head that begins with a mean.
    """
    alone = stem
    if type(stem) is nn.Sequential and special(stem, inner=False) is None and len(stem) == 1:
        alone = stem[0]
    taken = None
    if is_plain(alone, nn.Conv2d) and alone.groups == 1 and alone.padding_mode == "zeros" and alone.dilation == (1, 1):
        side, stride = alone.kernel_size[0], alone.stride[0]
        if side % 2 and alone.kernel_size == (side, side) and alone.stride == (stride, stride) and \
                alone.padding in ((side // 2, side // 2), "same") and (stride == 1 or alone.padding != "same"):
            taken = alone
    pooled = type(head) is nn.Sequential and special(head, inner=False) is None and len(head) > 0 and \
        is_plain(head[0], GlobalPool)
    return Ends(taken, pooled)
