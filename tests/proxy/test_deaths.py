"""Backends that die or lie: retried before the first byte, shown as broken after it, never passed off as complete."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from tests.proxy.upstreams import (
    SSE_HEAD,
    SSE_HEAD_CLOSE,
    Exchange,
    Script,
    event,
    fixed,
    plain,
    proxied,
    refused_port,
    upstream,
)
from tests.server.fakes import Answer, FakeControl, encoded, route, routes, serving, target


async def ask(script: Script, path: str = "/v1/chat/completions", method: str = "POST") -> Answer:
    """One request to a backend with this script."""
    async with proxied(script) as (_backend, server):
        return await server.request(method, path, {"model": "tiny"})


async def die(exchange: Exchange) -> None:
    exchange.reset()


async def leave(exchange: Exchange) -> None:
    exchange.cut()


@pytest.mark.parametrize("death", [die, leave])
async def test_a_backend_that_dies_before_its_first_byte_is_retried_on_another_replica(death: Script) -> None:
    async with upstream(death) as bad, upstream() as good:
        control = FakeControl(routes(route("tiny", target(bad.port), target(good.port))))
        async with serving(control) as server:
            answers = [await server.chat("tiny", n=number) for number in range(4)]
    assert [answer.status for answer in answers] == [200] * 4
    assert len(bad.seen) >= 1
    assert len(good.seen) == 4
    assert sorted(json.loads(seen.body)["n"] for seen in good.seen) == [0, 1, 2, 3]


async def test_a_replica_that_refuses_connections_is_passed_over() -> None:
    async with upstream() as good:
        control = FakeControl(
            routes(route("tiny", target(refused_port(), key="a"), target(refused_port(), key="b"), target(good.port)))
        )
        async with serving(control) as server:
            assert [(await server.chat("tiny")).status for _ in range(3)] == [200] * 3


async def test_there_is_one_retry_and_then_502_in_openais_shape() -> None:
    async with upstream(die) as one, upstream(die) as two, upstream(die) as three:
        control = FakeControl(routes(route("tiny", target(one.port), target(two.port), target(three.port))))
        async with serving(control) as server:
            answer = await server.chat("tiny")
    assert answer.status == 502
    assert answer.json()["error"]["type"] == "server_error"
    assert sum(len(backend.seen) for backend in (one, two, three)) == 2


async def test_a_lone_backend_that_is_down_is_502_without_its_address() -> None:
    port = refused_port()
    async with serving(FakeControl(routes(route("tiny", target(port))))) as server:
        answer = await server.chat("tiny")
    assert answer.status == 502
    assert str(port) not in answer.body.decode()


async def test_a_kept_connection_that_the_backend_had_closed_is_replaced_by_a_fresh_one() -> None:
    async def once(exchange: Exchange) -> None:
        if number[0] == 0:
            await exchange.send(plain(b"{}"))
        elif number[0] == 1:
            exchange.reset()  # the kept connection turns out to be dead
        else:
            await exchange.send(plain(b'{"fresh":1}'))
        number[0] += 1

    number = [0]
    async with proxied(once) as (backend, server):
        assert (await server.chat("tiny")).body == b"{}"
        assert (await server.chat("tiny")).body == b'{"fresh":1}'
    assert backend.connections == 2


async def test_nothing_is_retried_once_an_answer_began() -> None:
    async def begin(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        exchange.reset()

    async with upstream(begin) as one, upstream(begin) as two:
        control = FakeControl(routes(route("tiny", target(one.port), target(two.port))))
        async with serving(control) as server:
            answer = await server.chat("tiny", stream=True)
    assert (answer.status, answer.whole) == (200, False)
    assert len(one.seen) + len(two.seen) == 1


@pytest.mark.parametrize("how", ["cut", "reset"])
async def test_a_stream_whose_backend_dies_ends_in_an_error_event_and_no_end_mark(how: str) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        for word in ("a", "b"):
            await exchange.chunk(event(word))
        await go.wait()
        getattr(exchange, how)()

    go = asyncio.Event()
    async with (
        upstream(script) as backend,
        serving(FakeControl(routes(route("tiny", target(backend.port))))) as server,
        server.connected() as client,
    ):
        await client.send(encoded("POST", "/v1/chat/completions", {"model": "tiny"}))
        asyncio.get_running_loop().call_later(0.05, go.set)
        answer = await client.answer()
    assert answer.status == 200
    assert not answer.whole
    assert answer.body.startswith(event("a") + event("b") + b"event: error\ndata: ")
    error = json.loads(answer.body.split(b"event: error\ndata: ")[1])
    assert error["type"] == "error"
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert b"[DONE]" not in answer.body


async def test_an_event_that_is_half_written_is_not_mended() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.chunk(event("a") + b'data: {"half')
        exchange.cut()

    answer = await ask(script)
    assert answer.body == event("a") + b'data: {"half'
    assert not answer.whole


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nContent-Length: 9\r\n\r\n",
        SSE_HEAD + b"5\r\ndata",
        SSE_HEAD,
    ],
)
async def test_an_answer_that_is_cut_never_looks_complete(raw: bytes) -> None:
    answer = await ask(fixed(raw))
    assert answer.status == 200
    assert not answer.whole


async def test_a_malformed_chunk_after_good_ones_cuts_the_answer() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await go.wait()
        await exchange.send(b"zz\r\nbad\r\n0\r\n\r\n")
        await exchange.gone.wait()

    go = asyncio.Event()
    async with proxied(script) as (_, server), server.connected() as client:
        await client.send(encoded("POST", "/v1/x", {"model": "tiny"}))
        await client.reader.readuntil(b"hello\r\n")
        go.set()
        assert await client.reader.read(-1) == b""


async def test_an_old_client_sees_a_cut_answer_as_a_reset() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await go.wait()
        exchange.cut()

    go = asyncio.Event()
    async with (
        upstream(script) as backend,
        serving(FakeControl(routes(route("tiny", target(backend.port))))) as server,
        server.connected() as client,
    ):
        await client.send(b'POST /v1/x HTTP/1.0\r\nContent-Length: 16\r\n\r\n{"model":"tiny"}')
        await client.reader.readuntil(b"hello")
        go.set()
        with pytest.raises(ConnectionResetError):
            await client.reader.read(-1)


class TestAnswersThatEndWithTheConnection:
    """As mlx_lm.server's do."""

    async def test_a_stream_with_done_is_whole(self) -> None:
        raw = SSE_HEAD_CLOSE + event("a") + b": keepalive 1/2\n\n" + b"data: [DONE]\n\n"
        answer = await ask(fixed(raw))
        assert answer.whole
        assert answer.body == raw[len(SSE_HEAD_CLOSE) :]

    async def test_a_stream_without_done_is_broken(self) -> None:
        answer = await ask(fixed(SSE_HEAD_CLOSE + event("[DONE]")))
        assert not answer.whole
        assert b"event: error" in answer.body

    async def test_a_stream_of_another_route_has_its_own_end(self) -> None:
        assert (await ask(fixed(SSE_HEAD_CLOSE + event("a")), path="/v1/responses")).whole

    async def test_json_is_whole_when_it_parses(self) -> None:
        head = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"
        whole = await ask(fixed(head + b'{"a": [1, 2]}'))
        assert (whole.status, whole.body, whole.whole) == (200, b'{"a": [1, 2]}', True)
        assert (await ask(fixed(head + b'{"a": [1, '))).status == 502

    async def test_a_reset_is_no_end(self) -> None:
        async def script(exchange: Exchange) -> None:
            await exchange.send(b"HTTP/1.0 200 OK\r\nContent-Type: audio/wav\r\n\r\nRIFF")
            await go.wait()
            exchange.reset()

        go = asyncio.Event()
        async with proxied(script) as (_backend, server), server.connected() as client:
            await client.send(encoded("POST", "/v1/audio/speech", {"model": "tiny"}))
            await client.reader.readuntil(b"RIFF")
            go.set()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await client.reader.readuntil(b"0\r\n\r\n")


BAD = {
    "garbage": b"\x00\x01\x02\x03 garbage\r\n\r\n",
    "no status": b"HTTP/1.1 \r\n\r\n",
    "bad status": b"HTTP/1.1 abc OK\r\n\r\n",
    "status 999": b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",
    "status 600": b"HTTP/1.1 600 What\r\nContent-Length: 0\r\n\r\n",
    "unasked upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
    "nul in a header": b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
    "bare cr in a header": b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\n{}",
    "escape in a header": b"HTTP/1.1 200 OK\r\nX: a\x01\x1b[31mb\r\nContent-Length: 2\r\n\r\n{}",
    "delete in a header": b"HTTP/1.1 200 OK\r\nX: a\x7fb\r\nContent-Length: 2\r\n\r\n{}",
    "escape in the reason": b"HTTP/1.1 200 O\x1b[31mK\r\nContent-Length: 2\r\n\r\n{}",
    "escape in a dropped header": b"HTTP/1.1 200 OK\r\nSet-Cookie: a\x1bb\r\nContent-Length: 2\r\n\r\n{}",
    "space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
    "no name of a header": b"HTTP/1.1 200 OK\r\nX(y): a\r\nContent-Length: 2\r\n\r\n{}",
    "unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks, then gzip": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "gzip, then chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two codings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "identity": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n{}",
    "huge header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    "too many headers": b"HTTP/1.1 200 OK\r\n"
    + b"".join(b"X-%d: a\r\n" % n for n in range(500))
    + b"Content-Length: 2\r\n\r\n{}",
    "tls": b"\x15\x03\x01\x00\x02\x02\x46",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", list(BAD))
async def test_what_is_no_valid_answer_is_502_with_fixed_words(kind: str) -> None:
    answer = await ask(fixed(BAD[kind]))
    assert answer.status == 502
    error = answer.json()["error"]
    assert error["type"] == "server_error"
    assert "127.0.0.1" not in error["message"]


async def test_a_head_that_cannot_be_passed_on_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert (await ask(fixed(BAD["escape in a header"]))).status == 502
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.name for record in told] == ["reconciler.proxy.forward"]
    assert "\x1b" not in told[0].getMessage()
    assert told[0].exc_info is None


GOOD = {
    "old version": (b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhello", b"hello"),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
    "bare line feeds": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}", b"{}"),
    "chunk extension": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n", b"{}"),
    "interim answers": (b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
    "latin-1 in the reason": (b"HTTP/1.1 200 d\xe9j\xe0\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
    "chunks in capitals": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", b"{}"),
    "tab in a header": (b"HTTP/1.1 200 OK\r\nX: a\tb\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
    "latin-1 in a header": (b"HTTP/1.1 200 OK\r\nX: caf\xe9\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
}


@pytest.mark.parametrize("kind", list(GOOD))
async def test_what_is_odd_but_clear_passes(kind: str) -> None:
    raw, body = GOOD[kind]
    answer = await ask(fixed(raw))
    assert (answer.status, answer.body, answer.whole) == (200, body, True)


async def test_bytes_after_an_answer_never_become_the_next_one() -> None:
    extra = plain(b'{"first":1}') + plain(b'{"smuggled":1}')
    async with proxied(lambda exchange: exchange.send(extra)) as (_backend, server):
        for _ in range(3):
            answer = await server.chat("tiny")
            assert answer.status in (200, 502)
            assert b"smuggled" not in answer.body


async def test_a_body_where_none_may_be_does_not_reach_the_next_answer() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nxx")

    async with proxied(script) as (_backend, server), server.connected() as client:
        for _ in range(2):
            await client.send(encoded("POST", "/v1/x", {"model": "tiny"}))
            answer = await client.answer()
            assert answer.status in (204, 502)


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 2\r\n\r\nxx", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"\r\n"]
)
async def test_a_reset_content_promises_no_body(framing: bytes) -> None:
    script = fixed(b"HTTP/1.1 205 Reset Content\r\n" + framing)
    async with proxied(script) as (_backend, server), server.connected() as client:
        for _ in range(2):
            await client.send(encoded("POST", "/v1/x", {"model": "tiny"}))
            answer = await client.answer()
            assert (answer.status, answer.body, answer.headers["content-length"]) == (205, b"", "0")
