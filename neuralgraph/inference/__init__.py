"""Making a trained network fast to run."""

from .compiling import CompiledModel, compile
from .engine import CompiledNetwork
from .files import load, save

__all__ = ["CompiledModel", "CompiledNetwork", "compile", "load", "save"]


def __dir__() -> list[str]:
    return __all__
