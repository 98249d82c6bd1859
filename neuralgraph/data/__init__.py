"""Images: the embedded digits, loaders for real data, batches and augmentation."""

from .files import ImageFiles, lost_readers
from .finding import find_pictures
from .images import Augmentation, ImageData, Images, draws, generator_for, training_order
from .pictures import read_picture
from .sources import DATASETS, load

__all__ = ["DATASETS", "Augmentation", "ImageData", "ImageFiles", "Images", "draws", "find_pictures",
           "generator_for", "load", "lost_readers", "read_picture", "training_order"]


def __dir__() -> list[str]:
    return __all__
