"""What every request meets first: the guard, CORS, the key; and what every failure becomes on its way out.

The same screening runs before ``100 Continue`` is sent, so that nobody uploads a body to hear that the key was wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection

from aiohttp import hdrs, web
from aiohttp.http import StreamWriter

from reconciler.core.errors import LlamactlError
from reconciler.proxy.auth import Area, Authorizer, Grant, credentials
from reconciler.proxy.intake import refuse_declared
from reconciler.proxy.refusals import Refusal
from reconciler.server.control import Control
from reconciler.server.guard import allowed_origin, refuse_ambiguous, refuse_foreign_host
from reconciler.server.problems import answer, from_error, from_http, speaks_openai

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN_PATHS = frozenset({"/health", "/livez", "/readyz"})
MANAGEMENT_BODY = 1024 * 1024
"""Largest body of a management request, bytes: that of the file itself."""
_DEFECT = Refusal(500, "a defect in llamactl; its log tells more", code="internal", close=True)
_GRANT = web.RequestKey("llamactl.grant", Grant)
_ORIGIN = web.RequestKey("llamactl.origin", str)
_WITHOUT_EFFECT = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})
_JSON = frozenset({"application/json"})
_YAML = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "application/json"})
"""JSON is YAML."""


def grant_of(request: web.Request) -> Grant:
    """What the screened request may do."""
    return request[_GRANT]


class Front:
    """The screening of one application."""

    def __init__(self, control: Control, authorizer: Authorizer, names: Collection[str]) -> None:
        self._control = control
        self._authorizer = authorizer
        self._names = tuple(names)

    def screen(self, request: web.Request) -> web.Response | None:
        """Judge the head; an answer for a CORS preflight, else None. Raises Refusal. Repeated calls do nothing."""
        if _GRANT in request:
            return None
        refuse_ambiguous(request)
        routes = self._control.routes
        refuse_foreign_host(request, routes.server, self._names)
        path = request.path
        inference = speaks_openai(path)
        if path in OPEN_PATHS or (_is_nowhere(request) and not path.startswith(("/v1", "/api"))):
            request[_GRANT] = Grant(area=Area.INFERENCE, name="", instances=frozenset())
            return None
        origin = allowed_origin(request, routes.server, inference=inference)
        if origin is not None:
            request[_ORIGIN] = origin
            if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
                return _preflight(request)
        offered = credentials(request.headers.getall(hdrs.AUTHORIZATION, ()), request.headers.getall("X-API-Key", ()))
        area = Area.INFERENCE if inference else Area.MANAGEMENT
        request[_GRANT] = self._authorizer.judge(routes, area, offered)
        if not inference:
            _refuse_form(request)
        return None

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Screen, handle, and give every failure its shape."""
        try:
            return self.screen(request) or await handler(request)
        except LlamactlError as error:
            return answer(request.path, from_error(error))
        except web.HTTPException as error:
            return answer(request.path, from_http(error))
        except Exception:  # a defect met by one request: told in the route's shape, shown whole in the log
            transport = request.transport
            if request.writer.output_size or transport is None or transport.is_closing():
                raise  # an answer began or the client left: aiohttp ends the connection, and nothing is sent twice
            logger.exception("a defect while %s %r was answered", request.method, request.path)
            if isinstance(request.writer, StreamWriter):
                request.writer.chunked = False  # the head that could not be written may have asked for chunks
            return answer(request.path, _DEFECT)

    async def expect(self, request: web.Request) -> web.StreamResponse | None:
        """``Expect: 100-continue``: screened before the client is told to go on."""
        try:
            early = self.screen(request)
            if early is not None:
                return early
            limit = self._control.routes.server.max_body_size if takes_any_body(request) else MANAGEMENT_BODY
            refuse_declared(request, limit)
            if request.headers[hdrs.EXPECT].lower() != "100-continue":
                raise web.HTTPExpectationFailed
        except Refusal as refusal:
            return answer(request.path, refusal)
        except web.HTTPException as error:
            return answer(request.path, from_http(error))
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the interim answer is no part of the answer's body
        return None

    async def on_prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Headers of every answer: who serves, and which page may read it."""
        if response.headers.get(hdrs.SERVER, "Python/").startswith("Python/"):
            response.headers[hdrs.SERVER] = "llamactl"  # the library's own would tell versions
        origin = request.get(_ORIGIN)
        if origin is not None:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)


def _is_nowhere(request: web.Request) -> bool:
    return request.match_info.http_exception is not None


def takes_any_body(request: web.Request) -> bool:
    """Routes whose body is a backend's business."""
    return speaks_openai(request.path) or is_raw(request)


def is_raw(request: web.Request) -> bool:
    """``/api/v1/instances/NAME/proxy/...``, judged like the router does: an encoded slash separates nothing."""
    parts = request.rel_url.raw_path.split("/", 6)
    return len(parts) == 7 and parts[1:4] == ["api", "v1", "instances"] and parts[5] == "proxy"  # the template's parts


def _preflight(request: web.Request) -> web.Response:
    return web.Response(
        status=204,
        headers={
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST, PUT, DELETE, OPTIONS",
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: request.headers.get(
                hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "Authorization, Content-Type"
            ),
            hdrs.ACCESS_CONTROL_MAX_AGE: "600",
        },
    )


def _refuse_form(request: web.Request) -> None:
    """415 for a change that a plain HTML form could send; a change without a body needs no content type."""
    if request.method in _WITHOUT_EFFECT or is_raw(request):
        return
    declared = request.headers.get(hdrs.CONTENT_TYPE)
    if declared is None and not request.body_exists:
        return
    accepted = _YAML if request.path in ("/api/v1/plan", "/api/v1/config") else _JSON
    if declared is None or request.content_type not in accepted:
        want = "application/yaml" if accepted is _YAML else "application/json"
        raise Refusal(415, f"this route takes {want}: send `Content-Type: {want}`", code="unsupported_media_type")
