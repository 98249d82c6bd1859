"""From scores to a selection of real edges: which k, and which gradient reaches the others."""

from ..errors import SelectionError, lookup
from .fixed import Complete, RandomGraph
from .selection import GRADIENTS, GradientRule, Selection
from .selector import Selector, check_finite
from .topk import TopK

SELECTORS: dict[str, type[Selector]] = {
    "dnw": TopK,
    "random": RandomGraph,
    "complete": Complete,
}


def create(name: str, k: int | None = None) -> Selector:
    """The selector of that name with k real edges.

    >>> create("dnw", k=100)
    TopK(k=100, gradient='ste')
    """
    kind = lookup("selector", name, SELECTORS)
    if k is None:
        if kind is not Complete:
            raise SelectionError(f"the selector {name!r} needs k, the number of real edges.")
        return kind()
    return kind(k)


__all__ = ["GRADIENTS", "SELECTORS", "Complete", "GradientRule", "RandomGraph", "Selection",
           "Selector", "TopK", "check_finite", "create"]
