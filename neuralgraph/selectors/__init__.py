"""Selectors: which candidate edges are real, with which weight, and where gradients go.

``create(name, k, ...)`` makes one by its name, as ``TopK(k)`` makes "dnw"; ``options_of(name)`` has what it can be told,
and ``k_is(name)`` whether it needs k. All serve the edges of graphs and the weights or kernels of layers. By family:

- ranking at every step: "dnw" (TopK), "no-update" (NoUpdate), "feather" (Feather), "str" (SoftThreshold), "spartan"
  (Spartan), "top-kast" (TopKAST)
- drop and grow: "set" (SET), "rigl" (RigL), "snfs" (SNFS), "granet" (GraNet), "srigl" (SRigL), "cht" and "chts" (CHT)
- pruning and strength: "gradual" and "l1-anneal" (L1Anneal), "targeted-dropout" and "targeted-dropout-regular"
  (TargetedDropout), "snip" (SNIP), "synaptic-strength" (SynapticStrength)
- gates and masks: "l0" (L0), "variational-dropout" (VariationalDropout), "edge-popup" (EdgePopup), "supermask" (Supermask)
- fixed: "random" (RandomGraph), "complete" (Complete), and of a trained network "lottery-ticket" and "fine-tune" (Ticket)

A selector of your own is a subclass of :class:`Selector`, and :func:`register` gives it a name.

>>> create("rigl", k=300, every=50)
RigL(k=300, drop=0.3, every=50, end=0.75)
"""

from importlib import import_module
from pkgutil import iter_modules

from .candidates import GRANULARITIES, Candidates, Edges, Joined, Weights
from .competition import COMPETITIONS
from .groups import top_k
from .registry import SELECTORS, create, k_is, options_of, register
from .selection import GRADIENTS, GradientRule, Selection, soft_gate
from .selector import MaskSelector, Selector, check_finite

for _module in sorted(module.name for module in iter_modules(__path__)):
    import_module(f"{__name__}.{_module}")  # a selector is one file in this folder

from .cht import CHT  # noqa: E402
from .evolutionary import SET  # noqa: E402
from .feather import Feather  # noqa: E402
from .fixed import Complete, Frozen, RandomGraph, Ticket  # noqa: E402
from .gates import L0, VariationalDropout  # noqa: E402
from .granet import GraNet  # noqa: E402
from .held import Held, hold, let_go  # noqa: E402
from .momentum import SNFS  # noqa: E402
from .popup import EdgePopup, Supermask, train_scores_only  # noqa: E402
from .pruning import L1Anneal, TargetedDropout  # noqa: E402
from .regrowth import DropAndGrow  # noqa: E402
from .rigl import RigL  # noqa: E402
from .snip import SNIP  # noqa: E402
from .soft_threshold import SoftThreshold  # noqa: E402
from .spartan import Spartan  # noqa: E402
from .srigl import SRigL  # noqa: E402
from .synaptic import SynapticStrength  # noqa: E402
from .topk import NoUpdate, RankingSelector, TopK  # noqa: E402
from .topkast import TopKAST  # noqa: E402

# selectors whose edges come from a network that was trained before
FROM_TRAINED = ("lottery-ticket", "fine-tune")

__all__ = ["CHT", "COMPETITIONS", "FROM_TRAINED", "GRADIENTS", "GRANULARITIES", "L0", "SELECTORS", "SET",
           "SNFS", "SNIP", "Candidates", "Complete", "DropAndGrow", "EdgePopup", "Edges", "Feather", "Frozen",
           "GraNet", "GradientRule", "Held", "Joined", "L1Anneal", "MaskSelector", "NoUpdate", "RandomGraph",
           "RankingSelector", "RigL", "SRigL", "Selection", "Selector", "SoftThreshold", "Spartan",
           "Supermask", "SynapticStrength", "TargetedDropout", "Ticket", "TopK", "TopKAST", "VariationalDropout",
           "Weights", "check_finite", "create", "hold", "k_is", "let_go", "options_of", "register", "soft_gate",
           "top_k", "train_scores_only"]


def __dir__() -> list[str]:
    return __all__
