"""One step of training by selector: DNW wants the gradient of every candidate at every step, others do not.

    python benchmarks/selector_steps.py [--models NAME...] [--selectors NAME...] [--json FILE]

A selector that drops and grows has two kinds of steps, those between changes and those at which it changes (snfs, which
averages gradients before a change: those of its window, too); both are timed, and the mean of a period of ``--every``
steps follows from their medians. All have the same k (granet, which starts with more, as after its schedule).
"""

import argparse

import torch
import torch.nn.functional as F
from common import alternate, report, save

import neuralgraph as ng
from neuralgraph.selectors import options_of

MANY = 2**20  # steps: so far off that nothing ends


def step_of(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor):
    """A function that makes one step of training, selectors taking part."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    ng.rewire(model, optimizer, total_steps=MANY)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return step


def contenders_of(selectors, make):
    """Steps by name: of each selector between its changes, and at one."""
    found = {}
    for name in selectors:
        known = options_of(name)
        options = {"initial": 0.0} if "initial" in known else {}
        if "every" not in known:
            found[name] = make(name, options)
            continue
        found[name] = make(name, {**options, "every": MANY})
        found[f"{name}, a change"] = make(name, {**options, "every": 1})
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny-static", "mobilenet-dnw"])
    parser.add_argument("--selectors", nargs="+", default=["rigl", "set", "snfs", "granet", "srigl", "cht", "chts"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    results = []
    for name in arguments.models:
        size = arguments.image_size
        images, labels = torch.randn(arguments.batch, 3, size, size), torch.randint(10, (arguments.batch,))

        def make(selector, options):
            more = {"width": 0.225} if name.startswith("mobilenet") else {}
            return step_of(ng.models.create(name, num_classes=10, image_size=size, selector=selector,
                                            selector_options=options, **more), images, labels)

        contenders = contenders_of(["dnw", *arguments.selectors], make)
        times = alternate(contenders, arguments.rounds, warm_up=1)
        report(f"training step of {name}, batch {arguments.batch}", times, "dnw", results, model=name,
               batch=arguments.batch)
        print(f"  mean of {arguments.every} steps with one change")
        means = {}
        for selector in arguments.selectors:
            if f"{selector}, a change" in times:
                between, at = times[selector].median, times[f"{selector}, a change"].median
                known = options_of(selector)
                dense = known["window"].default if "window" in known else 1
                means[selector] = between + (at - between) * min(1, dense / arguments.every)
                ratio = times["dnw"].median / means[selector]
                print(f"  {selector:34}{means[selector]:>10.3f}{'':19}{ratio:>22.2f} x")
        results[-1] |= {"every": arguments.every, "mean_milliseconds": means}
    save(arguments.json, results)
