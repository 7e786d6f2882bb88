"""Judging an answer while it passes: where a server-sent event ends, whether an OpenAI stream came to its end, what is left to prove.

Pure: bytes in, verdicts out. ``relay`` moves the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

import msgspec

_KEPT = 64
"""Bytes of the end that are remembered: ``data: [DONE]``, its line breaks and some white space."""
_DONE = re.compile(rb"(?:^|[\r\n])data:[ \t]*\[DONE\][ \t]*[\r\n]*$")
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")
_ENDS_WITH_DONE = ("/v1/chat/completions", "/v1/completions")
"""Routes whose streams end with ``data: [DONE]`` by OpenAI's contract, in all three servers; others end in ways of their own."""


class Framing(Enum):
    """How the backend marks the end of an answer."""

    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"
    """By closing the connection, which a death looks just like."""


def framing_of(headers: Mapping[str, str]) -> Framing:
    """From the answer's headers, which are consistent: the parser saw to lengths, the client to ``chunked`` as the only coding."""
    if "Transfer-Encoding" in headers:
        return Framing.CHUNKED
    return Framing.LENGTH if "Content-Length" in headers else Framing.CLOSE


def is_event_stream(headers: Mapping[str, str]) -> bool:
    """A plain server-sent event stream, in which an event of ours can be written."""
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind == "text/event-stream" and headers.get("Content-Encoding", "identity").lower() == "identity"


def is_json(headers: Mapping[str, str]) -> bool:
    """Plain JSON, which is whole exactly when it parses."""
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind == "application/json" and headers.get("Content-Encoding", "identity").lower() == "identity"


def is_whole_json(body: bytes) -> bool:
    """Whether a JSON answer is complete."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True


class EventTail:
    """The last bytes of an event stream."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """More of the stream."""
        self._tail = chunk[-_KEPT:] if len(chunk) >= _KEPT else (self._tail + chunk)[-_KEPT:]

    @property
    def between_events(self) -> bool:
        """Nothing is half-written, so another event may follow."""
        return not self._tail or self._tail.endswith(_EVENT_ENDS)

    @property
    def done(self) -> bool:
        """The stream ended as OpenAI's do."""
        return _DONE.search(self._tail) is not None


def must_say_done(path: str) -> bool:
    """Whether a stream of this route is only whole with ``[DONE]``."""
    return path.rstrip("/").endswith(_ENDS_WITH_DONE)
