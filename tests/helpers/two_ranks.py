"""What two processes do for tests/training/test_distributed.py: torchrun starts this file twice."""

import dataclasses
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

import neuralgraph as ng
from neuralgraph.errors import RunError
from neuralgraph.training import RECIPES, Run, Watcher, join, run as run_module

RECIPE = dataclasses.replace(RECIPES["tiny-static"], epochs=2, batch_size=33, k=3000, crop_padding=1,
                             flip=True)


def images():
    """100 digits; the last batch of an epoch is one image, fewer than there are processes."""
    full = ng.data.load("digits")
    return dataclasses.replace(full, train_images=full.train_images[:100],
                               train_labels=full.train_labels[:100], test_images=full.test_images[:51],
                               test_labels=full.test_labels[:51])


def without_batch_statistics(recipe, description, make=run_module.make_model):
    """The recipe's model with instance norms in its stem, whose results do not depend on the batch."""
    model = make(recipe, description)
    for name, layer in model.stem.named_children():
        if isinstance(layer, nn.BatchNorm2d):
            model.stem[int(name)] = nn.InstanceNorm2d(layer.num_features, affine=True)
    return model


class Lost(Watcher):
    """Rank 1 vanishes in the middle of the second epoch."""

    def stepped(self, run, images, loss, accuracy):
        if run.ranks.rank == 1 and (run.progress.epoch, run.progress.step) == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)


def attempt(path, action):
    """Writes the RunError that an action ends with to a file."""
    try:
        action()
    except RunError as error:
        path.write_text(str(error))


def main(folder):
    torch.set_num_threads(1)
    with join() as ranks:
        mine = folder / f"rank-{ranks.rank}"
        mine.mkdir()
        data = images()
        for selector, precision in (("targeted-dropout", "bfloat16"), ("l1-anneal", "float32")):
            recipe = dataclasses.replace(RECIPE, selector=selector, precision=precision)
            Run.create(recipe, folder / selector, data, device="cpu").train(check_ranks=True)
        run_module.make_model = without_batch_statistics
        Run.create(RECIPE, folder / "two", data, device="cpu").train(check_ranks=True)
        run = Run.create(RECIPE, folder / "apart", data, device="cpu")
        attempt(mine / "apart", lambda: run.train(Apart(), check_ranks=True))
        other = dataclasses.replace(RECIPE, seed=ranks.rank)
        attempt(mine / "recipe", lambda: Run.create(other, folder / "other", data, device="cpu"))
        labels = data.train_labels.roll(ranks.rank)
        others = dataclasses.replace(data, train_labels=labels)
        attempt(mine / "images", lambda: Run.create(RECIPE, folder / "other", others, device="cpu"))
        attempt(mine / "lost", lambda: Run.create(RECIPE, folder / "lost", data, device="cpu").train(Lost()))


class Apart(Watcher):
    """Rank 1's weights are changed behind everybody's back."""

    def stepped(self, run, images, loss, accuracy):
        if run.ranks.rank == 1:
            with torch.no_grad():
                run.model.networks[0].weight.neg_().add_(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
