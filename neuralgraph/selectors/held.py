"""A selection that stays as it is for a while."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..errors import SelectionError
from .selector import MaskSelector, Selector


class Held(MaskSelector):
    """The candidates that another selector has real, kept until that one takes over again.

    Outputs are those of the other selector at that moment; gradients reach real candidates only, nothing is dropped,
    grown or penalised, and the other's own parameters are not trained, but for those that are a part of the
    weights. What had its weights frozen trains them now.

    Args:
        other: serving a network, or layers, already.
        weights: of that network, or of these layers.
    """

    def __init__(self, other: Selector, weights: Sequence[nn.Parameter]):
        real = other.select(torch.cat([weight.detach().reshape(-1) for weight in weights]))
        super().__init__(int(real.sum()))
        self.candidates, self.other = other.candidates, other
        self.keep(real)
        self._trained = [parameter for name, parameter in other.named_parameters()
                         if parameter.requires_grad and name not in other.part_of_weight]
        for parameter in self._trained:
            parameter.requires_grad_(False)
        if other.freezes_weight:
            for weight in weights:
                weight.requires_grad_(True)
        other.dense = False

    def effective(self, weight: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        mask = self.candidates.spread(real).view(weight.shape)
        value = self.other.effective(weight.where(mask, weight.detach()), real)
        return value.where(mask, value.new_zeros(()))  # absent ones of the other's own parameters get no gradient either

    @property
    def done(self) -> tuple[int, int]:
        return self.other.done

    def begin(self, step: int, total_steps: int) -> None:
        self.other.begin(step, total_steps)
        self.is_served = True
        self.other.dense = False

    def release(self) -> None:
        super().release()
        self.other.release()

    def let_go(self, weights: Sequence[nn.Parameter]) -> Selector:
        """The other selector, as it was."""
        for parameter in self._trained:
            parameter.requires_grad_(True)
        if self.other.freezes_weight:
            for weight in weights:
                weight.requires_grad_(False)
        if self.is_served:
            self.other.begin(*self.other.done)  # the next step may want what this one did not
        return self.other


def hold(selector: Selector, *weights: nn.Parameter) -> Held:
    """Keeps what a selector has real among these weights.

    Raises:
        SelectionError: if it is kept already.
    """
    if isinstance(selector, Held):
        raise SelectionError("the real edges are frozen already: thaw() them first.")
    return Held(selector, weights)


def let_go(selector: Selector, *weights: nn.Parameter) -> Selector:
    """The selector that was kept.

    Raises:
        SelectionError: if nothing is kept.
    """
    if not isinstance(selector, Held):
        raise SelectionError("the real edges are not frozen: freeze() them first.")
    return selector.let_go(weights)
