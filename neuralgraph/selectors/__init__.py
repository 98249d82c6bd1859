"""From scores to a selection of real edges: which k, and which gradient reaches the others."""

import inspect
from functools import partial

from ..errors import SelectionError, UnknownNameError, lookup
from .fixed import Complete, Frozen, RandomGraph, Ticket
from .pruning import L1Anneal, TargetedDropout
from .selection import GRADIENTS, GradientRule, Selection, soft_gate
from .selector import Selector, check_finite
from .topk import NoUpdate, TopK, top_k

SELECTORS = {
    "dnw": TopK,
    "random": RandomGraph,
    "complete": Complete,
    "no-update": NoUpdate,
    "l1-anneal": L1Anneal,
    "targeted-dropout": TargetedDropout,
    "targeted-dropout-regular": partial(TargetedDropout, regular=True),
    "lottery-ticket": Ticket,
    "fine-tune": Ticket,
}
# selectors whose edges come from a network that was trained before
FROM_TRAINED = ("lottery-ticket", "fine-tune")


def create(name: str, k: int | None = None, **options) -> Selector:
    """The selector of that name with k real edges.

    Args:
        name: a key of :data:`SELECTORS`.
        k: number of real edges; None for "complete" only.
        options: further arguments of the selector's class.

    >>> create("targeted-dropout", k=100, drop=0.9)
    TargetedDropout(k=100, drop=0.9)
    """
    build = lookup("selector", name, SELECTORS)
    known = inspect.signature(build).parameters
    for option in options:
        if option not in known or option == "k":
            raise UnknownNameError(f"option of the selector {name!r}", option, set(known) - {"k"})
    if k is None and name != "complete":
        raise SelectionError(f"the selector {name!r} needs k, the number of real edges.")
    return build(k, **options)


__all__ = ["FROM_TRAINED", "GRADIENTS", "SELECTORS", "Complete", "Frozen", "GradientRule", "L1Anneal",
           "NoUpdate", "RandomGraph", "Selection", "Selector", "TargetedDropout", "Ticket", "TopK",
           "check_finite", "create", "soft_gate", "top_k"]
