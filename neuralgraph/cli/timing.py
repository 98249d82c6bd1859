"""The command benchmark."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from ..analysis import cost
from ..analysis.speed import environment, inference_speed
from ..errors import InputError
from ..inference import compile
from ..training import open_model
from .reporting import print_table


def benchmark(folder: Path, batch: int, rounds: int, path: Path | None, storage: str | None) -> None:
    recipe, model, _ = open_model(folder)
    if path is not None and not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist.")
    size = model.image_size
    images = torch.randn(batch, model.in_channels, size, size, generator=torch.Generator().manual_seed(0))
    kept = None if storage is None else getattr(torch, storage)
    speeds = inference_speed(model, images, rounds=rounds, storage=kept)
    click.echo(f"{recipe.name}, {recipe.selector}: batches of {batch} images of {size}x{size}, median of "
               f"{rounds} rounds in turn")
    base = speeds["dense"].timing.median
    cells = [["backend", "ms", "quartiles", "images/s", "useful GFLOP/s", "speed-up", "difference"]]
    for name, speed in speeds.items():
        time = speed.timing
        cells.append([name, f"{time.median:.2f}", f"{time.low:.2f}-{time.high:.2f}",
                      f"{speed.images_per_second:,.0f}", f"{speed.useful_gflops:.1f}",
                      f"{base / time.median:.2f} x", f"{speed.difference:.0e}"])
    print_table(cells)
    click.echo(f"{cost(model).multiply_adds:,} multiply-adds per image by real edges and live nodes; useful: "
               "twice as many operations,\nwhatever else is computed; speed-up and difference: against the "
               "dense backend")
    if "compiled" not in speeds:
        click.echo("a model in continuous time cannot be compiled")
    click.echo(", ".join(f"{name} {value}" for name, value in environment().items()))
    if path is not None:
        fast = compile(model, storage=kept)
        fast.save(path)
        click.echo(f"{path}: the compiled model")
