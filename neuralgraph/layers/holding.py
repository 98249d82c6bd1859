"""Keeping what the layers of a model have real."""

from __future__ import annotations

from torch import nn

from ..errors import InputError, SelectionError, listed
from ..selectors import Held, hold, let_go
from .choice import Choice
from .sparse import choices_of


def freeze(module: nn.Module) -> None:
    """Keeps the real weights of all sparse layers inside until :func:`thaw`, to fine-tune them.

    The model computes what it did; gradients reach real weights only, schedules rest and nothing is penalised. A
    frozen model has another state dict: freeze before loading it.

    Args:
        module: with sparse layers inside.

    Raises:
        InputError: for a model without sparse layers.
        SelectionError: if some of them are frozen already.

    >>> import neuralgraph as ng
    >>> model = ng.sparsify(nn.Linear(10, 10), 0.2, first_layer_dense=False)
    >>> freeze(model)
    >>> type(model.selector).__name__, model.k
    ('Held', 20)
    >>> thaw(model)
    >>> type(model.selector).__name__
    'TopK'
    """
    for choice in _choices(module, are_held=False):
        choice.replace(hold(choice.selector, *choice.parameters()))


def thaw(module: nn.Module) -> None:
    """The end of :func:`freeze`: the selectors choose again.

    Raises:
        InputError: for a model without sparse layers.
        SelectionError: if some of them are not frozen.
    """
    for choice in _choices(module, are_held=True):
        choice.replace(let_go(choice.selector, *choice.parameters()))


def _choices(module: nn.Module, are_held: bool) -> list[Choice]:
    choices = choices_of(module)
    if not choices:
        raise InputError("the model has no sparse layers, of which the real weights could be kept: ng.sparsify makes "
                         "them.")
    wrong = [name for name, choice in choices if isinstance(choice.selector, Held) != are_held]
    if wrong:
        raise SelectionError(f"the real weights of {listed(wrong)} are not frozen: freeze() them first." if are_held
                             else f"the real weights of {listed(wrong)} are frozen already: thaw() them first.")
    return [choice for _, choice in choices]
