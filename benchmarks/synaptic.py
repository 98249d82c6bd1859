"""Synaptic strength and DNW on the kernels of a small VGG: how much can go, and what does the penalty do?

    python benchmarks/synaptic.py --out FOLDER [--data cifar10|PATH|digits] [--images N] [--epochs N] [--json FILE]

For every lambda a VGG is trained with all its kernels, their strengths being parameters (scales of norms are moved into
kernels first), and penalised by lambda sum |s|. Of each of these models the strongest share of kernels is kept, of
each layer or of all together: the accuracy is measured, what is left is fine-tuned, measured again, and made smaller
for good. DNW chooses as many kernels of the same VGG by their norm at every step of as many epochs, fine-tuning
included. The first convolution and the classifier stay dense.

The tables answer: does the penalty alone regularise (accuracy of the whole model, on training and test images, by
lambda)? How sensitive is pruning to lambda? What does fine-tuning change? Which layers lose most? Everything is written
to FOLDER after every epoch, and the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from common import save
from torch import nn

import neuralgraph as ng

EVALUATED = 500
PER = {"layer": "block", "model": "graph"}  # all candidates of the model are one selector's; a layer is a block


def vgg(channels: int, classes: int, width: int) -> nn.Module:
    """Three times two convolutions with norms, halving the sides between, and a classifier of means."""
    layers, inputs = [], channels
    for number, outputs in enumerate((width, width, 2 * width, 2 * width, 4 * width, 4 * width)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if number in (1, 3) else []
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def some(number: int, most: int | None) -> torch.Tensor:
    """Numbers of so many images, of all classes: those of a folder come class by class."""
    return ng.data.training_order(number, seed=1, epoch=0)[:most].sort().values


class Images:
    """A part of the training images, all test images or a part."""

    def __init__(self, source: str, number: int | None, tested: int | None, batch: int):
        self.data, self.batch = ng.data.load(source), batch
        count = self.data.num_train
        chosen = ng.data.training_order(count, seed=0, epoch=0)[:number or count]
        self.chosen = chosen.sort().values
        self.tested = some(self.data.num_test, tested)
        self.augmentation = ng.data.Augmentation(4, True) if self.data.size[0] >= 32 else ng.data.Augmentation(0, False)

    @property
    def steps(self) -> int:
        return math.ceil(len(self.chosen) / self.batch)

    def epoch(self, seed: int, epoch: int):
        order = ng.data.training_order(len(self.chosen), seed, epoch)
        batches = [self.chosen[part] for part in order.split(self.batch)]
        for images, labels in self.data.train_batches(batches, self.augmentation, seed, epoch):
            yield self.data.normalise(images), labels

    @torch.no_grad()
    def accuracy(self, model: nn.Module, of: str = "test") -> float:
        """Percent of right answers; of training images, as they are, on as many as are tested."""
        model.eval()
        if of == "test":
            batches = self.data.test_batches(self.tested.split(EVALUATED))
        else:
            numbers = self.chosen[some(len(self.chosen), len(self.tested))].split(EVALUATED)
            batches = self.data.train_batches(numbers, ng.data.Augmentation(0, False), 0, 0)
        right = total = 0
        for images, labels in batches:
            right += int((model(self.data.normalise(images)).argmax(1) == labels).sum())
            total += len(labels)
        return 100 * right / total


def train(model: nn.Module, images: Images, path: Path, epochs: int, lr: float, decay: float, seed: int) -> None:
    """SGD with a cosine; goes on from the file, which is written after every epoch."""
    strengths = [value for name, value in model.named_parameters() if name.endswith("strengths")]
    others = [value for name, value in model.named_parameters() if not name.endswith("strengths")]
    groups = [{"params": others}] + ([{"params": strengths, "weight_decay": 0.0}] if strengths else [])
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, weight_decay=decay)
    first = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"]), optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"]
    if first == epochs:
        return
    rewiring = ng.rewire(model, optimizer, total_steps=epochs * images.steps, done=first * images.steps)
    for epoch in range(first, epochs):
        model.train()
        began, total = time.perf_counter(), 0.0
        for step, (pixels, labels) in enumerate(images.epoch(seed, epoch), start=epoch * images.steps):
            for group in optimizer.param_groups:
                group["lr"] = lr / 2 * (1 + math.cos(math.pi * step / (epochs * images.steps)))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(pixels), labels)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}
        torch.save(state, part := path.with_suffix(".part"))
        part.replace(path)
        print(f"  {path.stem}: epoch {epoch + 1} of {epochs}, loss {total / len(images.chosen):.4f}, "
              f"{time.perf_counter() - began:.1f} s", flush=True)
    rewiring.remove()


def sparse(images: Images, width: int, selector: str, density: float, seed: int, options: dict) -> nn.Module:
    """The VGG with kernels as candidates, one selector for all layers."""
    torch.manual_seed(seed)
    model = vgg(images.data.channels, len(images.data.classes), width)
    example = torch.zeros(1, images.data.channels, *images.data.size)
    if "strength" in options:
        model, _ = ng.layers.absorb_scales(model, example)
    return ng.sparsify(model, density, selector=selector, per="model", granularity="kernel", seed=seed,
                       selector_options=options, skip=[name for name, layer in model.named_modules()
                                                       if isinstance(layer, nn.Linear)])


def kept(model: nn.Module) -> dict[str, float]:
    """The share of kernels that is real, of each layer."""
    return {row.name: row.real / row.weights for row in ng.layers.summary(model).layers if row.real is not None}


def measured(model: nn.Module, images: Images, row: dict) -> dict:
    """The row with what is known of a pruned model."""
    example = torch.zeros(1, images.data.channels, *images.data.size)
    small, report = ng.layers.shrink(model, example)
    pruned = ng.densify(model)
    nonzero = sum(int((value != 0).sum()) for value in pruned.parameters())
    return {**row, "test_accuracy": images.accuracy(model), "kept_per_layer": kept(model), "nonzero_parameters": nonzero,
            "dense_parameters": report.parameters[1], "accuracy_of_the_smaller_model": images.accuracy(small)}


class Results:
    """Rows by name, in a file; what is there is not computed again."""

    def __init__(self, path: Path, settings: dict):
        self.path = path
        self.content = {"settings": settings, "rows": {}}
        if path.exists():
            self.content = json.loads(path.read_text())
            if self.content["settings"] != settings:
                raise SystemExit(f"{path} has results of other settings, {self.content['settings']}: choose another --out.")

    def get(self, name: str, compute: Callable[[], dict]) -> dict:
        if name not in self.content["rows"]:
            self.content["rows"][name] = compute()
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self.content, indent=1) + "\n")
            part.replace(self.path)
        return self.content["rows"][name]


def whole(arguments, images: Images, strength: float, seed: int) -> nn.Module:
    """The VGG with all its kernels, trained with the penalty."""
    model = sparse(images, arguments.width, "synaptic-strength", 1.0, seed, {"strength": strength})
    train(model, images, arguments.out / f"whole-{strength:g}-{seed}.pt", arguments.epochs, arguments.lr,
          arguments.weight_decay, seed)
    return model


def of_the_whole(arguments, images, strength, seed) -> dict:
    model = whole(arguments, images, strength, seed)
    selector = ng.layers.choices_of(model)[0][1].selector
    size = selector.strengths.detach().abs()
    return {"lambda": strength, "seed": seed, "test_accuracy": images.accuracy(model),
            "training_accuracy": images.accuracy(model, "train"), "strength_sum": float(size.sum()),
            "strength_quantiles": size.quantile(torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])).tolist()}


def of_a_share(arguments, images, strength, seed, share, per) -> dict:
    model = whole(arguments, images, strength, seed)
    selector = ng.layers.choices_of(model)[0][1].selector
    selector.k, selector.per = round(share * selector.num_edges), PER[per]
    before = images.accuracy(model)
    ng.layers.freeze(model)
    train(model, images, arguments.out / f"tuned-{per}-{strength:g}-{seed}-{share:g}.pt", arguments.fine_tune,
          arguments.fine_tune_lr, arguments.weight_decay, seed + 1000)
    return measured(model, images, {"method": "synaptic-strength", "lambda": strength, "seed": seed, "kept": share, "per": per,
                                    "before_fine_tuning": before})


def of_dnw(arguments, images, seed, share, per) -> dict:
    model = sparse(images, arguments.width, "dnw", share, seed, {"per": PER[per]})
    train(model, images, arguments.out / f"dnw-{per}-{seed}-{share:g}.pt", arguments.epochs + arguments.fine_tune,
          arguments.lr, arguments.weight_decay, seed)
    return measured(model, images, {"method": "dnw", "seed": seed, "kept": share, "per": per})


def table(title: str, rows: list[dict], columns: dict[str, str]) -> None:
    print(f"\n{title}\n  " + " ".join(f"{name:>12}" for name in columns.values()))
    for row in rows:
        cells = [row.get(key, "") for key in columns]
        print("  " + " ".join(f"{cell:>12.4g}" if isinstance(cell, float) else f"{cell!s:>12.12}" for cell in cells))


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, default=10_000, help="training images, all if there are fewer")
    parser.add_argument("--tested", type=int, default=10_000, help="test images")
    parser.add_argument("--lambdas", type=numbers, default=[0.0, 1e-5, 1e-4, 1e-3])
    parser.add_argument("--kept", type=numbers, default=[0.5, 0.2, 0.1])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--fine-tune", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--fine-tune-lr", type=float, default=0.01)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json")
    arguments = parser.parse_args(words)
    arguments.out.mkdir(parents=True, exist_ok=True)
    images = Images(arguments.data, arguments.images, arguments.tested, arguments.batch)
    settings = {name: value for name, value in vars(arguments).items()
                if name not in ("out", "json", "lambdas", "kept", "seeds")}
    results = Results(arguments.out / "results.json", settings)
    wholes, shares = [], []
    for seed in range(arguments.seeds):
        for strength in arguments.lambdas:
            wholes.append(results.get(f"whole-{strength:g}-{seed}",
                                      lambda: of_the_whole(arguments, images, strength, seed)))
        for per, share in itertools.product(PER, arguments.kept):
            for strength in arguments.lambdas:
                shares.append(results.get(f"tuned-{per}-{strength:g}-{seed}-{share:g}",
                                          lambda: of_a_share(arguments, images, strength, seed, share, per)))
            shares.append(results.get(f"dnw-{per}-{seed}-{share:g}",
                                      lambda: of_dnw(arguments, images, seed, share, per)))
    table("The whole model: does the penalty alone regularise?", wholes, {
        "lambda": "lambda", "seed": "seed", "training_accuracy": "training %", "test_accuracy": "test %",
        "strength_sum": "sum |s|"})
    table("A share of its kernels", shares, {
        "method": "method", "per": "per", "kept": "kept", "lambda": "lambda", "seed": "seed", "before_fine_tuning": "before %",
        "test_accuracy": "test %", "nonzero_parameters": "nonzero", "dense_parameters": "when shrunk",
        "accuracy_of_the_smaller_model": "shrunk %"})
    layers = [{**row, **{name: 100 * part for name, part in row["kept_per_layer"].items()}} for row in shares
              if row["per"] == "model"]
    table("Kernels kept in each layer where all compete, %", layers, {"method": "method", "kept": "kept", "lambda": "lambda",
                                                    **{name: name for name in shares[0]["kept_per_layer"]}})
    save(arguments.json, [{"title": "the whole model", "settings": settings, "rows": wholes},
                          {"title": "a share of its kernels", "settings": settings, "rows": shares}])


if __name__ == "__main__":
    main()
