"""Double edge swaps, compiled."""

from .keeping import compiled
from .plain import swap_ends as _swap_ends

swap_ends = compiled(_swap_ends)
