"""Answers that go on: the event stream and followed logs. They end with their reader, or when the server shuts down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import TypeVar
from weakref import WeakSet

from aiohttp import hdrs, web

from reconciler.control.events import Event
from reconciler.core.contracts import LogFile
from reconciler.core.errors import Missing, Problem
from reconciler.proxy.refusals import Refusal
from reconciler.server.control import Control
from reconciler.server.logfiles import Follower, blocks, current, previous, tail_starts
from reconciler.server.problems import bad_request
from reconciler.server.requests import count, flag

HEARTBEAT_S = 15.0
"""A comment this often keeps middleboxes from closing a quiet event stream, seconds; also how soon a dead reader is noticed."""
LOOK_S = 0.2
"""How often followed logs are looked at, seconds."""
MOST_TAIL = 1_000_000
STALL_S = 60.0
"""Longest time a reader may take to accept a piece, seconds."""
_T = TypeVar("_T")


class Streams:
    """Handlers of this room that run until they are ended."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._open: WeakSet[asyncio.Task[object]] = WeakSet()

    async def end_all(self, app: web.Application) -> None:
        """At shutdown: nobody should wait for streams without an end."""
        del app
        for task in list(self._open):
            task.cancel()

    def _enter(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """``GET /api/v1/events``: what the ring holds, or what follows ``Last-Event-ID``, then each event as it comes.

        With ``?follow=0`` it ends after what the ring holds.
        """
        last = self._resume_from(request)
        follow = "follow" not in request.query or flag(request, "follow")
        response = web.StreamResponse(headers={hdrs.CACHE_CONTROL: "no-store"})
        response.content_type = "text/event-stream"
        await response.prepare(request)
        self._enter()
        loop = asyncio.get_running_loop()
        try:
            if not follow:
                for event in self._control.events.since(last):
                    await _write(response, _as_sse(event))
                return response
            while True:
                try:
                    async with asyncio.timeout(HEARTBEAT_S) as quiet:
                        async for event in self._control.events.follow(last):
                            last = event.id
                            quiet.reschedule(loop.time() + STALL_S)
                            await response.write(_as_sse(event))
                            quiet.reschedule(loop.time() + HEARTBEAT_S)
                except TimeoutError:
                    await _write(
                        response, b": still here\n\n"
                    )  # a reader that is stalled does not take this one either
        except (ConnectionError, TimeoutError):
            return response

    def _resume_from(self, request: web.Request) -> int:
        value = request.headers.get("Last-Event-ID")
        if value is None:
            return 0
        if not (value.isascii() and value.isdigit() and len(value) < 19):  # digits of a 64-bit number
            raise bad_request(
                Problem(message="Last-Event-ID must be a number that this server sent", code="HEADER_INVALID")
            )
        known = self._control.events.since(0)
        newest = known[-1].id if known else 0
        return int(value) if int(value) <= newest else 0  # ids of an earlier daemon: begin anew

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """``GET /api/v1/instances/{name}/logs?tail=N&follow=1&previous=1``: the raw output as text."""
        name = request.match_info["name"]
        tail = count(request, "tail", most=MOST_TAIL)
        follow, before = flag(request, "follow"), flag(request, "previous")
        if follow and before:
            raise bad_request(
                Problem(
                    message="follow and previous exclude each other: what ended writes no more", code="QUERY_INVALID"
                )
            )
        files = self._control.logs(name)
        if before and not previous(files):
            raise Refusal(404, f"there is no log of an earlier run of {name}", code="not_found")
        response = web.StreamResponse(headers={"X-Content-Type-Options": "nosniff", hdrs.CACHE_CONTROL: "no-store"})
        response.content_type = "text/plain"
        response.charset = "utf-8"
        await response.prepare(request)
        try:
            if follow:
                self._enter()
                await self._follow(response, name, files, tail)
            else:
                await _print(response, previous(files) if before else current(files), tail)
        except (ConnectionError, TimeoutError):
            return response
        return response

    async def _follow(
        self, response: web.StreamResponse, name: str, files: Iterable[LogFile], tail: int | None
    ) -> None:
        follower = Follower()
        labels = _Labels()
        seen = list(files)
        try:
            await asyncio.to_thread(follower.begin, seen, tail)
            while True:
                several = sum(file.live for file in seen) > 1
                news = await asyncio.to_thread(follower.look, seen)
                for file, block in news:
                    await _write(response, labels.mark(file, block, several=several))
                if not news:
                    await self._control.clock.sleep(LOOK_S)
                try:
                    seen = list(self._control.logs(name))
                except Missing:  # it was removed, and its logs with it
                    return
        finally:
            follower.close()


async def _print(response: web.StreamResponse, files: list[LogFile], tail: int | None) -> None:
    labels = _Labels()
    for file in files:
        for path, offset in await asyncio.to_thread(tail_starts, file.paths, tail):
            pieces = blocks(path, offset)
            while (block := await asyncio.to_thread(_next_or_none, pieces)) is not None:
                await _write(response, labels.mark(file, block, several=len(files) > 1))


class _Labels:
    """Says which replica a line is from while several are shown; a single one is passed through untouched."""

    def __init__(self) -> None:
        self._halves: dict[int, bytes] = {}

    def mark(self, file: LogFile, block: bytes, *, several: bool) -> bytes:
        block = self._halves.pop(file.serial, b"") + block
        if not several:
            return block
        whole, newline, half = block.rpartition(b"\n")
        if half:
            self._halves[file.serial] = half  # its line is not complete: it comes with the rest
        label = b"[#%d] " % file.serial
        return label + whole.replace(b"\n", b"\n" + label) + b"\n" if newline else b""


def _next_or_none(pieces: Iterable[_T]) -> _T | None:
    return next(iter(pieces), None)


def _as_sse(event: Event) -> bytes:
    data = json.dumps(event.as_json(), ensure_ascii=False)
    return f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n".encode("utf-8", "replace")


async def _write(response: web.StreamResponse, data: bytes) -> None:
    if data:
        async with asyncio.timeout(STALL_S):
            await response.write(data)
