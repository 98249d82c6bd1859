"""The command line. Commands parse and print; what they do is done elsewhere.

Nothing here imports PyTorch until a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .._version import __version__
from ..errors import NeuralGraphError
from .completing import BACKEND, FORMAT, RECIPE


class Commands(click.Group):
    """Turns the library's own errors into one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NeuralGraphError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)
        except BrokenPipeError:  # the reader of a pipe has seen enough
            sys.stderr.close()
            ctx.exit(0)
        except OSError as error:  # a file that may not be read, a disk that fails
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main():
    """Neural networks that are graphs: train a wiring, look at it, take it away."""


def run_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """The folder of a run, given to the command as a Path."""
    return click.argument("run", type=click.Path(path_type=Path))(function)


def with_threads(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option --threads for commands that compute."""

    @click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default all cores.")
    @functools.wraps(function)
    def command(*args, threads, **kwargs):
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        return function(*args, **kwargs)

    return command


def with_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options --device and --workers for commands that read images."""

    @click.option("--device", metavar="cpu|cuda|cuda:N", default="auto",
                  help="Default: a GPU if there is one.")
    @click.option("--workers", type=click.IntRange(min=0),
                  help="Processes that decode images; default one per processor, at most 8.")
    @functools.wraps(function)
    def command(*args, **kwargs):
        return function(*args, **kwargs)

    return command


def with_jobs(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options --jobs and --threads for commands that make many runs."""

    @click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True,
                  help="How many runs at a time, each in a process of its own.")
    @click.option("--threads", type=click.IntRange(min=1),
                  help="CPU threads of each run; default all cores, divided among the jobs.")
    @functools.wraps(function)
    def command(*args, **kwargs):
        return function(*args, **kwargs)

    return command


@main.command()
def doctor():
    """What is installed, and whether every backend and compiled inference work on this machine.

    The exit status is 1 if something that is installed fails.
    """
    from . import examining

    examining.doctor()


@main.command()
@click.argument("recipe", required=False, shell_complete=RECIPE)
def recipes(recipe):
    """List what can be trained, or every setting of RECIPE: its value, type and meaning."""
    from . import training

    training.recipes(recipe)


@main.command()
@click.argument("recipe", shell_complete=RECIPE)
@click.option("--data", metavar="NAME|PATH",
              help="Images: digits (embedded), a folder of class folders, CIFAR-10's archive, a .npz.")
@click.option("--epochs", type=click.IntRange(min=0), help="Passes over the training images.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="Change a setting, as `neuralgraph recipes RECIPE` lists them; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; default runs/RECIPE.")
@click.option("--resume", is_flag=True,
              help="Continue the run in --out, or the latest one of the recipe.")
@click.option("--accept-changes", is_flag=True,
              help="Let --resume go on although settings or images differ.")
@click.option("--check-ranks", is_flag=True,
              help="Under torchrun: compare the real edges of all processes after every step.")
@with_place
@with_threads
def train(recipe, data, epochs, settings, out, resume, accept_changes, device, workers, check_ranks):
    """Train RECIPE and keep everything in a folder.

    RECIPE is a name of `neuralgraph recipes`, a JSON file, or the folder of a run: its recipe again.

    Several processes or machines: torchrun --nproc-per-node N -m neuralgraph train RECIPE ...
    """
    from . import training

    training.train(recipe, data, epochs, settings, out, resume, accept_changes, device, workers,
                   check_ranks)


@main.command()
@run_argument
@click.option("--backend", shell_complete=BACKEND,
              help="Compute the sums over edges this way (dense, sparse, dgl, auto) instead of the recipe's.")
@with_place
@with_threads
def evaluate(run, backend, device, workers):
    """Test accuracy of the run in folder RUN."""
    from . import training

    training.evaluate(run, backend, device, workers)


@main.command()
@click.argument("source", metavar="RUN|MODEL.ng", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True,
              help="How many classes to name for each image.")
@with_threads
def predict(source, images, top):
    """The likeliest classes of images, by a run or a compiled model.

    An IMAGE is a file, or a folder with images below it.
    """
    from . import predicting

    predicting.predict(source, images, top)


@main.command()
@click.argument("source", metavar="RUN|FILE", type=click.Path(path_type=Path))
def inspect(source):
    """Edges, dead nodes, degrees, paths and cost of a run or of an exported wiring."""
    from . import looking

    looking.inspect(source)


@main.command()
@run_argument
@click.option("--format", "format_", required=True, metavar="FORMAT", shell_complete=FORMAT,
              help="graphml, gexf, dot, json (node-link), or onnx: the whole model.")
@click.option("--live-only", is_flag=True, help="dot: leave out the nodes without edges.")
@click.option("--normalise", is_flag=True, help="onnx: let the file take bytes and normalise them itself.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
def export(run, format_, live_only, normalise, out):
    """Write the learned wiring of RUN, with roles, blocks, kernels and weights."""
    from . import looking

    looking.export(run, format_, live_only, normalise, out)


@main.command()
@run_argument
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Images at once.")
@click.option("--rounds", type=click.IntRange(min=2), default=9, show_default=True,
              help="How often each way takes its turn.")
@click.option("--save", "path", type=click.Path(path_type=Path), metavar="FILE",
              help="Keep the compiled model; neuralgraph.inference.load reads it.")
@click.option("--storage", type=click.Choice(["float16", "bfloat16"]),
              help="Also compiled with maps in 16 bits, which --save then keeps.")
@with_threads
def benchmark(run, batch, rounds, path, storage):
    """Milliseconds of RUN's model by every backend and compiled, beside its multiply-adds."""
    from . import timing

    timing.benchmark(run, batch, rounds, path, storage)


@main.command()
@click.argument("sources", nargs=-1, required=True, metavar="RUN [RUN]", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="The HTML file; default NAME.html.")
@click.option("--live", is_flag=True, help="Follow a run while it trains, at an address of this machine alone.")
@click.option("--port", type=click.IntRange(0, 65535), help="live: the port; default any that is free.")
@click.option("--attributions", is_flag=True, help="Also how much edges and nodes add to each class, by test images.")
@click.option("--circuits", is_flag=True, help="The same, and the smallest part that keeps each class; takes minutes.")
@click.option("--images", type=click.IntRange(min=1), help="Test images for these.  [default: 500]")
@click.option("--null-models", is_flag=True, help="Also how statistics of the wiring compare with random ones.")
def explore(sources, out, live, port, attributions, circuits, images, null_models):
    """Show how the wiring of RUN formed, or of two side by side, in a browser."""
    from . import exploring

    exploring.explore(sources, out, live, port, attributions, circuits, null_models, images)


@main.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...",
                type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Draw learning curves, wirings and histograms into it, as PNG.")
def report(runs, out):
    """Compare runs in a table, and draw them."""
    from . import reporting

    reporting.report(runs, out)


@main.command()
@click.argument("recipe", shell_complete=RECIPE)
@click.option("--selectors", required=True, metavar="NAME,NAME...",
              help="Contenders; the first is what the others are compared with. Options: rigl:every=50:drop=0.5, "
                   "a name for it: often=rigl:every=10.")
@click.option("--k", type=click.IntRange(min=0), help="Number of real edges; default the recipe's.")
@click.option("--density", type=float, help="The same as a share of the candidates.")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="How many, from 0.")
@click.option("--epochs", type=click.IntRange(min=0), help="Passes over the training images.")
@click.option("--data", metavar="NAME|PATH", help="Images, as for `neuralgraph train`.")
@click.option("--on", type=click.Choice(["graph", "layers"]), default="graph", show_default=True,
              help="layers: the model tiny-convnet, of sparse layers, instead of the recipe's.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the runs; default runs/arena-RECIPE.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="Change a setting of all contenders; may be repeated.")
@click.option("--ray", is_flag=False, flag_value="", metavar="[ADDRESS]",
              help="Make the runs on a Ray cluster, without ADDRESS on the one at hand or a new one here.")
@with_jobs
@with_place
def arena(recipe, **options):
    """Compare ways to choose the edges of RECIPE: equal k, epochs, initial weights and order of images.

    Stopped or killed, the same command goes on where it was.
    """
    from . import contending

    contending.arena(recipe, **options)


@main.command()
@click.argument("table", metavar="table1|table2")
@click.option("--data", required=True, metavar="NAME|PATH", help="CIFAR-10: its archive or a folder.")
@click.option("--epochs", type=click.IntRange(min=0),
              help="Instead of the paper's 160; steps of the learning rate keep their share.")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True,
              help="How many, from 0.")
@click.option("--rows", metavar="ROW,ROW...", help="Only these, and those they start from.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the runs; default runs/TABLE.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="Change a field of all recipes; may be repeated.")
@with_jobs
@with_place
def reproduce(table, data, epochs, seeds, rows, out, settings, device, workers, jobs, threads):
    """Run the rows of a table of the paper, and print them beside its numbers.

    Stopped or killed, the same command goes on where it was.
    """
    from . import reproducing

    reproducing.reproduce(table, data, epochs, seeds, rows, out, settings, device, workers, jobs, threads)
