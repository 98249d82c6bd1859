"""Selectors that change as the training goes on, in any training loop."""

from .rewire import Rewiring, rewire

__all__ = ["Rewiring", "rewire"]
