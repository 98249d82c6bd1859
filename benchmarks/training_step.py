"""One step of training: forward, backward and update.

    python benchmarks/training_step.py [--authors CHECKOUT] [--models NAME...] [--json FILE]

With a checkout of allenai/dnw the authors' code takes its turn in the same process. "auto, high" and "auto, medium" let
products round their factors (``torch.set_float32_matmul_precision``), which matters on CPUs with matrix units.
"""

import argparse

import torch
from common import alternate, authors_model, report, save, step_of

import neuralgraph as ng


def rounding(step, precision):
    """The step, while products may round their factors."""
    def run():
        torch.set_float32_matmul_precision(precision)
        try:
            return step()
        finally:
            torch.set_float32_matmul_precision("highest")
    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["tiny-static", "tiny-discrete", "mobilenet-dnw"])
    parser.add_argument("--backends", nargs="+", default=["auto", "sparse", "dense"])
    parser.add_argument("--authors")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    results = []
    for name in arguments.models:
        images, labels = torch.randn(arguments.batch, 3, 32, 32), torch.randint(10, (arguments.batch,))
        options = dict(width=0.225) if name.startswith("mobilenet") else {}
        batch = images, labels
        contenders = {backend: step_of(ng.models.create(name, num_classes=10, image_size=32, backend=backend,
                                                        **options), lambda: batch)
                      for backend in arguments.backends}
        if "auto" in contenders:
            contenders |= {f"auto, {precision}": rounding(contenders["auto"], precision) for precision in ("high", "medium")}
        if arguments.authors:
            contenders["the authors' code"] = step_of(authors_model(arguments.authors, name), lambda: batch)
        times = alternate(contenders, arguments.rounds, warm_up=1)
        report(f"training step of {name}, batch {arguments.batch}", times, list(contenders)[-1], results,
               model=name, batch=arguments.batch)
    save(arguments.json, results)
