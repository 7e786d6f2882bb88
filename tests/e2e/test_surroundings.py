"""What the daemon takes from the host around it: as many open files as it may have, and keys that stand in files."""

from __future__ import annotations

import contextlib
import http.server
import json
import resource
import threading
from collections.abc import Iterator

import psutil

from tests.daemons import Daemon
from tests.e2e.fleets import ready, write

FEW = 128
"""Open files; fewer than a host's usual 1024, enough for a test."""


@contextlib.contextmanager
def few_open_files() -> Iterator[int]:
    """A low soft limit for what is started meanwhile; gives the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_daemon_may_open_as_many_files_as_the_host_allows(daemon: Daemon) -> None:
    write(daemon)
    with few_open_files() as hard:
        daemon.up()
    assert daemon.process is not None
    assert psutil.Process(daemon.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)


class _Remote(http.server.BaseHTTPRequestHandler):
    """A server elsewhere: it lists a model, and remembers who calls."""

    keys: list[str | None]

    def _reply(self, value: object) -> None:
        self.keys.append(self.headers.get("Authorization"))
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self._reply({"object": "list", "data": [{"id": "m", "object": "model"}]})

    def do_POST(self) -> None:
        self._reply({"choices": []})

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@contextlib.contextmanager
def remote() -> Iterator[tuple[int, list[str | None]]]:
    """Its port, and the keys that callers sent so far."""
    keys: list[str | None] = []
    handler = type("Remote", (_Remote,), {"keys": keys})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, keys
        finally:
            server.shutdown()
            thread.join()


def test_an_external_servers_key_is_the_first_line_of_its_file(daemon: Daemon) -> None:
    key = daemon.folder / "key"
    key.write_text("key-from-a-file-of-its-own  \nnot this\n")
    with remote() as (port, keys):
        options = f'{{url: "http://127.0.0.1:{port}/v1", model: m, api_key: {{file: {key}}}}}'
        write(daemon, f"  far:\n    backend_type: external\n    backend_options: {options}")
        daemon.up()
        ready(daemon, "far")
        code, body = daemon.request("POST", "/v1/completions", {"model": "far", "prompt": "x"}, {"X-API-Key": "mine"})
    assert code == 200, body
    assert keys[-1] == "Bearer key-from-a-file-of-its-own"
    assert "key-from-a-file" not in daemon.output.read_text() + daemon.get("/api/v1/status")[1]
