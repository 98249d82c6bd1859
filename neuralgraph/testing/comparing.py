"""How a check says what differs."""

from __future__ import annotations

import torch


def require(condition: bool, message: str) -> None:
    """Raises AssertionError with the message where the condition does not hold, under ``python -O`` too."""
    if not condition:
        raise AssertionError(message)


def require_close(what: str, actual: torch.Tensor | None, expected: torch.Tensor | None, tolerance: float,
                  absolute: float | None = None) -> None:
    """Raises AssertionError if two tensors differ by more than rounding; a gradient that is None is 0.

    Args:
        what: is compared, for the message.
        actual, expected: of one shape.
        tolerance: relative, and absolute where ``absolute`` is None.
        absolute: the absolute one.
    """
    if actual is None:
        if expected is None:
            return
        actual = torch.zeros_like(expected)
    expected = torch.zeros_like(actual) if expected is None else expected.detach()
    actual = actual.detach()
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance if absolute is None else absolute,
                               msg=lambda text: f"{what}: {text}")
