"""A page that follows a run while it trains, for this machine alone."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from ..errors import CheckpointError, InputError
from .page import finite, page
from .sources import Source, live_source, metrics_of

LARGEST = 2**26  # bytes of a history sent at once


def serve(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of one page, on 127.0.0.1: the run in ``folder``, followed while it trains.

    Call ``serve_forever()`` of what is returned, whose ``server_port`` is the port.

    Args:
        folder: of a run that records its history.
        port: 0 for any that is free.

    Raises:
        InputError: if the port is in use, or there is no history to follow.
    """
    source = live_source(folder)
    html = page([source], ["history"]).encode()
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {
            "html": html, "source": source, "folder": folder}))
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on port {port} of 127.0.0.1: {getattr(error, 'strerror', None) or error}; choose "
                         "another with --port, or none for any that is free.") from error
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    html: bytes
    source: Source
    folder: Path

    def do_GET(self):
        address = urlsplit(self.path)
        if self.headers.get("Host", "").rpartition(":")[0] not in ("127.0.0.1", "localhost"):
            self.send_error(403)  # another site's name that leads here
        elif address.path == "/":
            self._answer("text/html; charset=utf-8", self.html)
        elif address.path == "/history":
            self._answer("application/octet-stream", self._history(address.query))
        elif address.path == "/history/metrics":
            try:
                rows = metrics_of(self.folder)
            except CheckpointError:
                rows = self.source.metrics
            self._answer("application/json", json.dumps([finite(row) for row in rows]).encode())
        else:
            self.send_error(404)

    def _history(self, query: str) -> bytes:
        first = parse_qs(query).get("from", ["0"])[0]
        assert self.source.path is not None  # of what is followed
        with self.source.path.open("rb") as file:
            file.seek(int(first) if first.isdecimal() else 0)
            return file.read(LARGEST)

    def _answer(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        """Nothing: requests come every second."""
