"""The command explore."""

from __future__ import annotations

from pathlib import Path

import click

from ..analysis import attribution, circuit, null_model
from ..data import training_order
from ..errors import InputError
from ..explorer import explore as make
from ..explorer.serving import serve
from ..training import Run, open_model
from ..training.folder import last_round

CHANCE = ("feed-forward-loops", "bi-fans", "clustering", "distance", "assortativity", "rich-club")


def explore(sources: tuple[Path, ...], out: Path | None, live: bool, port: int | None, attributions: bool,
            circuits: bool, null_models: bool, images: int | None) -> None:
    by_class = attributions or circuits
    if images is not None and not by_class:
        raise InputError("--images belongs to --attributions and --circuits.")
    if not live:
        if port is not None:
            raise InputError("--port belongs to --live; a file needs none.")
        if (by_class or null_models) and len(sources) != 1:
            raise InputError("--attributions, --circuits and --null-models belong to one model: explore one run.")
        path = out or Path(f"{sources[0].resolve().stem}.html")
        made = make(*sources, out=path, **_classes(sources[0], images or 500, circuits) if by_class else {},
                    null_models=_chance(sources[0]) if null_models else None)
        click.echo(f"{path}: {len(made.html) / 1e6:.1f} MB; open it in a browser.")
        return
    if len(sources) != 1 or out is not None or by_class or null_models:
        raise InputError("--live follows one run and writes no file: leave the others, --out, --attributions, --circuits "
                         "and --null-models away.")
    server = serve(sources[0], port or 0)
    click.echo(f"http://127.0.0.1:{server.server_port}/ follows {sources[0]} while it trains; Ctrl-C ends it.")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        click.echo()
    finally:
        server.server_close()


def _classes(folder: Path, number: int, with_circuits: bool) -> dict:
    """Attributions, and circuits if asked for, of every class of a run, by so many of its test images."""
    _check_run(folder)
    run = Run.open(last_round(folder), workers=0)
    chosen = training_order(run.data.num_test, seed=0, epoch=0)[:number].sort().values
    pixels, labels = next(iter(run.data.test_batches([chosen])))
    samples = run.data.normalise(pixels), labels.long()
    found: dict[str, dict] = {"attributions": {}, "circuits": {}}
    for label, name in enumerate(map(str, run.data.classes)):
        try:
            found["attributions"][name] = attribution(run.model, *samples, label=label)
            if with_circuits:
                found["circuits"][name] = circuit(run.model, *samples, label=label)
                click.echo(f"{name}: {found['circuits'][name]}")
        except InputError as error:
            click.echo(f"{name}: {error}")
    return found


def _chance(folder: Path) -> dict:
    """Statistics of the wiring of a run against random wirings of the same degrees and numbers of edges between blocks."""
    _check_run(folder)
    networks, found = open_model(folder)[1].networks, {}
    for number, network in enumerate(networks):
        for statistic in CHANCE:
            name = statistic if len(networks) == 1 else f"graph {number + 1}: {statistic}"
            try:
                found[name] = null_model(network, statistic, samples=50, kind="blocks")
            except InputError as error:
                click.echo(f"{name}: {error}")
    return found


def _check_run(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"--attributions, --circuits and --null-models need the folder of a run, got {folder}.")
