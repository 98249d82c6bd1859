"""Growing: nodes that are split in two where that lowers the loss."""

from .curvature import rectify
from .report import SplitNode, SplitReport
from .routes import ROUTES, Exact, Fast, Route
from .splitting import split

__all__ = ["ROUTES", "Exact", "Fast", "Route", "SplitNode", "SplitReport", "rectify", "split"]
