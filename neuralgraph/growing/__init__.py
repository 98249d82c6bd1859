"""Growing: nodes that are split in two where that lowers the loss."""

from .building import regrow
from .curvature import rectify
from .report import SplitNode, SplitReport
from .routes import ROUTES, Exact, Fast, MiniBatch, Route
from .splitting import check_settings, split

__all__ = ["ROUTES", "Exact", "Fast", "MiniBatch", "Route", "SplitNode", "SplitReport", "check_settings", "rectify",
           "regrow", "split"]


def __dir__() -> list[str]:
    return __all__
