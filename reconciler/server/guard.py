"""What no request gets past, whatever it is for: ambiguous HTTP that aiohttp lets through, foreign Host names, pages of other origins.

Pure judgement of a request's head; ``front`` calls it first. A web page on another site can make a browser send requests to this
port, and DNS rebinding can make them same-origin; the Host and Origin rules stop both, with and without keys.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection
from urllib.parse import unquote

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

from reconciler.core.addresses import is_address
from reconciler.core.spec import ServerSpec
from reconciler.proxy.refusals import Refusal

_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9.])?)(?::\d{1,5})?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _ambiguous(what: str) -> Refusal:
    return Refusal(400, f"the request is not acceptable HTTP: {what}", code="bad_request", close=True)


def refuse_ambiguous(request: web.BaseRequest) -> None:
    """Refusal 400, and the connection ends, for forms that other programs read differently."""
    if request.version < HttpVersion10:
        raise _ambiguous("HTTP/0.9 has no head")
    coding = request.headers.getall(hdrs.TRANSFER_ENCODING, ())
    if coding:
        if request.version < HttpVersion11:
            raise _ambiguous("Transfer-Encoding needs HTTP/1.1")
        if [value.strip().lower() for value in coding] != ["chunked"]:
            raise _ambiguous("the only Transfer-Encoding that is understood is chunked")
    target = request.raw_path
    if not target.startswith("/") and target != "*":
        raise _ambiguous("the target must be a path")
    if "#" in target:
        raise _ambiguous("the target holds a fragment")
    path = unquote(target.partition("?")[0], errors="replace")
    if _CONTROL.search(path) or any(part in (".", "..") for part in path.replace("\\", "/").split("/")):
        raise _ambiguous("the path holds dot segments or control characters")
    for name in request.headers:
        if "_" in name:
            raise _ambiguous(
                f"header names with an underscore are read differently by different servers ({name[:40]!r})"
            )
    hosts = request.headers.getall(hdrs.HOST, ())
    if len(hosts) > 1 or (hosts and not _HOST.fullmatch(hosts[0])):
        raise _ambiguous("its Host is malformed")


def bare_host(value: str) -> str:
    """Lower-case host of a Host header or of an origin's authority: without port, brackets and a final dot."""
    host = value[1:].partition("]")[0] if value.startswith("[") else value.partition(":")[0]
    return host.lower().rstrip(".")


def refuse_foreign_host(request: web.BaseRequest, server: ServerSpec, names: Collection[str]) -> None:
    """Refusal 403 unless Host is an address, a loopback name, this machine's name, or declared.

    An address cannot be rebound, so any is fine. ``names`` are further listening names.
    """
    value = request.headers.get(hdrs.HOST)
    if value is None:  # HTTP/1.0 only: a browser always sends one
        return
    host = bare_host(value)
    if is_address(host) or host == "localhost" or host.endswith(".localhost"):
        return
    if host in {bare_host(name) for name in (server.host, *server.allowed_hosts, *names)}:
        return
    if host in (own := socket.gethostname().lower(), own.partition(".")[0]):
        return
    raise Refusal(
        403, f"this server does not answer to the name {host}; server.allowed_hosts lists more", code="wrong_host"
    )


def allowed_origin(request: web.BaseRequest, server: ServerSpec, *, inference: bool) -> str | None:
    """The Origin that may read the answer; None when there is none to tell. Refusal 403 for one that is not allowed.

    The page's own origin (the dashboard) is always allowed. ``server.cors_origins`` opens ``/v1`` to others, ``*`` to all; nothing
    opens the management routes to another origin.
    """
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None:
        return None
    _, separator, authority = origin.partition("://")
    if separator and authority.lower() == request.headers.get(hdrs.HOST, "").lower():
        return origin
    if inference and ("*" in server.cors_origins or origin in server.cors_origins):
        return origin
    raise Refusal(
        403,
        "pages of this origin may not call this server"
        + (
            "; server.cors_origins lists those that may"
            if inference
            else " (management is never opened to other origins)"
        ),
        code="wrong_origin",
    )
