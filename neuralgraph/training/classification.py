"""Images and the names of what is on them: what a recipe trains."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from ..data import Augmentation, Images, training_order
from .distributed import Ranks
from .progress import Progress
from .recipe import Recipe
from .task import Learned, Task, draw_from

EVALUATION_BATCH = 500


class Classification(Task):
    """Cross-entropy and right answers on images, as a recipe says.

    The order of the images depends on seed and epoch only, and their augmentation on the image too.

    Args:
        recipe: for batch size, seed, augmentation and precision.
        data: the images.
        ranks: each takes its part of every batch.
        device: of the model.
    """

    unit = "images"

    def __init__(self, recipe: Recipe, data: Images, ranks: Ranks, device: torch.device):
        self.recipe, self.data, self.ranks, self.device = recipe, data.on(device), ranks, device
        self.augmentation = Augmentation(recipe.crop_padding, recipe.flip)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.data.num_train / self.recipe.batch_size)

    def batches(self, epoch: int, first: int) -> Iterator[object]:
        """(number of images in the step, own images, own labels) of each step."""
        order = training_order(self.data.num_train, self.recipe.seed, epoch)
        batches = order.split(self.recipe.batch_size)[first:]
        own = [self.ranks.share(batch) for batch in batches]
        # a process without a share computes an image that does not count, to keep in step
        own = [share if len(share) else batch[:1] for share, batch in zip(own, batches)]
        read = self.data.train_batches(own, self.augmentation, self.recipe.seed, epoch)
        for step, (batch, (images, labels)) in enumerate(zip(batches, read), start=first):
            draw_from(self.device, self.recipe.seed, epoch, step)  # what the model draws, on all processes
            yield batch, images, labels

    def learn(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> Learned:
        numbers, images, labels = batch
        images, labels = self.data.normalise(images.to(self.device)), labels.to(self.device)
        with self._autocast():
            logits = model(images)
            loss = F.cross_entropy(logits.float(), labels)
        own = len(self.ranks.share(numbers))
        right = (logits.argmax(1) == labels).sum()
        return Learned(loss, own, len(numbers), {"accuracy": right if own else 0.0})

    def training_row(self, progress: Progress) -> dict[str, float]:
        return {"train_loss": round(progress.loss / progress.seen, 6),
                "train_accuracy": round(100 * progress.sums["accuracy"] / progress.seen, 3)}

    def test_row(self, model: nn.Module, epoch: int) -> dict[str, float]:
        accuracy, top5, loss = self.evaluate(model)
        return {"test_loss": round(loss, 6), "test_accuracy": round(accuracy, 3),
                "test_top5_accuracy": round(top5, 3)}

    @property
    def columns(self) -> list[str]:
        return ["train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_top5_accuracy"]

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> tuple[float, float, float]:
        """Accuracy (top-1 and top-5, per cent) and mean loss on the test images."""
        count, small = self.data.num_test, max(self.data.size) <= 64
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # read once, at the end
        batches = self.ranks.share(torch.arange(count)).split(
            EVALUATION_BATCH if small else min(EVALUATION_BATCH, self.recipe.batch_size))
        for images, labels in self.data.test_batches([batch for batch in batches if len(batch)]):
            labels = labels.to(self.device)
            with self._autocast():
                logits = model(self.data.normalise(images.to(self.device)))
                loss = F.cross_entropy(logits.float(), labels, reduction="sum")
            best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            sums += torch.stack([(logits.argmax(1) == labels).sum(), best.sum(), loss])
        correct, among_five, loss = self.ranks.sum(*sums.tolist())
        return 100 * correct / count, 100 * among_five / count, loss / count

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, self.recipe.precision == "bfloat16")
