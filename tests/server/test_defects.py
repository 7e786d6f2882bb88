"""A defect of ours that a request meets: one answer in the route's shape, the details in the log alone, the daemon goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import pytest

from reconciler.proxy import relay
from reconciler.proxy.stream import EventTail
from tests.proxy.upstreams import SSE_HEAD, Exchange, event, proxied
from tests.server.fakes import FakeControl, encoded, routes, serving

SECRET = "defect-at-0x7f-with-a-secret"


def _tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.name for record in caplog.records if record.exc_info and SECRET in str(record.exc_info[1])]


async def test_outside_v1_it_is_a_problem_that_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    control = FakeControl(routes(), instances={"tiny": {"name": "tiny"}}, fails=KeyError(SECRET))
    async with serving(control) as server:
        answer = await server.request("POST", "/api/v1/instances/tiny/restart")
        control.fails = None
        assert (await server.request("GET", "/health")).status == 200
    assert answer.status == 500
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["code"] == "internal"
    assert SECRET.encode() not in answer.body
    assert b"Traceback" not in answer.body
    assert _tracebacks(caplog) == ["reconciler.server.front"]


async def test_under_v1_it_has_openais_shape(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(pairs: Iterable[tuple[str, str]], connection: Iterable[str]) -> None:
        raise ValueError(SECRET)

    monkeypatch.setattr(relay, "for_client", broken)
    async with proxied() as (_backend, server):
        answer = await server.chat("tiny")
    assert answer.status == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert SECRET.encode() not in answer.body
    assert _tracebacks(caplog) == ["reconciler.server.front"]


async def test_a_head_that_cannot_be_written_is_answered_whole(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "for_client", lambda pairs, connection: {"X": f"\x01{SECRET}"})

    async def script(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.chunk(event("a"))

    async with proxied(script) as (_backend, server):
        answer = await server.chat("tiny")
    assert (answer.status, answer.whole) == (500, True)
    assert answer.json()["error"]["code"] == "internal"


async def test_inside_an_answer_that_began_it_cuts_the_answer(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.ERROR)

    class Broken(EventTail):
        fed = 0

        def feed(self, chunk: bytes) -> None:
            if self.fed:
                raise ValueError(SECRET)
            self.fed += 1

    monkeypatch.setattr(relay, "EventTail", Broken)

    async def script(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.chunk(event("a"))
        await seen.wait()
        await exchange.chunk(event("b"))

    seen = asyncio.Event()
    async with proxied(script) as (_backend, server), server.connected() as client:
        await client.send(encoded("POST", "/v1/chat/completions", {"model": "tiny", "stream": True}))
        await client.reader.readuntil(b'"a"')
        seen.set()
        rest = await client.reader.read()
    assert b"HTTP/1.1" not in rest
    assert not rest.endswith(b"0\r\n\r\n")
    assert _tracebacks(caplog)
