"""Making a trained network fast to run."""

from .compiling import CompiledModel, compile
from .engine import CompiledNetwork
from .files import load, save
from .layers import CompiledLayers

__all__ = ["CompiledLayers", "CompiledModel", "CompiledNetwork", "compile", "load", "save"]


def __dir__() -> list[str]:
    return __all__
