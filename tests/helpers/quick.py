"""A training of seconds."""

import dataclasses

import torch

from neuralgraph.training import RECIPES, Run, Watcher
from neuralgraph.training.checkpoint import read_checkpoint

QUICK = dataclasses.replace(RECIPES["tiny-static"], epochs=2, batch_size=40, k=3000, crop_padding=1,
                            flip=True)


def same(a, b):
    first, _ = read_checkpoint(a.folder / "checkpoint.safetensors")
    second, _ = read_checkpoint(b.folder / "checkpoint.safetensors")
    timeless = lambda rows: [{k: v for k, v in row.items() if "second" not in k} for row in rows]
    return (first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
            and timeless(a.progress.rows) == timeless(b.progress.rows))


class ExactK(Watcher):
    """Counts the real edges after every step."""

    def __init__(self):
        self.counts = set()

    def stepped(self, run, images, loss, accuracy):
        run.model.eval()
        self.counts.add(tuple(int(n.selection().real.sum()) for n in run.model.networks))


def small_run(data, folder, **changes):
    run = Run.create(dataclasses.replace(QUICK, **{"epochs": 1, **changes}), folder, data)
    run.train()
    return run
