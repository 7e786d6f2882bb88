"""The HTTP application: routes, the proxy's life, and the runner's settings that keep slow and hostile clients in bounds."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection

from aiohttp import http_parser, web
from aiohttp.http_exceptions import HttpProcessingError

from reconciler.core.errors import Terminal
from reconciler.proxy.auth import Authorizer
from reconciler.proxy.forward import Proxy
from reconciler.proxy.models import model_list, one_model
from reconciler.server import metrics
from reconciler.server.api import Api
from reconciler.server.control import Control
from reconciler.server.front import Front, grant_of
from reconciler.server.nowhere import Nowhere
from reconciler.server.parse import ParseCommand
from reconciler.server.streams import Streams

KEEPALIVE_S = 15.0
"""Idle connections and unfinished heads end after this, seconds: aiohttp bounds both by it from 3.14.4 on."""
SHUTDOWN_S = 30.0
"""How long requests may finish when the daemon ends, seconds; the default of ``stop.drain_timeout``."""
MAX_FIELD = 12 * 1024
"""Longest header line, bytes: a key or a signed token of 10 kB still gets its 401."""
MAX_HEADERS = 64
"""Header lines of a request; with :data:`MAX_FIELD`, an unfinished head holds 768 kB at most."""

_INSTANCE = "/api/v1/instances/{name}"


class _BadRequestsQuietly(logging.Filter):
    """aiohttp reports every malformed request with a traceback that quotes the line, which anyone can cause and which may hold a key."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        record.msg, record.args = "a request was not acceptable HTTP: %s", (type(error).__name__,)
        record.exc_info = record.exc_text = None
        return logger.isEnabledFor(logging.DEBUG)


logger = logging.getLogger(__name__)
logger.addFilter(_BadRequestsQuietly())


def check_parser() -> None:
    """Terminal ``PARSER_UNSAFE`` unless aiohttp runs on its C parser: the pure Python one accepts what others read differently."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise Terminal(
            "PARSER_UNSAFE: cannot serve HTTP: aiohttp runs on its pure Python parser, which lets request smuggling through; "
            "install an aiohttp wheel with its C extensions, and unset AIOHTTP_NO_EXTENSIONS"
        )


def make_app(control: Control, *, authorizer: Authorizer, names: Collection[str] = ()) -> web.Application:
    """All routes over one controller. ``names`` are further Host values to answer to (what the daemon was told to listen on)."""
    front = Front(control, authorizer, names)
    api = Api(control)
    streams = Streams(control)
    proxy = Proxy(control)

    async def infer(request: web.Request) -> web.StreamResponse:
        return await proxy.infer(request, grant_of(request))

    async def raw(request: web.Request) -> web.StreamResponse:
        # the rest of the path as it was sent: decoding and encoding it again might change it
        target = "/" + request.raw_path.split("/", 6)[6]
        return await proxy.raw(request, request.match_info["name"], target)

    async def models(request: web.Request) -> web.Response:
        return web.json_response(model_list(control.routes, grant_of(request)))

    async def model(request: web.Request) -> web.Response:
        return web.json_response(one_model(control.routes, grant_of(request), request.match_info["model"]))

    async def measure(request: web.Request) -> web.Response:
        del request
        text = metrics.render(control.status(), control.leases)
        return web.Response(body=text.encode(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def proxy_life(app: web.Application) -> AsyncIterator[None]:
        del app
        async with proxy:
            yield

    app = web.Application(middlewares=[front.middleware], client_max_size=0)
    app.cleanup_ctx.append(proxy_life)
    app.on_shutdown.append(streams.end_all)
    app.on_response_prepare.append(front.on_prepare)

    def add(method: str, path: str, handler: object, *, head: bool = True) -> None:
        for each in ("GET", "HEAD") if method == "GET" and head else (method,):
            app.router.add_route(each, path, handler, expect_handler=front.expect)  # type: ignore[arg-type]  # bound coroutine methods

    for path in ("/health", "/livez"):
        add("GET", path, api.alive)
    add("GET", "/readyz", api.ready)
    add("GET", "/metrics", measure)
    add("GET", "/api/v1/status", api.status)
    add("GET", "/api/v1/instances", api.instances)
    add("GET", _INSTANCE, api.instance)
    add("POST", _INSTANCE, api.create)
    add("PUT", _INSTANCE, api.replace)
    add("DELETE", _INSTANCE, api.delete)
    add("POST", _INSTANCE + "/start", api.start)
    add("POST", _INSTANCE + "/stop", api.stop)
    add("POST", _INSTANCE + "/restart", api.restart)
    add("GET", _INSTANCE + "/logs", streams.logs, head=False)  # a stream has no head worth a stream
    add("*", _INSTANCE + "/proxy/{tail:.*}", raw)
    add("GET", "/api/v1/events", streams.events, head=False)
    add("POST", "/api/v1/plan", api.plan)
    add("GET", "/api/v1/config", api.config)
    add("PUT", "/api/v1/config", api.apply)
    add("POST", "/api/v1/down", api.down)
    add("POST", "/api/v1/backends/{route}/parse-command", ParseCommand(control).handle)
    add("GET", "/v1/models", models)
    add("GET", "/v1/models/{model:.+}", model)
    add("*", "/v1/{tail:.*}", infer)
    app.router.register_resource(Nowhere(app.router))
    return app


def make_runner(app: web.Application, *, keepalive_timeout: float = KEEPALIVE_S) -> web.AppRunner:
    """The runner to put sites on. Terminal when the safe parser is missing.

    A client that leaves cancels its handler at once (``handler_cancellation``), and with it the work of the backend. Bodies are not
    decompressed: they are a backend's business, and a bomb stays small.
    """
    check_parser()
    return web.AppRunner(
        app,
        handle_signals=False,
        access_log=None,
        logger=logger,
        keepalive_timeout=keepalive_timeout,
        shutdown_timeout=SHUTDOWN_S,
        handler_cancellation=True,
        auto_decompress=False,
        max_field_size=MAX_FIELD,
        max_headers=MAX_HEADERS,
        lingering_time=5.0,
    )
