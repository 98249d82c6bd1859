"""The command reproduce."""

from __future__ import annotations

from pathlib import Path

import click

from ..training import keep_freed_memory
from ..training.reproduce import Reproduction
from .reporting import going_on, print_table, run_text, spread_text
from .training import Display, given_settings


def reproduce(table: str, data: str, epochs: int | None, seeds: int, rows: str | None, out: Path | None,
              settings: tuple[str, ...], device: str, workers: int | None, jobs: int, threads: int | None) -> None:
    keep_freed_memory()
    plan = Reproduction(table, out or Path("runs", table), data, epochs=epochs, seeds=seeds,
                        rows=rows and [name.strip() for name in rows.split(",")],
                        settings=given_settings(settings))
    click.echo(f"{table}, {plan.schedule}, {seeds} seeds, in {plan.out}")
    display = Display()
    result = None
    with going_on(display):
        for result in plan.run(display, device=device, workers=workers, jobs=jobs, threads=threads):
            display.say(run_text(*result["newest"]) + "\n")
    assert result is not None  # a table has rows
    _print_result(result, plan)


def _print_result(result: dict, plan: Reproduction) -> None:
    title = result["table"] + (" (reduced schedule)" if result["is_reduced"] else "")
    cells = [[title, "last %", "best %", "paper %"]]
    for row in result["rows"]:
        cells.append([row["title"], spread_text(row["last"]), spread_text(row["best"]),
                      spread_text(row["paper"])])
    print_table(cells)
    click.echo(f"mean ± standard deviation of the test accuracy over {len(result['seeds'])} seeds; the "
               f"paper's over 5 runs on CIFAR-10\n"
               f"this table: {result['data']['name']}, {result['schedule']}\n"
               f"saved in {plan.out / (plan.table + '.json')}")
