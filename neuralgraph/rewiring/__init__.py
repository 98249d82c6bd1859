"""Selectors that change as the training goes on, in any training loop, and the history of what they did."""

from .history import History, Moment
from .recording import Recorder
from .records import Observed
from .rewire import Rewiring, rewire

__all__ = ["History", "Moment", "Observed", "Recorder", "Rewiring", "rewire"]


def __dir__() -> list[str]:
    return __all__
