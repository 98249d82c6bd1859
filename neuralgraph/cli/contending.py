"""The command arena."""

from __future__ import annotations

from pathlib import Path

import click

from ..analysis import plots
from ..errors import MissingPackageError
from ..training import keep_freed_memory
from ..training.arena import RESULT, Arena
from .reporting import going_on, print_table, run_text, spread_text
from .training import Display, given_settings, recipe_named


def arena(recipe: str, *, selectors: str, k: int | None, density: float | None, seeds: int, epochs: int | None,
          data: str | None, on: str, out: Path | None, settings: tuple[str, ...], ray: str | None, device: str,
          workers: int | None, jobs: int, threads: int | None) -> None:
    keep_freed_memory()
    chosen = recipe_named(recipe)
    plan = Arena(chosen, selectors, out or Path("runs", f"arena-{chosen.name}"), data=data, epochs=epochs, k=k,
                 density=density, seeds=seeds, on=on, settings=given_settings(settings), name=recipe)
    click.echo(f"arena of {recipe}: {len(plan.contenders)} contenders, {seeds} seeds, {plan.plain.epochs} epochs, in "
               f"{plan.out}")
    display, result = Display(), None
    try:
        with going_on(display):
            for result in plan.run(display, device=device, workers=workers, jobs=jobs, threads=threads,
                                   ray=True if ray == "" else ray):
                display.say(run_text(*result["newest"]))
                _print_table(result, display)
    finally:
        if result is not None:
            _print_end(result, plan)


def _print_table(result: dict, display: Display) -> None:
    """The result so far."""
    first = result["baseline"]
    cells = [[result["recipe"], "test %", f"against {first}", "k", "multiply-adds", "dead", "ms/step", "runs"]]
    for row in result["contenders"]:
        cells.append([row["label"], spread_text(row["last"], 2), _difference(row["difference"]), _whole(row["k"]),
                      _whole(row["multiply_adds"]), _whole(row["dead_nodes"]), _milliseconds(row["step_seconds"]),
                      _runs(row["runs"], len(result["seeds"]))])
    display.close()
    print_table(cells)
    click.echo()


def _print_end(result: dict, plan: Arena) -> None:
    data = result["data"]
    how = {(run["timed"]["side_by_side"], run["timed"]["threads"]) for row in result["contenders"]
           for run in row["runs"] if run["timed"]}
    at_once = ", ".join(f"{runs} run{'s side by side' if runs > 1 else ' at a time'} on {threads} thread"
                        f"{'s' if threads > 1 else ''}" for runs, threads in sorted(how)) or "not known how"
    click.echo(f"test %: mean ± standard deviation after {result['epochs']} epochs on {data['name']} over the seeds; "
               "against: the mean paired\ndifference in points with its 95 % bootstrap interval (too narrow for few "
               "seeds); k, multiply-adds, dead: means,\nreached; ms/step: median, measured with " + at_once
               + f"\nsaved in {plan.out / RESULT}")
    try:
        path = plan.out / "arena.png"
        plots.arena(result).savefig(path)
        click.echo(f"drawn in {path}")
    except MissingPackageError as error:
        click.echo(f"no picture: {error}")


def _difference(numbers: dict | None) -> str:
    """A mean with its interval.

    >>> _difference({"mean": -6.13, "low": -6.5, "high": -5.8, "seeds": 5})
    '-6.13 [-6.50, -5.80]'
    """
    if numbers is None:
        return "-"
    interval = "" if numbers["low"] is None else f" [{numbers['low']:+.2f}, {numbers['high']:+.2f}]"
    return f"{numbers['mean']:+.2f}{interval}"


def _whole(numbers: dict | None) -> str:
    return "-" if numbers is None else f"{numbers['mean']:,.0f}"


def _milliseconds(numbers: dict) -> str:
    return "-" if numbers["mean"] is None else f"{1e3 * numbers['mean']:.1f}"


def _runs(runs: list[dict], seeds: int) -> str:
    failed = sum(run["failure"] is not None for run in runs)
    return f"{len(runs)}/{seeds}" + (f", {failed} failed" if failed else "")
