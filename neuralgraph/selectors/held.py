"""A selection that stays as it is for a while."""

from __future__ import annotations

import torch

from ..errors import SelectionError
from .selector import MaskSelector, Selector


class Held(MaskSelector):
    """The candidates that another selector has real, kept until that one takes over again.

    Outputs are those of the other selector at that moment; gradients reach real candidates only, nothing is dropped,
    grown or penalised, and the other's own parameters are not trained. What had its weights frozen trains them now.

    Args:
        other: serving a network already.
        weight: (W,), of that network.
    """

    def __init__(self, other: Selector, weight: torch.Tensor):
        real = other.select(weight.detach())
        super().__init__(int(real.sum()))
        self.candidates, self.other = other.candidates, other
        self.keep(real)
        self._trained = [parameter for parameter in other.parameters() if parameter.requires_grad]
        for parameter in self._trained:
            parameter.requires_grad_(False)
        if other.freezes_weight:
            weight.requires_grad_(True)
        other.dense = False

    def effective(self, weight, real):
        mask = self.candidates.spread(real).view(weight.shape)
        return self.other.effective(weight.where(mask, weight.detach()), real)

    @property
    def done(self):
        return self.other.done

    def begin(self, step, total_steps):
        self.other.begin(step, total_steps)
        self.is_served = True
        self.other.dense = False

    def release(self):
        super().release()
        self.other.release()

    def let_go(self, weight: torch.Tensor) -> Selector:
        """The other selector, as it was."""
        for parameter in self._trained:
            parameter.requires_grad_(True)
        if self.other.freezes_weight:
            weight.requires_grad_(False)
        if self.is_served:
            self.other.begin(*self.other.done)  # the next step may want what this one did not
        return self.other


def hold(selector: Selector, weight: torch.Tensor) -> Held:
    """Keeps what a selector has real.

    Raises:
        SelectionError: if it is kept already.
    """
    if isinstance(selector, Held):
        raise SelectionError("the real edges are frozen already: thaw() them first.")
    return Held(selector, weight)


def let_go(selector: Selector, weight: torch.Tensor) -> Selector:
    """The selector that was kept.

    Raises:
        SelectionError: if nothing is kept.
    """
    if not isinstance(selector, Held):
        raise SelectionError("the real edges are not frozen: freeze() them first.")
    return selector.let_go(weight)
