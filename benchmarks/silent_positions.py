"""Weights that carry no signal, ranked with those that do, as in the authors' static network: what do they change?

    python benchmarks/silent_positions.py --data PATH --out FOLDER [--rows dnw rg] [--seeds 0 1 2] [--device cuda]
        [--set KEY=VALUE]... [--json FILE]

The authors' static network (allenai/dnw, ``models/graphs/neuralgraph.py``) ranks the weights of an 800 x 800 matrix, of
which only edges to later blocks are ever multiplied: 264,960 of 640,000. The others get the gradient 0, so that nothing
but weight decay changes them; but they count among the k = 32,000 largest, of which at first only some 13,250 are edges.
Here as many silent weights compete with the 325,760 candidates of ``tiny-static`` as give them the same share, 58.6 %.
The authors' random edges are drawn from 305,600 positions, of which 258,160 can carry a signal: of 32,000 some 27,032 do.

What came out (``results/authors_static_160_epochs.json``): before the first epoch is over no silent weight is among the
k largest, here and in the authors' code, and the accuracy after 160 epochs (one run) is within that of the seeds without.

Everything else is the recipe of Table 1. The numbers of real edges after each recorded step are printed at the end; runs
are in ``FOLDER/ROW/seed-N``, and the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch
from torch import nn

from neuralgraph import data
from neuralgraph.errors import SelectionError
from neuralgraph.selectors import Selector, register
from neuralgraph.selectors.groups import top_k
from neuralgraph.training import RECIPES, ProgressBar, Recipe, Run, history, keep_freed_memory

POSITIONS, CARRYING = 640_000, 264_960  # of the authors' matrix, and those of them that can carry a signal
RANDOM, RANDOM_CARRYING = 305_600, 258_160  # the same of what their random edges are drawn from
EDGES = 32_000


@register("dnw-silent")
class SilentPositions(Selector):
    """DNW whose candidates compete with weights that are no edges.

    Real are the candidates among the k largest |w| of candidates and silent weights together, and gradients are those
    of DNW. Silent weights begin uniform in (-1/sqrt(n), 1/sqrt(n)), n the number of nodes with candidates to leave by,
    as the edges of a graph do, and have the gradient 0, so that an optimizer with weight decay shrinks them: with
    momentum mu

        m <- mu m + decay w,    w <- w - rate m.

    Args:
        k: how many are chosen, silent ones included; 0 to the number of both.
        share: of all that are ranked, how many are silent, 0 to below 1; by default as many as in the authors' matrix.
    """

    silent: nn.Parameter

    def __init__(self, k: int, share: float = 1 - CARRYING / POSITIONS):
        super().__init__("ste")
        if not 0 <= share < 1:
            raise SelectionError(f"share, of silent weights among all, must be at least 0 and below 1, got {share!r}.")
        self.k, self.share = k, share
        self.register_parameter("silent", None)

    def prepare(self, candidates, weight, generator):
        number = round(candidates.num * self.share / (1 - self.share))
        if not 0 <= self.k <= candidates.num + number:
            raise SelectionError(f"k must be 0 to the {candidates.num + number} weights that are ranked, got {self.k}.")
        bound = len(candidates.source().unique()) ** -0.5
        self.silent = nn.Parameter(torch.empty(number).uniform_(-bound, bound, generator=generator).to(weight))

    def select(self, weight):
        score = self.candidates.magnitude(weight.detach())
        return top_k(torch.cat([self.silent.detach().abs(), score]), self.k)[len(self.silent):]

    def penalty(self, weight):
        """0, which gives silent weights the gradient 0; without one an optimizer would leave them as they are."""
        return 0 * self.silent.sum()

    @property
    def num_real(self) -> None:
        return None


def recipe_of(row: str) -> Recipe:
    """That of Table 1's row, with positions that carry no signal."""
    recipe = RECIPES[f"table1-static-{row}"]
    changes = {"selector": "dnw-silent"} if row == "dnw" else {"k": round(EDGES * RANDOM_CARRYING / RANDOM)}
    return dataclasses.replace(recipe, name=f"{recipe.name}-silent", **changes)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--rows", nargs="+", choices=["dnw", "rg"], default=["dnw", "rg"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    keep_freed_memory()
    images, found = data.load(arguments.data), []
    for seed in arguments.seeds:
        for row in arguments.rows:
            settings = {"data": arguments.data, "seed": str(seed), **dict(text.split("=", 1) for text in arguments.set)}
            recipe, folder = recipe_of(row).with_settings(settings), arguments.out / row / f"seed-{seed}"
            is_new = not (folder / "recipe.json").exists()
            run = Run.create(recipe, folder, images, device=arguments.device) if is_new else \
                Run.open(folder, images, device=arguments.device, settings=settings)
            rows, recorded = run.train(ProgressBar()), history(folder)
            real = {step: int(recorded.at(step).real.sum()) for step in recorded.steps}
            found.append({"row": row, "recipe": recipe.to_json(), "test_accuracy": [line["test_accuracy"] for line in rows],
                          "real_edges": real})
            print(f"{row}, seed {seed}: {rows[-1]['test_accuracy']:.2f} % in epoch {len(rows)}; real edges after each "
                  f"recorded step {', '.join(f'{step}: {count}' for step, count in real.items())}", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
