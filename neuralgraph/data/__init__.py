"""Images: the embedded digits, loaders for real data, batches and augmentation."""

from .images import Augmentation, ImageData, generator_for, training_order
from .sources import DATASETS, load

__all__ = ["DATASETS", "Augmentation", "ImageData", "generator_for", "load", "training_order"]
