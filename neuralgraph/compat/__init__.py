"""Files that others wrote."""

from .dnw import load_dnw_checkpoint

__all__ = ["load_dnw_checkpoint"]
