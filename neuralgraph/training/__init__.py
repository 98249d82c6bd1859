"""Training: recipes, the loop, and files that survive."""

from .checkpoint import read_wirings
from .distributed import current, join
from .folder import open_model, read_recipe
from .memory import keep_freed_memory
from .recipe import Recipe
from .recipes import RECIPES
from .run import Interrupted, Run, Watcher

__all__ = ["RECIPES", "Interrupted", "Recipe", "Run", "Watcher", "current", "join",
           "keep_freed_memory", "open_model", "read_recipe", "read_wirings"]
