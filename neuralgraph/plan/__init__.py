"""One lowering: a trained network as what is left to compute; compiled models and ONNX come from it."""

from .checking import checked
from .joining import joined
from .lowering import lower, lower_all
from .plain import evaluating, is_plain, refuse_special, special
from .plan import Group, Plan, reduced
from .running import check_space, constants, run
from .steps import simplified

__all__ = ["Group", "Plan", "check_space", "checked", "constants", "evaluating", "is_plain", "joined", "lower", "lower_all",
           "reduced", "refuse_special", "run", "simplified", "special"]
