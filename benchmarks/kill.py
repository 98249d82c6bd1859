"""Kill a short run at random moments, again and again: every one must end with the same weights.

    python benchmarks/kill.py --kills 50

A child process makes or continues a small run on the embedded digits and saves after every step, so
that many kills (SIGKILL) fall into the writing of a file; every fifth falls into the making of the run,
the others into its training. Once killed, each run is continued to its
end, and the values of its last checkpoint are compared, bit by bit, with those of an undisturbed run.
Prints one JSON object; the exit status is 1 if any run differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

import neuralgraph as ng
from neuralgraph.training import RECIPES, Run, loop as loop_module
from neuralgraph.training.checkpoint import digest, read_checkpoint

IMAGES = 48
RECIPE = dataclasses.replace(RECIPES["tiny-static"], epochs=2, batch_size=8, k=2000, flip=True,
                             crop_padding=1, selector="targeted-dropout")


def train(folder: Path) -> None:
    """Makes the run or continues it, as far as it comes."""
    full = ng.data.load("digits")
    data = dataclasses.replace(full, train_images=full.train_images[:IMAGES],
                               train_labels=full.train_labels[:IMAGES],
                               test_images=full.test_images[:20], test_labels=full.test_labels[:20])
    loop_module.SAVE_EVERY = 0
    exists = (folder / "recipe.json").exists()
    (Run.open(folder, data) if exists else Run.create(RECIPE, folder, data)).train()


def in_child(folder: Path, kill_after: float | None = None) -> int:
    """The exit status of :func:`train` in a process of its own; -9 if it was killed."""
    child = start(folder)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return status_of(child)


def start(folder: Path) -> int:
    """The number of a new process that trains."""
    child = os.fork()
    if child == 0:
        try:
            train(folder)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def undisturbed(folder: Path) -> tuple[float, float]:
    """Trains to the end; the seconds until the run was made, and until the end."""
    began = time.monotonic()
    child = start(folder)
    while not (folder / "recipe.json").exists():
        if time.monotonic() - began > 120:
            sys.exit("the undisturbed run was never made")
        time.sleep(0.005)
    made = time.monotonic() - began
    if status_of(child):
        sys.exit("the undisturbed run failed")
    return made, time.monotonic() - began


def state_of(folder: Path) -> str:
    """How far a killed run had come."""
    if not (folder / "recipe.json").exists():
        return "making"
    partial = " (writing)" if list(folder.rglob(".*.partial")) else ""
    progress = read_checkpoint(folder / "checkpoint.safetensors")[1]["progress"]
    return f"epoch {progress['epoch']} step {progress['step']}{partial}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # before anything is computed: threads do not survive a fork
    random_moment = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as root:
        whole = Path(root, "whole")
        train(Path(root, "first"))  # compiles and loads what every later one, a fork of this process, finds ready
        made, seconds = undisturbed(whole)
        expected = digest(read_checkpoint(whole / "checkpoint.safetensors")[0])
        runs, killed, equal, where = 0, 0, 0, {}
        while killed < arguments.kills and runs < 10 * arguments.kills:
            folder = Path(root, str(runs))
            moment = random_moment.uniform(*((0, made) if runs % 5 == 4 else (made, seconds)))
            began = time.monotonic()
            if in_child(folder, moment) == -signal.SIGKILL:
                killed += 1
                state = state_of(folder)
                where[state] = where.get(state, 0) + 1
            else:  # it was over before: the undisturbed run was slower than this one
                faster = min(0.9, (time.monotonic() - began) / seconds)
                made, seconds = made * faster, seconds * faster
            finished = in_child(folder) == 0
            equal += finished and digest(read_checkpoint(folder / "checkpoint.safetensors")[0]) == expected
            runs += 1
    print(json.dumps({"runs": runs, "killed": killed, "same_as_undisturbed": equal,
                      "seed": arguments.seed, "undisturbed_seconds": round(seconds, 2),
                      "torch": torch.__version__, "last_checkpoint_at_kill": dict(sorted(where.items()))},
                     indent=1))
    sys.exit(equal != runs or killed != arguments.kills)


if __name__ == "__main__":
    main()
