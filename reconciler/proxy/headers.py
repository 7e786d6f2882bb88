"""Which headers pass through the proxy, in each direction. Pure: names and values in, names and values out."""

from __future__ import annotations

import re
from collections.abc import Iterable

from multidict import CIMultiDict

from reconciler.core.contracts import Endpoint
from reconciler.proxy.refusals import Refusal

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    }
)
"""RFC 9110 section 7.6.1, and the older names that still occur: they concern one connection, never the next."""

_NEVER_UPSTREAM = HOP_BY_HOP | {
    "authorization",  # the client's keys are ours, and no backend's business
    "x-api-key",
    "cookie",
    "host",
    "content-length",
    "expect",
    "forwarded",
    "x-real-ip",
    "origin",  # judged by us
}
_NEVER_DOWNSTREAM = HOP_BY_HOP | {
    "content-length",
    "alt-svc",
    "set-cookie",
    "www-authenticate",
    "strict-transport-security",
}

Pairs = Iterable[tuple[str, str]]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def flaw(reason: str, pairs: Pairs) -> str | None:
    """What forbids passing this head of an answer on: a name that is no token of RFC 9110, a control character, a transfer coding
    that is not ``chunked`` alone; None for nothing.

    The parser lets all of these through. A space before a colon is among them, which others read as another header than we do; and a
    body in a coding that is not undone here would reach the client as if it were plain.
    """
    codings = []
    if _CONTROL.search(reason):
        return f"a control character in the reason phrase {reason!r}"
    for name, value in pairs:
        if not _TOKEN.fullmatch(name):
            return f"the header name {name!r}"
        if _CONTROL.search(value):
            return f"a control character in the header {name}"
        if name.lower() == "transfer-encoding":
            codings.append(value.strip().lower())
    if codings not in ([], ["chunked"]):
        return f"Transfer-Encoding: {', '.join(codings)}"
    return None


def named_by_connection(values: Iterable[str]) -> frozenset[str]:
    """Lower-case header names that ``Connection`` declares to be hop-by-hop."""
    return frozenset(word.strip().lower() for value in values for word in value.split(",") if word.strip())


def for_backend(
    pairs: Pairs, connection: Iterable[str], *, endpoint: Endpoint, peer: str, host: str
) -> CIMultiDict[str]:
    """The request's headers as the backend gets them: its own key added, ours and the client's secrets gone.

    ``peer`` is the client's address and ``host`` the Host it asked for; both replace whatever the client claims about them.
    """
    dropped = _NEVER_UPSTREAM | named_by_connection(connection)
    result: CIMultiDict[str] = CIMultiDict()
    for name, value in pairs:
        lowered = name.lower()
        if lowered in dropped or lowered.startswith("x-forwarded-"):
            continue
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Refusal(400, f"the header {name} holds bytes that are not UTF-8", code="invalid_header") from None
        result.add(name, value)
    result["X-Forwarded-For"] = peer
    result["X-Forwarded-Proto"] = "http"
    if host:
        result["X-Forwarded-Host"] = host
    if endpoint.api_key is not None:
        result["Authorization"] = f"Bearer {endpoint.api_key}"
    return result


def for_client(pairs: Pairs, connection: Iterable[str]) -> CIMultiDict[str]:
    """The answer's headers as the client gets them; the length is decided by whoever writes the body.

    A backend's CORS headers are dropped (vLLM allows every origin): which pages may call is declared to us. So are its cookies and
    its demand for a key, which mean nothing behind a proxy.
    """
    dropped = _NEVER_DOWNSTREAM | named_by_connection(connection)
    result: CIMultiDict[str] = CIMultiDict()
    for name, value in pairs:
        lowered = name.lower()
        if lowered not in dropped and not lowered.startswith("access-control-"):
            result.add(name, value.encode("utf-8", "replace").decode())
    return result
