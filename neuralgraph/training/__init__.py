"""Training: recipes, the loop, and files that survive."""

from .checkpoint import read_wirings
from .distributed import current, join
from .fitting import fit
from .loop import Interrupted
from .memory import keep_freed_memory
from .opening import history, open_model, read_recipe
from .recipe import Recipe
from .recipes import RECIPES
from .rounds import GrowingRun
from .run import Run
from .watching import ProgressBar, Watcher

__all__ = ["RECIPES", "GrowingRun", "Interrupted", "ProgressBar", "Recipe", "Run", "Watcher", "current", "fit",
           "history", "join", "keep_freed_memory", "open_model", "read_recipe", "read_wirings"]


def __dir__() -> list[str]:
    return __all__
