"""Passing an answer on as it arrives. One rule above all: an answer that was cut is never made to look complete.

Memory stays flat: a chunk is read only after the one before it was taken by the client's socket, so a slow client slows the backend.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from http import HTTPStatus

import aiohttp
from aiohttp import hdrs, web

from reconciler.control.leases import Lease
from reconciler.proxy.client import BadAnswer, watched_end
from reconciler.proxy.headers import for_client
from reconciler.proxy.refusals import openai_event
from reconciler.proxy.stream import (
    EventTail,
    Framing,
    framing_of,
    is_event_stream,
    is_json,
    is_whole_json,
    must_say_done,
)

logger = logging.getLogger(__name__)

STREAM_IDLE_S = 600.0
"""Longest pause inside an answer, seconds. Reasoning models pause for tool calls and long prompts, never for ten minutes."""
WRITE_STALL_S = 60.0
"""Longest time a client may take to accept one chunk, seconds; then its connection ends and the backend's slot is free."""
HELD_JSON = 8 * 1024 * 1024
"""A JSON answer that ends with its connection is held and checked up to this many bytes; larger ones pass unchecked."""
_NO_BODY = frozenset({204, 205, 304})


async def relay(request: web.BaseRequest, answer: aiohttp.ClientResponse, lease: Lease) -> web.StreamResponse:
    """Write the whole answer to the client; the connection is cut when the answer was. BadAnswer while nothing is sent yet."""
    response = web.StreamResponse(status=answer.status, reason=answer.reason or None)
    response.headers.extend(for_client(answer.headers.items(), answer.headers.getall(hdrs.CONNECTION, ())))
    framing = framing_of(answer.headers)
    if answer.status == HTTPStatus.RESET_CONTENT:
        response.headers[hdrs.CONTENT_LENGTH] = "0"  # it has no body, and unlike 204 it must say so
    elif framing is Framing.LENGTH:
        response.headers[hdrs.CONTENT_LENGTH] = answer.headers[hdrs.CONTENT_LENGTH]
    if request.method == hdrs.METH_HEAD or answer.status in _NO_BODY:
        await response.prepare(request)
        return response
    with watched_end(answer) as closed:
        first = b""
        if framing is Framing.CLOSE and is_json(answer.headers):
            first = await _held_json(answer, lease)
        await response.prepare(request)
        return await _Relay(request, response, answer, lease, closed).run(first)


async def _held_json(answer: aiohttp.ClientResponse, lease: Lease) -> bytes:
    """The whole of a short JSON answer, or the beginning of a long one."""
    held = bytearray()
    try:
        async with asyncio.timeout(STREAM_IDLE_S):
            while len(held) < HELD_JSON:
                chunk = await answer.content.readany()
                if not chunk:
                    break
                lease.progress()
                held += chunk
    except (aiohttp.ClientError, OSError) as error:
        raise BadAnswer(f"it broke off: {error}") from error
    if len(held) < HELD_JSON and not is_whole_json(bytes(held)):
        raise BadAnswer("its JSON broke off")
    return bytes(held)


class _Relay:
    """One answer on its way."""

    def __init__(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        answer: aiohttp.ClientResponse,
        lease: Lease,
        closed: asyncio.Future[None] | None,
    ) -> None:
        self._request = request
        self._response = response
        self._answer = answer
        self._lease = lease
        self._framing = framing_of(answer.headers)
        self._tail = EventTail() if is_event_stream(answer.headers) else None
        self._closed = closed

    async def run(self, first: bytes) -> web.StreamResponse:
        chunk = first
        loop = asyncio.get_running_loop()
        writing = False
        try:
            async with asyncio.timeout(None) as patience:
                while True:
                    if chunk:
                        writing = True
                        patience.reschedule(loop.time() + WRITE_STALL_S)
                        await self._response.write(chunk)
                        writing = False
                    patience.reschedule(loop.time() + STREAM_IDLE_S)
                    chunk = await self._read()
                    if not chunk:
                        break
        except TimeoutError:
            if writing:
                return self._abort("the client took nothing for too long")
            return await self._break_off(f"nothing came for {STREAM_IDLE_S:g} s")
        except _Cut as error:
            return await self._break_off(str(error))
        if (why := self._why_unfinished()) is not None:
            return await self._break_off(why)
        return self._response

    async def _read(self) -> bytes:
        try:
            chunk = await self._answer.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise _Cut(f"{type(error).__name__}: {error}") from error
        if chunk:
            self._lease.progress()
            if self._tail is not None:
                self._tail.feed(chunk)
        return chunk

    def _why_unfinished(self) -> str | None:
        if self._framing is not Framing.CLOSE:
            return None
        if self._closed is not None and self._closed.done() and self._closed.exception() is not None:  # no orderly end
            return "the connection was reset"
        if self._tail is not None and must_say_done(self._answer.url.path) and not self._tail.done:
            return "the stream ended without [DONE]"
        return None

    async def _break_off(self, why: str) -> web.StreamResponse:
        """Say so in the stream where an event may stand, then cut the connection before the end mark."""
        logger.warning("an answer of %s broke off: %s", self._lease.instance, why)
        if self._tail is not None and self._tail.between_events and self._framing is not Framing.LENGTH:
            event = openai_event(
                f"{self._lease.instance} stopped answering in the middle of the stream", code="stream_cut"
            )
            try:
                async with asyncio.timeout(WRITE_STALL_S):
                    await self._response.write(event)
            except OSError:  # gone or stalled (a TimeoutError is one): there is nobody left to tell
                return self._abort("the client left")
        return self._cut_connection()

    def _cut_connection(self) -> web.StreamResponse:
        """End the connection after what was written, so that the client sees an answer without its end."""
        transport = self._request.transport
        self._response.force_close()
        if transport is not None:
            if self._response.headers.get(hdrs.TRANSFER_ENCODING) is None and self._response.content_length is None:
                # for an HTTP/1.0 client the orderly end of the connection would be the end of the answer: reset it instead
                _reset_on_close(transport)
            transport.close()
        return self._response

    def _abort(self, why: str) -> web.StreamResponse:
        logger.info("an answer of %s was abandoned: %s", self._lease.instance, why)
        self._response.force_close()
        if self._request.transport is not None:
            self._request.transport.abort()
        return self._response


class _Cut(Exception):
    """The backend's side ended in the middle."""


def _reset_on_close(transport: asyncio.BaseTransport) -> None:
    found = transport.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
