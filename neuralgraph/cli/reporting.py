"""The command report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from ..training import Interrupted, ProgressBar
from ..training.report import compare, draw, read_records

COLUMNS = (  # key in a line of the table, title, form
    ("run", "run", "{}"), ("epochs", "epochs", "{}"), ("best", "best %", "{:.2f}"),
    ("last", "last %", "{:.2f}"), ("loss", "loss", "{:.4f}"), ("k", "k", "{:,}"),
    ("multiply_adds", "multiply-adds", "{:,}"), ("dead_nodes", "dead", "{}"),
)


def report(folders: tuple[Path, ...], out: Path | None) -> None:
    records = read_records(folders)
    lines = compare(records)
    cells = [[title for _, title, _ in COLUMNS] + ["training"]]
    for line in lines:
        cells.append(["-" if line[key] is None else shape.format(line[key]) for key, _, shape in COLUMNS]
                     + [duration(line["seconds"])])
    print_table(cells)
    click.echo("best and last: test accuracy; loss: of the test images; training: without evaluation")
    for record in records:
        if record.missing:
            click.echo(f"{record.name}: {record.missing}")
    if out is not None:
        for path in draw(records, out):
            click.echo(f"{path}")


def print_table(cells: list[list[str]]) -> None:
    """Columns as wide as their widest cell; the first is text, the others are numbers."""
    widths = [max(map(len, column)) for column in zip(*cells)]
    for row in cells:
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        click.echo("  ".join([row[0].ljust(widths[0]), *rest]))


@contextlib.contextmanager
def going_on(display: ProgressBar) -> Iterator[None]:
    """Around many runs: closes the bar, and says how to go on if they are stopped."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stop:
        display.close()
        click.echo(f"{stop or 'stopped'}\nThe same command goes on from there.", err=True)
        raise SystemExit(130) from None
    finally:
        display.close()


def run_text(name: str, run: dict) -> str:
    """One line about a run."""
    title = f"{name}, seed {run['seed']}: "
    if run["failure"]:
        return f"{title}failed in epoch {run['epochs'] + 1}: {run['failure']}"
    if not run["epochs"]:
        return f"{title}no epochs"
    return f"{title}test accuracy {run['last']:.2f} % (best {run['best']:.2f} %) after {run['epochs']} epochs"


def spread_text(numbers: dict, digits: int = 1) -> str:
    """Mean and standard deviation, or as much of it as there is.

    >>> spread_text({"mean": 80.94, "std": 0.6}), spread_text({"mean": 80.94, "std": None})
    ('80.9 ± 0.6', '80.9')
    """
    if numbers["mean"] is None:
        return "-"
    return f"{numbers['mean']:.{digits}f}" + ("" if numbers["std"] is None else f" ± {numbers['std']:.{digits}f}")


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(59.4), duration(3725)
    ('59 s', '1 h 02 min')
    """
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
