"""Reading a request's body whole, within bounds: a size, a minimum rate, and a budget for all requests together.

A body is kept until its answer begins, because a backend that dies before that is retried and needs it again.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from aiohttp import web

from reconciler.host.clock import Clock
from reconciler.proxy.refusals import Refusal

SILENCE_S = 30.0
"""Longest pause inside a body, seconds; also the head start before the rate counts."""
MIN_BYTES_PER_SECOND = 1024.0
"""Slowest upload that is tolerated: far below any real link, far above a client that drips bytes to hold a connection."""
BUDGET_BYTES = 1024 * 1024 * 1024
"""All bodies held at once: sixteen of the largest by default, some ten thousand ordinary long prompts."""


class Budget:
    """Bytes that all held bodies may take together."""

    def __init__(self, limit: int = BUDGET_BYTES) -> None:
        self._limit = limit
        self.held = 0

    def take(self, count: int) -> None:
        """Account for ``count`` more bytes; Refusal 503 when that is too many."""
        if self.held + count > self._limit:
            raise Refusal(
                503, "too many large request bodies at the same time; try again", code="overloaded", retry_after=1
            )
        self.held += count

    def give(self, count: int) -> None:
        """They are free again."""
        self.held -= count


class HeldBody:
    """One request's body in memory; a context manager, so that the budget gets it back whatever happens."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.data = bytearray()
        self._taken = 0

    def add(self, chunk: bytes) -> None:
        """Append; Refusal when the budget is used up."""
        self._budget.take(len(chunk))
        self._taken += len(chunk)
        self.data += chunk

    def release(self) -> None:
        """Drop the bytes; twice is fine."""
        self._budget.give(self._taken)
        self._taken = 0
        self.data = bytearray()

    def __enter__(self) -> HeldBody:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def too_large(limit: int) -> Refusal:
    """413, and the connection ends: what is left of the body is not read."""
    return Refusal(
        413,
        f"the request body is larger than {limit} bytes; server.max_body_size raises the limit",
        code="request_too_large",
        close=True,
    )


def refuse_declared(request: web.BaseRequest, limit: int) -> None:
    """Refusal 413 before a byte is read, when the declared length is too large."""
    if request.content_length is not None and request.content_length > limit:
        raise too_large(limit)


async def read_body(request: web.BaseRequest, into: HeldBody, *, limit: int, clock: Clock) -> None:
    """Read it to its end; Refusal 413 beyond ``limit`` bytes, 408 when it comes too slowly, 400 when it is cut or malformed."""
    refuse_declared(request, limit)
    if not request.body_exists:
        return
    began = clock.monotonic()
    while True:
        spent = clock.monotonic() - began
        allowed = min(SILENCE_S, SILENCE_S + len(into.data) / MIN_BYTES_PER_SECOND - spent)
        try:
            async with asyncio.timeout(allowed):
                chunk = await request.content.readany()
        except TimeoutError:
            raise Refusal(408, "the request body came too slowly", code="request_timeout", close=True) from None
        except web.RequestPayloadError:
            raise Refusal(400, "the request body is malformed or cut", code="invalid_body", close=True) from None
        if not chunk:
            return
        if len(into.data) + len(chunk) > limit:
            raise too_large(limit)
        into.add(chunk)
