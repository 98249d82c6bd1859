"""The command reproduce."""

from __future__ import annotations

from pathlib import Path

import click

from ..training import Interrupted, keep_freed_memory
from ..training.reproduce import Reproduction
from .reporting import print_table
from .training import Display, given_settings


def reproduce(table: str, data: str, epochs: int | None, seeds: int, rows: str | None, out: Path | None,
              settings: tuple[str, ...], device: str, workers: int | None) -> None:
    keep_freed_memory()
    plan = Reproduction(table, out or Path("runs", table), data, epochs=epochs, seeds=seeds,
                        rows=rows and [name.strip() for name in rows.split(",")],
                        settings=given_settings(settings))
    click.echo(f"{table}, {plan.schedule}, {seeds} seeds, in {plan.out}")
    display = Display()
    result = None
    try:
        for result in plan.run(display, device=device, workers=workers):
            row, run = result["newest"]
            click.echo(f"{row}, seed {run['seed']}: test accuracy {run['last']:.2f} % (best "
                       f"{run['best']:.2f} %) after {run['epochs']} epochs\n"
                       if run["epochs"] else f"{row}, seed {run['seed']}: no epochs\n")
    except (Interrupted, KeyboardInterrupt) as stop:
        display.close()
        click.echo(f"{stop or 'stopped'}\nThe same command goes on from there.", err=True)
        raise SystemExit(130) from None
    finally:
        display.close()
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


def spread_text(numbers: dict) -> str:
    """Mean and standard deviation, or as much of it as there is.

    >>> spread_text({"mean": 80.94, "std": 0.6}), spread_text({"mean": 80.94, "std": None})
    ('80.9 ± 0.6', '80.9')
    """
    if numbers["mean"] is None:
        return "-"
    return f"{numbers['mean']:.1f}" + ("" if numbers["std"] is None else f" ± {numbers['std']:.1f}")
