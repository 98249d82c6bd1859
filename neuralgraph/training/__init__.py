"""Training: recipes, the loop, and files that survive."""

from .checkpoint import read_wirings
from .recipe import RECIPES, Recipe
from .run import Interrupted, Run, Watcher

__all__ = ["RECIPES", "Interrupted", "Recipe", "Run", "Watcher", "read_wirings"]
