"""From candidates to a selection: which are real, with which weight, and where gradients go."""

from importlib import import_module
from pkgutil import iter_modules

from .candidates import GRANULARITIES, Candidates, Edges, Joined, Weights
from .competition import COMPETITIONS, top_k
from .registry import SELECTORS, create, options_of, register
from .selection import GRADIENTS, GradientRule, Selection, soft_gate
from .selector import MaskSelector, Selector, check_finite

for _module in sorted(module.name for module in iter_modules(__path__)):
    import_module(f"{__name__}.{_module}")  # a selector is one file in this folder

from .fixed import Complete, Frozen, RandomGraph, Ticket  # noqa: E402
from .held import Held, hold, let_go  # noqa: E402
from .popup import EdgePopup  # noqa: E402
from .feather import Feather  # noqa: E402
from .pruning import L1Anneal, TargetedDropout  # noqa: E402
from .rigl import RigL  # noqa: E402
from .synaptic import SynapticStrength  # noqa: E402
from .topk import NoUpdate, RankingSelector, TopK  # noqa: E402

# selectors whose edges come from a network that was trained before
FROM_TRAINED = ("lottery-ticket", "fine-tune")

__all__ = ["COMPETITIONS", "FROM_TRAINED", "GRADIENTS", "GRANULARITIES", "SELECTORS", "Candidates", "Complete",
           "EdgePopup", "Edges", "Feather", "Frozen", "GradientRule", "Held", "Joined", "L1Anneal", "MaskSelector",
           "NoUpdate", "RandomGraph", "RankingSelector", "RigL", "Selection", "Selector", "SynapticStrength",
           "TargetedDropout", "Ticket", "TopK", "Weights", "check_finite", "create", "hold", "let_go", "options_of",
           "register", "soft_gate", "top_k"]
