"""Peak memory of training, each contender in a process of its own.

    python benchmarks/memory.py [--authors CHECKOUT] [--models NAME...] [--json FILE]

The largest resident set after five steps, of everything: Python, libraries, the model, and the step.
"""

import argparse
import resource
import subprocess
import sys

import torch
from common import authors_model, save, step_of

import neuralgraph as ng
from neuralgraph.training import keep_freed_memory

STEPS = 5


def peak(model, batch):
    """Trains for some steps and returns the peak in MiB."""
    read = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    step = step_of(model, lambda: read)
    for _ in range(STEPS):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["tiny-static", "tiny-discrete", "mobilenet-dnw"])
    parser.add_argument("--authors")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # in the process of one contender
    arguments = parser.parse_args()
    if arguments.only:
        (name,) = arguments.models
        if arguments.only == "authors":
            model = authors_model(arguments.authors, name)
        else:
            if arguments.only == "keeping":
                keep_freed_memory()
            model = ng.models.create(name, num_classes=10, image_size=32,
                                     **(dict(width=0.225) if name.startswith("mobilenet") else {}))
        print(peak(model, arguments.batch))
        raise SystemExit

    titles = {"plain": "neuralgraph", "keeping": "the same, keeping freed memory"}
    if arguments.authors:
        titles["authors"] = "the authors' code"
    measurements = []
    for name in arguments.models:
        peaks = {only: [] for only in titles}
        for _ in range(arguments.rounds):
            for only, values in peaks.items():
                more = ["--authors", arguments.authors] if arguments.authors else []
                done = subprocess.run([sys.executable, __file__, "--models", name, "--only", only, *more,
                                       "--batch", str(arguments.batch)], stdout=subprocess.PIPE, check=True)
                values.append(float(done.stdout))
        print(f"\npeak memory of training {name}, batch {arguments.batch}, MiB")
        for only, values in peaks.items():
            print(f"  {titles[only]:34}{sorted(values)[len(values) // 2]:8.0f}   "
                  f"({min(values):.0f}-{max(values):.0f})")
        measurements.append({"title": f"peak memory of training {name}", "model": name, "batch": arguments.batch, "peak_mib": {
            titles[only]: [round(value, 1) for value in values] for only, values in peaks.items()}})
    save(arguments.json, measurements)
