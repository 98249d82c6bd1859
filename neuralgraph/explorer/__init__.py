"""The wiring in a browser: how it formed, who is connected with whom."""

from .showing import Exploration, explore

__all__ = ["Exploration", "explore"]


def __dir__() -> list[str]:
    return __all__
