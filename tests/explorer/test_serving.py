"""The server that a page asks for what a run has written since."""

import json
import threading
import urllib.error
import urllib.request

import pytest

from neuralgraph.errors import InputError
from neuralgraph.explorer.serving import serve


def test_a_server_answers_this_machine_alone(run):
    server = serve(run)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        assert server.server_address[0] == "127.0.0.1"
        content = (run / "wiring.history").read_bytes()
        assert urllib.request.urlopen(f"{address}/history?from=100").read() == content[100:]
        assert json.load(urllib.request.urlopen(f"{address}/history/metrics"))[1]["epoch"] == 2
        for path, headers, code in (("/../recipe.json", {}, 404), ("/", {"Host": "evil.example"}, 403)):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(urllib.request.Request(address + path, headers=headers))
            assert caught.value.code == code
        with pytest.raises(InputError, match="cannot listen on port"):
            serve(run, server.server_port)
    finally:
        server.shutdown()
        server.server_close()
