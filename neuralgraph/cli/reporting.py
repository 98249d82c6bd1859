"""The command report."""

from __future__ import annotations

from pathlib import Path

import click

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


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(59.4), duration(3725)
    ('59 s', '1 h 02 min')
    """
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
