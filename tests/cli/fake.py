"""A small real HTTP server that speaks the daemon's contract, scripted by the test; and the command line run in this process."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "s3cret-management-key"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; an iterator as body is sent chunked, and a chunk of None cuts the connection."""

    body: object = b""
    status: int = 200
    type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Reply]


def problem(status: int, detail: str, **more: object) -> Reply:
    """A problem document."""
    body = {"type": "about:blank", "title": "no", "status": status, "detail": detail, **more}
    return Reply(body, status, "application/problem+json")


class _Server(ThreadingHTTPServer):
    """A client that leaves in the middle is what some tests are about, and no news."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # passed on as it came


class FakeDaemon:
    """Answers from ``routes`` (``"METHOD /path"``); everything it was asked is in ``requests``."""

    def __init__(self) -> None:
        self.routes: dict[str, Handler] = {}
        self.requests: list[Request] = []
        self.key: str | None = None
        """Demanded when set."""
        daemon = self

        class Answering(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                daemon._answer(self)

            do_GET = do_POST = do_PUT = do_DELETE = _any

            def log_message(self, format: str, *args: Any) -> None:
                """Tests are quiet."""

        self._server = _Server(("127.0.0.1", 0), Answering)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> FakeDaemon:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering; twice is fine."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def on(self, route: str, *replies: object) -> None:
        """Answer a route by these in turn, the last one for good; anything but a Reply is sent as JSON."""
        left = list(replies)

        def handler(_: Request) -> Reply:
            reply = left.pop(0) if len(left) > 1 else left[0]
            return reply if isinstance(reply, Reply) else Reply(reply)

        self.routes[route] = handler

    def asked(self, route: str) -> list[Request]:
        """The requests of a route."""
        return [each for each in self.requests if f"{each.method} {each.path}" == route]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        length = int(handler.headers.get("Content-Length") or 0)
        request = Request(
            handler.command,
            parts.path,
            {key: values[-1] for key, values in parse_qs(parts.query).items()},
            dict(handler.headers.items()),
            handler.rfile.read(length),
        )
        self.requests.append(request)
        route = self.routes.get(f"{request.method} {request.path}")
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            reply = problem(401, "this needs a management key")
        else:
            reply = route(request) if route is not None else problem(404, f"there is no {request.path}")
        _send(handler, reply)


def _send(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    body = reply.body
    if isinstance(body, str):
        body = body.encode()
    elif not isinstance(body, bytes | Iterator):
        body = json.dumps(body).encode()
    handler.send_response(reply.status)
    handler.send_header("Content-Type", reply.type)
    for name, value in reply.headers.items():
        handler.send_header(name, value)
    if isinstance(body, bytes):
        if "Content-Length" not in reply.headers:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = handler.close_connection or "Content-Length" in reply.headers
        return
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for chunk in body:
        if chunk is None:
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        handler.wfile.flush()
    handler.wfile.write(b"0\r\n\r\n")


def replica(name: str, *, pid: int = 100, revision: str = "aaa", phase: str = "ready") -> dict[str, object]:
    """A replica of a status."""
    return {
        "name": name,
        "pid": pid,
        "port": 8100,
        "revision": revision,
        "phase": phase,
        "adopted": False,
        "started_at": "2026-01-01T00:00:00.000Z",
        "restarts": 0,
        "in_flight": 0,
        "degraded": [],
    }


def instance(name: str, **more: object) -> dict[str, object]:
    """A ready instance of a status, changed by ``more``."""
    return {
        "name": name,
        "backend_type": "simulator",
        "state": "running",
        "phase": "ready",
        "ready": True,
        "revision": "aaa",
        "generation": 1,
        "observed_generation": 1,
        "replicas": [replica(f"{name}#1")],
        "restarts": 0,
        "last_exit": None,
        "conditions": [],
        "next_action": None,
        "aliases": [],
        "warnings": [],
    } | more


def starting(name: str, generation: int = 2, **more: object) -> dict[str, object]:
    """An instance on its way to a new revision, the old one still serving."""
    replicas = [replica(f"{name}#1"), replica(f"{name}#2", pid=200, revision="bbb", phase="starting")]
    new = {"revision": "bbb", "generation": generation, "observed_generation": generation - 1, "replicas": replicas}
    return instance(name, **(new | more))


def arrived(name: str, generation: int = 2) -> dict[str, object]:
    """The same instance once it is there."""
    replicas = [replica(f"{name}#2", pid=200, revision="bbb")]
    return instance(name, revision="bbb", generation=generation, observed_generation=generation, replicas=replicas)


def stalled(name: str, *, tail: tuple[str, ...] = ("CUDA out of memory",)) -> dict[str, object]:
    """An instance that is given up."""
    return starting(
        name,
        ready=False,
        phase="backoff",
        replicas=[],
        last_exit={
            "code": 1,
            "signal": None,
            "at": "2026-01-01T00:00:00Z",
            "reason": "exit code 1",
            "log_tail": [*tail],
        },
        conditions=[
            {
                "type": "Stalled",
                "status": True,
                "reason": "StartFailed",
                "message": "3 starts failed in a row",
                "since": "",
            }
        ],
    )


def status(*instances: dict[str, object], generation: int = 1, **config: object) -> dict[str, object]:
    """A whole status."""
    about = {"valid": True, "file": "/etc/llamactl.yaml", "problems": [], "hash": "0" * 64, "held": None}
    return {
        "schema_version": 1,
        "generation": generation,
        "observed_generation": generation,
        "config": about | config,
        "daemon": {
            "pid": 1,
            "version": "0.1.0",
            "started_at": "2026-01-01T00:00:00Z",
            "state_dir": "/s",
            "systemd": False,
        },
        "instances": list(instances),
    }
