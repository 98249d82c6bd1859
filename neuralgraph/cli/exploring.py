"""The command explore."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import InputError
from ..explorer import explore as make
from ..explorer.serving import serve


def explore(sources: tuple[Path, ...], out: Path | None, live: bool, port: int | None) -> None:
    if not live:
        if port is not None:
            raise InputError("--port belongs to --live; a file needs none.")
        path = out or Path(f"{sources[0].resolve().stem}.html")
        made = make(*sources, out=path)
        click.echo(f"{path}: {len(made.html) / 1e6:.1f} MB; open it in a browser.")
        return
    if len(sources) != 1 or out is not None:
        raise InputError("--live follows one run and writes no file: leave the others and --out away.")
    server = serve(sources[0], port or 0)
    click.echo(f"http://127.0.0.1:{server.server_port}/ follows {sources[0]} while it trains; Ctrl-C ends it.")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        click.echo()
    finally:
        server.server_close()
