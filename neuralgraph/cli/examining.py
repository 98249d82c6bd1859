"""The command doctor."""

from __future__ import annotations

import sys

import click

from ..doctor import examine


def doctor() -> None:
    part, failing = "", 0
    for finding in examine():
        if finding.part != part:
            part = finding.part
            click.echo(f"{'' if part == 'python' else chr(10)}{part}")
        click.echo(f"  {finding.name:18}  {finding.text}")
        failing += finding.fails
    click.echo(f"\n{failing} of these fail" if failing else "\nall that is installed works")
    if failing:
        sys.exit(1)
