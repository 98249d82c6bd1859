"""Training: recipes, the loop, and files that survive."""

from .checkpoint import read_wirings
from .distributed import current, join
from .folder import open_model, read_recipe
from .recipe import Recipe
from .recipes import RECIPES
from .run import Interrupted, Run, Watcher

__all__ = ["RECIPES", "Interrupted", "Recipe", "Run", "Watcher", "current", "join", "open_model",
           "read_recipe", "read_wirings"]
