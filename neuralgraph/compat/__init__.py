"""Files that others wrote."""

from .dnw import load_dnw_checkpoint

__all__ = ["load_dnw_checkpoint"]


def __dir__() -> list[str]:
    return __all__
