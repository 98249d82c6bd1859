"""Images: the embedded digits, loaders for real data, batches and augmentation."""

from .files import ImageFiles, lost_readers
from .images import Augmentation, ImageData, Images, draws, generator_for, training_order
from .sources import DATASETS, load

__all__ = ["DATASETS", "Augmentation", "ImageData", "ImageFiles", "Images", "draws", "generator_for",
           "load", "lost_readers", "training_order"]
