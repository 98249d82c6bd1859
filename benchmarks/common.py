"""What the benchmark scripts share: contenders, tables, JSON, and the authors' code if there is a checkout."""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from neuralgraph.analysis.speed import Timing, alternate, environment

__all__ = ["alternate", "environment", "authors_model", "report", "save", "step_of"]


def report(title: str, results: dict[str, Timing], against: str, out: list[dict], **facts) -> None:
    """Prints times and their ratios to one contender, and keeps them for the JSON file."""
    print(f"\n{title}")
    print(f"  {'':34}{'median ms':>10}{'quartiles':>19}{f'  {against} / this':>24}")
    base = results[against].median
    for name, time in results.items():
        print(f"  {name:34}{time.median:>10.3f}{f'{time.low:.3f}-{time.high:.3f}':>19}"
              f"{base / time.median:>22.2f} x")
    out.append({"title": title, **facts, "milliseconds": {
        name: {"median": time.median, "quartiles": [time.low, time.high]} for name, time in results.items()}})


def save(path: str | None, measurements: list[dict]) -> None:
    """Prints the environment and writes everything to a JSON file if one is asked for."""
    facts = environment()
    print("\n" + ", ".join(f"{key} {value}" for key, value in facts.items()))
    if path:
        content = {"command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]), "environment": facts,
                   "measurements": measurements}
        Path(path).write_text(json.dumps(content, indent=1) + "\n")


def step_of(model: nn.Module, batch: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> Callable[[], None]:
    """A function that makes one step of training on the images and labels that ``batch`` gives."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        images, labels = batch()
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return step


AUTHORS = {  # module and class in the authors' code, and the flags it reads
    "tiny-static": ("models.graphs.neuralgraph", "StaticNeuralGraph", dict(setting="static")),
    "tiny-discrete": ("models.graphs.neuralgraph", "DiscreteTimeNeuralGraph",
                      dict(setting="discrete_time")),
    "mobilenet-dnw": ("models.graphs.mobilenetv1like", "MobileNetV1Like",
                      dict(setting="static", prune_rate=0.775)),
}
FLAGS = dict(output_size=10, image_size=32, in_channels=3, prune_rate=0.95, prune=True, dim=800,
             downsample_dim=32, feature_dim=100, layers=5, graph="dnw", device="cpu", seed=1996)


def authors_model(checkout: str, name: str, image_size: int = 32, num_classes: int = 10, *,
                  graph: str = "dnw", seed: int = 0, device: str = "cpu") -> nn.Module:
    """A model of the authors' code, from a checkout of allenai/dnw."""
    module, kind, flags = AUTHORS[name]
    if not (Path(checkout) / "models" / "graphs").is_dir():
        raise SystemExit(f"{checkout} is no checkout of allenai/dnw.")
    if checkout not in sys.path:
        sys.path.insert(0, checkout)
    config = sys.modules.setdefault("genutil.config", types.ModuleType("genutil.config"))
    if not hasattr(config, "FLAGS"):
        config.FLAGS = types.SimpleNamespace()
    for key in list(vars(config.FLAGS)):
        delattr(config.FLAGS, key)
    vars(config.FLAGS).update({**FLAGS, **flags, "image_size": image_size, "output_size": num_classes,
                               "graph": graph, "device": device})
    torch.manual_seed(seed)
    return getattr(importlib.import_module(module), kind)()
