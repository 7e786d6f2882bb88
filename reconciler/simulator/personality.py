"""What differs between the three servers, as one class to fill in: routes, errors, keys, manners of starting and stopping.

A personality decides and words; it starts nothing and sends nothing. One file per server stands beside this one.
"""

from __future__ import annotations

import hmac
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, TypeAlias

from aiohttp import web

from reconciler.simulator.engine import Engine
from reconciler.simulator.flags import Options
from reconciler.simulator.openai import Body, Endpoint

StopManner: TypeAlias = Literal["cut", "wait_for_clients", "signal_default"]


class Personality(ABC):
    """One server's manner. The class variables are what the rest of the program asks about; times are seconds."""

    listens_while_loading: ClassVar[bool]
    """False: connections are refused until the model is loaded."""

    closes_after_each_answer: ClassVar[bool] = False
    """True: speaks HTTP/1.0, one request per connection, streams end with the connection."""

    headers_before_first_token: ClassVar[bool]
    """Whether a stream's head is sent at once or with its first token."""

    progress_comments: ClassVar[bool] = False
    """Whether a stream carries comments about the prompt's progress before its first token."""

    stop_manner: ClassVar[StopManner]
    """What SIGTERM does: cut everything and exit 0; stop listening and wait until clients leave; or plainly die."""

    keep_alive_s: ClassVar[float] = 5.0
    """How long an idle connection is kept (uvicorn's and cpp-httplib's default)."""

    def __init__(self, options: Options, engine: Engine) -> None:
        self.options = options
        self.engine = engine
        self.created = int(time.time())

    @property
    @abstractmethod
    def inference(self) -> Mapping[str, Endpoint]:
        """The paths that generate, by POST."""

    @abstractmethod
    def refusal(self, request: web.BaseRequest) -> web.Response | None:
        """The answer to a request that gets no further: a missing key, or a model that is still loading."""

    @abstractmethod
    async def side_route(self, request: web.BaseRequest) -> web.Response:
        """The answer of any route that does not generate, unknown ones included."""

    @abstractmethod
    def error(self, status: int, message: str, *, param: str | None = None) -> web.Response:
        """An error in this server's own shape."""

    @abstractmethod
    def unknown_model(self, model: str) -> web.Response | None:
        """The answer to a request for this model; None where it is served."""

    def unfit(self, endpoint: Endpoint, body: Body) -> web.Response | None:
        """The answer to a request that this server cannot take in its present state; None where it can."""
        del endpoint, body
        return None

    @abstractmethod
    def starting_lines(self) -> Sequence[str]:
        """What the log says when the load begins."""

    @abstractmethod
    def ready_lines(self) -> Sequence[str]:
        """What the log says at readiness."""

    @abstractmethod
    def failure_line(self) -> str:
        """What the log says when the start fails."""

    @abstractmethod
    def access_line(self, request: web.BaseRequest, status: int) -> str:
        """What the log says of one request."""

    def model_entries(self, owner: str) -> list[dict[str, object]]:
        """The list under `/v1/models`."""
        return [
            {"id": name, "object": "model", "created": self.created, "owned_by": owner, "root": self.options.model}
            for name in self.options.names
        ]


def peer_of(request: web.BaseRequest) -> str:
    """The client's address as `host:port`."""
    transport = request.transport
    peer = transport.get_extra_info("peername") if transport is not None else None
    return f"{peer[0]}:{peer[1]}" if peer else "?"


def bearer(request: web.BaseRequest) -> str | None:
    """The token after `Authorization: Bearer`, if there is one."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else None


def is_one_of(given: str | None, keys: Sequence[str]) -> bool:
    """Whether a key is among those configured."""
    if given is None:
        return False
    return any(hmac.compare_digest(given.encode(), key.encode()) for key in keys)


def prometheus(samples: Sequence[tuple[str, str, str, float]]) -> web.Response:
    """Prometheus text from (name, type, labels in braces or nothing, value)."""
    lines: list[str] = []
    typed: set[str] = set()
    for name, kind, labels, value in samples:
        if name not in typed:
            typed.add(name)
            lines.append(f"# TYPE {name} {kind}")
        lines.append(f"{name}{labels} {value:g}" if value < 1e6 else f"{name}{labels} {value:.0f}")
    return web.Response(
        body=("\n".join(lines) + "\n").encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )
