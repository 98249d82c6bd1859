"""Trained models for other programs: ONNX, from their plans."""

from .onnx import export_onnx, to_onnx

__all__ = ["export_onnx", "to_onnx"]


def __dir__() -> list[str]:
    return __all__
