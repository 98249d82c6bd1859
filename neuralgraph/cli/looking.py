"""The commands inspect and export."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from ..analysis import TABLE_3, block_counts, cost, dead_nodes, degrees, longest_path, micronet_score
from ..errors import InputError, listed, lookup
from ..export import export_onnx
from ..layers import summary
from ..layers.sparse import sparse_layers
from ..models import Classifier
from ..training import Recipe, open_model
from ..wiring import Wiring, read, write
from ..wiring.files import FORMATS
from ..wiring.wiring import ROLES


def inspect(source: Path) -> None:
    if source.is_dir():
        recipe, model, progress = open_model(source)
        click.echo(f"{recipe.name}, selector {recipe.selector}, after {progress.epoch} of "
                   f"{recipe.epochs} epochs")
        for number, (network, size) in enumerate(zip(model.networks, _map_sizes(model))):
            if len(model.networks) > 1:
                click.echo(f"\nnetwork {number + 1}")
            _describe(network.learned_wiring(), candidates=network.wiring.num_edges)
            price = cost(network, *size)
            click.echo(f"cost           {price.multiply_adds:,} multiply-adds on {size[0]}x{size[1]} "
                       f"maps, {price.parameters:,} parameters (edges and kernels of live nodes)")
        if sparse_layers(model):
            click.echo(f"\n{summary(model)}")
        _print_cost(recipe, model)
    elif source.is_file():
        _describe(read(source), candidates=None)
    else:
        raise InputError(f"there is neither a run nor a file {source}.")


def export(folder: Path, format_: str, live_only: bool, normalise: bool, out: Path) -> None:
    lookup("format", format_, {**FORMATS, "onnx": None})
    if normalise and format_ != "onnx":
        raise InputError(f"--normalise belongs to --format onnx; a {format_} file takes no images.")
    if live_only and format_ != "dot":
        raise InputError(f"--live-only belongs to --format dot; a {format_} file holds the whole wiring.")
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} does not exist.")
    _, model, _ = open_model(folder)
    networks = model.networks
    if format_ == "onnx":
        export_onnx(model, out, normalise=normalise)
        click.echo(f"{out}: the whole model, {'bytes of ' if normalise else ''}images ({model.in_channels}, "
                   f"{model.image_size}, {model.image_size}) to logits, {model.num_real_edges} edges")
        return
    if not networks:
        raise InputError("this run's model has ordinary layers only, no wiring to write; --format onnx writes all of it.")
    for number, network in enumerate(networks):
        path = out if len(networks) == 1 else out.with_stem(f"{out.stem}-{number + 1}")
        wiring = network.learned_wiring()
        try:
            write(wiring, path, format_, live_only=live_only)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error
        nodes = len(torch.cat([wiring.src, wiring.dst]).unique()) if live_only else wiring.num_nodes
        click.echo(f"{path}: {nodes} nodes, {wiring.num_edges} edges")


def _print_cost(recipe: Recipe, model: Classifier) -> None:
    live, whole = cost(model), cost(model, skip_dead=False)
    size = model.image_size
    click.echo(f"\nmodel on {size}x{size} images        live nodes   all nodes")
    for title, value in (("multiply-adds", "multiply_adds"),
                         ("parameters (authors' count)", "parameters"),
                         ("  with norms and biases", None), ("  stored, with indices", "stored_words")):
        pair = [c.parameters + c.norms_and_biases if value is None else getattr(c, value)
                for c in (live, whole)]
        click.echo(f"{title:28} {pair[0]:>13,} {pair[1]:>11,}")
    stored = live.parameters + live.norms_and_biases + live.mask_words
    score = micronet_score(stored, live.multiply_adds, live.multiply_adds)
    click.echo(f"MicroNet score (ImageNet)    {score:>13.4f}")
    if recipe.model.startswith("mobilenet"):
        click.echo("the paper's Table 3 (ImageNet)      top-1 %  parameters (M)  multiply-adds (M)")
        for name, (accuracy, parameters, adds) in TABLE_3.items():
            click.echo(f"  {name:32} {accuracy:>8} {parameters:>15} {adds:>18}")


def _describe(wiring: Wiring, candidates: int | None) -> None:
    inward, outward = degrees(wiring)
    dead = dead_nodes(wiring)
    roles = ", ".join(f"{int((wiring.role == code).sum())} {name}" for code, name in enumerate(ROLES))
    click.echo(f"nodes          {wiring.num_nodes} ({roles})")
    share = f" of {candidates} candidates ({100 * wiring.num_edges / candidates:.2f} %)" \
        if candidates else ""
    click.echo(f"edges          {wiring.num_edges}{share}")
    if wiring.weight is not None and len(wiring.weight):
        size = wiring.weight.abs()
        click.echo(f"|weight|       {size.min():.3e} (threshold) to {size.max():.3e}, "
                   f"median {size.median():.3e}")
    click.echo(f"dead nodes     {dead.count} ({int(dead.no_in.sum())} without in-edge, "
               f"{int(dead.no_out.sum())} without out-edge)")
    for name, degree, counts in (("in-degree", inward, wiring.role != 1),
                                 ("out-degree", outward, wiring.role != 2)):
        degree = degree[counts].float()
        click.echo(f"{name:14} mean {degree.mean():.1f}, median {degree.median():.0f}, "
                   f"largest {degree.max():.0f}")
    path = longest_path(wiring)
    click.echo(f"longest path   {'none: the graph has cycles' if path is None else f'{path} edges'}")
    counts = block_counts(wiring)
    blocks = sorted({block for pair in counts for block in pair})
    if len(blocks) <= 12:
        click.echo("edges from block (row) to block (column)")
        click.echo("      " + "".join(f"{block:>8}" for block in blocks))
        for row in blocks:
            click.echo(f"{row:>6}" + "".join(f"{counts.get((row, column), 0) or '.':>8}"
                                             for column in blocks))
    else:
        click.echo(f"blocks         {len(blocks)} ({listed(blocks)})")


@torch.no_grad()
def _map_sizes(model: Classifier) -> list[tuple[int, int]]:
    """The size of the maps at the inputs of each network."""
    sizes = []
    hooks = [network.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape[2:])))
             for network in model.networks]
    model(torch.zeros(1, model.in_channels, model.image_size, model.image_size))
    for hook in hooks:
        hook.remove()
    return sizes
