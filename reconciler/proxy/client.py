"""Talking to backends: one pooled aiohttp session, and failures sorted by what may be done about them.

Nothing in here retries or answers; ``forward`` decides, from the type of failure.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace, TracebackType
from typing import NoReturn
from weakref import WeakSet

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict
from yarl import URL

from reconciler.core.contracts import Endpoint
from reconciler.proxy.headers import flaw

CONNECT_S = 5.0
"""Longest connection set-up, seconds: backends are on loopback, where it takes microseconds; an external one may be across an ocean."""
FIRST_BYTE_S = 3600.0
"""Longest silence before an answer begins, seconds. A long answer that is not streamed sends nothing until it is whole, and a small
machine may need most of an hour for it; a backend that hangs is found by its probes long before."""
POOLED_S = 4.0
"""How long an idle connection is kept, seconds: below the 5 s after which uvicorn, which vLLM runs on, closes its side."""
SLICE = 256 * 1024
"""Bytes of a body that are handed to the transport at a time."""
_NO_AUTOMATIC = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
LOWEST_STATUS, HIGHEST_STATUS = 200, 599


class UpstreamError(Exception):
    """No answer can be had from this target. ``str()`` is for logs only: it may hold addresses."""


class Unreached(UpstreamError):
    """No connection: the backend saw nothing of the request."""


class Died(UpstreamError):
    """The connection ended before an answer began."""

    def __init__(self, message: str, *, reused: bool) -> None:
        super().__init__(message)
        self.reused = reused
        """It was a pooled connection, which the backend may have closed just as the request went out."""


class BadAnswer(UpstreamError):
    """What came is not an HTTP answer that may be passed on."""


class Silent(UpstreamError):
    """Nothing came in time."""


class _Parts(aiohttp.Payload):
    """A body made of several buffers, sent without joining them."""

    def __init__(self, parts: Sequence[memoryview]) -> None:
        super().__init__(parts)
        self._size = sum(part.nbytes for part in parts)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        for part in self._value:
            for start in range(0, part.nbytes, SLICE):
                await writer.write(part[start : start + SLICE])

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        await self.write(writer)  # our own Content-Length is the size of the parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One request, ready for a backend."""

    method: str
    target: str
    """Path and query below the endpoint's base path, as the client sent them."""
    headers: CIMultiDict[str]
    parts: Sequence[memoryview]


class Client:
    """The session; an async context manager."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_reuse)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=POOLED_S, use_dns_cache=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=CONNECT_S, sock_read=None),
            auto_decompress=False,
            skip_auto_headers=_NO_AUTOMATIC,
            trace_configs=[tracing],
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def open(self, endpoint: Endpoint, request: Outgoing) -> aiohttp.ClientResponse:
        """Send it and return once the answer's head is here; the caller closes it. Raises one of the :class:`UpstreamError` kinds."""
        if self._session is None:
            raise RuntimeError("the proxy's client is not open")
        noted = SimpleNamespace(reused=False)
        try:
            async with asyncio.timeout(FIRST_BYTE_S):
                answer = await self._session.request(
                    request.method,
                    URL(endpoint.url(request.target), encoded=True),
                    headers=request.headers,
                    data=_Parts(request.parts) if request.parts else None,
                    allow_redirects=False,
                    trace_request_ctx=noted,
                )
        except (aiohttp.ClientError, ssl.SSLError, OSError, ValueError) as error:  # TimeoutError is an OSError
            _sort(error, reused=noted.reused)
        if not LOWEST_STATUS <= answer.status <= HIGHEST_STATUS:
            answer.close()
            raise BadAnswer(f"status {answer.status}")
        raw = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.raw_headers)
        if (why := flaw(answer.reason or "", raw)) is not None:
            answer.close()
            raise BadAnswer(why)
        return answer


def _sort(error: Exception, *, reused: bool) -> NoReturn:
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, ssl.SSLError)):
        raise Unreached(what) from error
    if isinstance(error, TimeoutError):
        raise Silent(f"no answer within {FIRST_BYTE_S:g} s") from error
    if isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError)):
        raise Died(what, reused=reused) from error
    raise BadAnswer(what) from error


async def _note_reuse(
    session: aiohttp.ClientSession, context: SimpleNamespace, parameters: aiohttp.TraceConnectionReuseconnParams
) -> None:
    context.trace_request_ctx.reused = True


_WATCHED: WeakSet[asyncio.Future[None]] = WeakSet()


@contextmanager
def watched_end(answer: aiohttp.ClientResponse) -> Iterator[asyncio.Future[None] | None]:
    """Inside the block, the end of the backend's connection ends the reading of ``answer``, whatever led to it.

    aiohttp forgets to tell the reader when a chunk that is malformed follows good ones, and the reader would wait for ever. Gives the
    future of the connection's end, which holds an exception when it was no orderly one; None when the answer is complete already.
    """
    connection = answer.connection
    protocol = connection.protocol if connection is not None else None
    closed = protocol.closed if protocol is not None else None
    if closed is None:
        yield None
        return
    if closed not in _WATCHED:
        _WATCHED.add(closed)
        closed.add_done_callback(_retrieve)

    def end_reading(_: asyncio.Future[None]) -> None:
        if not answer.content.is_eof() and answer.content.exception() is None:
            answer.content.set_exception(aiohttp.ClientPayloadError("the connection ended inside the answer"))

    closed.add_done_callback(end_reading)
    try:
        yield closed
    finally:
        closed.remove_done_callback(end_reading)


def _retrieve(closed: asyncio.Future[None]) -> None:
    """Connections that wait in the pool may end as they like: nobody needs to hear of it."""
    if not closed.cancelled():
        closed.exception()
