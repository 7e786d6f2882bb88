"""How this server says no: one exception that carries status, code and words, and OpenAI's shape for it.

Raised anywhere between the socket and the backend; the server room turns it into problem+json outside ``/v1``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from reconciler.core.errors import LlamactlError

SERVER_ERROR = 500
"""From this status on the fault is not the client's."""

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "invalid_request_error", 429: "rate_limit_error"}


class Refusal(LlamactlError):
    """A request is answered by us, with an error. ``message`` is for the client and must never hold a secret."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        """``retry_after`` in seconds; ``close`` ends the connection, for requests whose framing cannot be trusted."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.close = close
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, retry_after))


def openai_error(status: int, message: str, *, code: str, param: str | None = None) -> dict[str, object]:
    """``{"error": {"message", "type", "param", "code"}}``."""
    kind = _TYPES.get(status) or ("server_error" if status >= SERVER_ERROR else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def openai_event(message: str, *, code: str) -> bytes:
    """A server-sent event that ends a stream with an error; the OpenAI and the Anthropic client libraries both raise on it."""
    body = {"type": "error", **openai_error(502, message, code=code)}
    return b"event: error\ndata: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"
