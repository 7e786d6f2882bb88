"""Clients that leave, do not read, send slowly or too much: what it costs the backend and us stays bounded."""

from __future__ import annotations

import asyncio
import gc
import json
import socket

import psutil
import pytest

from reconciler.core.spec import ServerSpec
from reconciler.proxy import intake, relay
from reconciler.proxy.intake import Budget, HeldBody
from reconciler.proxy.refusals import Refusal
from tests.proxy.upstreams import SSE_HEAD, Exchange, Script, event, proxied, upstream
from tests.server.fakes import DEADLINE_S, Connection, FakeControl, Server, encoded, route, routes, serving, target

ASK = encoded("POST", "/v1/chat/completions", {"model": "tiny", "stream": True})


async def silent(exchange: Exchange) -> None:
    await exchange.gone.wait()


async def begin_and_pause(exchange: Exchange) -> None:
    await exchange.send(SSE_HEAD)
    await exchange.chunk(event("a"))
    await exchange.gone.wait()


async def stream_for_ever(exchange: Exchange) -> None:
    await exchange.send(SSE_HEAD)
    while not exchange.gone.is_set():
        await exchange.chunk(event("a"))
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("script", [silent, begin_and_pause, stream_for_ever])
async def test_a_client_that_leaves_ends_the_work_of_the_backend_at_once(script: Script) -> None:
    async with proxied(script) as (backend, server):
        async with server.connected() as client:
            await client.send(ASK)
            await backend.until(lambda: len(backend.seen) == 1, "the request arrives")
            if script is not silent:
                await client.reader.readuntil(b"\n\n")
            client.reset()
        async with asyncio.timeout(1.0):
            await backend.until(lambda: backend.open == 0, "the proxy leaves")
        assert server.control.leases.demand("tiny").in_flight == 0


async def test_a_client_that_leaves_while_it_uploads_leaves_nothing_behind() -> None:
    async with proxied() as (backend, server):
        async with server.connected() as client:
            await client.send(encoded("POST", "/v1/x", headers={"Content-Length": "1000000"}) + b'{"model": "tiny", ')
            client.reset()
        assert (await server.chat("tiny")).status == 200
    assert len(backend.seen) == 1


async def test_a_hundred_clients_that_leave_together_free_every_slot() -> None:
    async with proxied(begin_and_pause) as (backend, server):
        clients = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(100)]
        for _, writer in clients:
            writer.write(ASK)
        await backend.until(lambda: len(backend.seen) == 100, "all requests arrive")
        assert server.control.leases.in_flight(f"replica-{backend.port}") == 100
        for _, writer in clients:
            writer.transport.abort()
        await backend.until(lambda: backend.open == 0, "all slots are free")
        assert server.control.leases.demand("tiny").in_flight == 0


async def small_client(port: int) -> Connection:
    """A client whose socket holds next to nothing, so that not reading is felt soon."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    found.setblocking(False)
    await asyncio.get_running_loop().sock_connect(found, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=found, limit=4096)
    return Connection(reader, writer)


class Flood:
    """A backend that sends as much as it is allowed to."""

    TOTAL = 300_000_000
    CHUNK = b"x" * 60_000

    def __init__(self) -> None:
        self.sent = 0
        self.ended = asyncio.Event()

    async def script(self, exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        try:
            while self.sent < self.TOTAL:
                await exchange.chunk(b"data: " + self.CHUNK + b"\n\n")
                self.sent += len(self.CHUNK)
        finally:
            self.ended.set()

    async def stalled_at(self) -> int:
        """How much it could send before it was stopped."""
        async with asyncio.timeout(DEADLINE_S):
            before = -1
            while self.sent != before:
                before = self.sent
                await asyncio.sleep(0.3)
        return self.sent


async def test_a_client_that_does_not_read_stops_the_backend_and_costs_no_memory() -> None:
    flood = Flood()
    async with proxied(flood.script) as (_, server):
        gc.collect()
        before = psutil.Process().memory_info().rss
        client = await small_client(server.port)
        await client.send(ASK)
        assert await flood.stalled_at() < 30_000_000  # what the kernel's socket buffers hold, a tenth of the whole
        assert psutil.Process().memory_info().rss - before < 20_000_000
        got = 0
        while got < 40_000_000:
            got += len(await client.reader.read(1_000_000))
        assert flood.sent > 40_000_000  # it goes on as soon as the client reads
        client.reset()
        async with asyncio.timeout(DEADLINE_S):
            await flood.ended.wait()


async def test_a_client_that_never_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "WRITE_STALL_S", 0.3)
    flood = Flood()
    async with proxied(flood.script) as (backend, server):
        client = await small_client(server.port)
        await client.send(ASK)
        await backend.until(lambda: len(backend.seen) == 1 and backend.open == 0, "the backend's slot is free")
        assert server.control.leases.demand("tiny").in_flight == 0
        client.reset()


async def test_a_backend_that_falls_silent_in_the_middle_is_given_up_visibly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "STREAM_IDLE_S", 0.2)
    async with proxied(begin_and_pause) as (_, server):
        answer = await server.request("POST", "/v1/chat/completions", {"model": "tiny"})
    assert not answer.whole
    assert answer.body.startswith(event("a") + b"event: error\n")


def limited(port: int, limit: int) -> FakeControl:
    return FakeControl(routes(route("tiny", target(port)), server=ServerSpec(max_body_size=limit)))


async def chunked_until_refused(server: Server, total: int) -> tuple[int, int]:
    """Send a chunked body until there is an answer: its status, and the bytes that went out."""
    async with server.connected() as client:
        await client.send(encoded("POST", "/v1/x", headers={"Transfer-Encoding": "chunked"}))
        answer = asyncio.ensure_future(client.answer())
        piece, sent = b"x" * 50_000, 0
        while sent < total and not answer.done():
            client.writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            sent += len(piece)
            await asyncio.sleep(0)
        return (await answer).status, sent


async def test_a_body_beyond_the_limit_is_413_declared_or_not() -> None:
    async with upstream() as backend, serving(limited(backend.port, 1_000_000)) as server:
        gc.collect()
        before = psutil.Process().memory_info().rss
        declared = await server.request("POST", "/v1/x", headers={"Content-Length": "100000000"})
        assert declared.status == 413
        assert "max_body_size" in declared.json()["error"]["message"]
        assert declared.headers["connection"] == "close"
        status, sent = await chunked_until_refused(server, 100_000_000)
        assert status == 413
        assert sent < 100_000_000
        assert psutil.Process().memory_info().rss - before < 30_000_000
        fits = json.dumps({"model": "tiny", "x": "y" * 900_000}).encode()
        assert (await server.request("POST", "/v1/x", fits)).status == 200
    assert len(backend.seen) == 1


async def test_an_upload_that_drips_or_stops_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "SILENCE_S", 0.4)
    async with proxied() as (backend, server):
        async with server.connected() as client:
            await client.send(encoded("POST", "/v1/x", headers={"Content-Length": "1000"}))
            assert (await client.answer()).status == 408
        async with server.connected() as client:
            await client.send(encoded("POST", "/v1/x", headers={"Content-Length": "1000"}))
            answer = asyncio.ensure_future(client.answer())
            drops = 0
            while not answer.done():
                client.writer.write(b"{")
                drops += 1
                await asyncio.wait({answer}, timeout=0.1)
            assert answer.result().status == 408
            assert 3 <= drops < 100
    assert not backend.seen


async def test_a_body_cut_or_malformed_is_never_sent_on() -> None:
    async with proxied() as (backend, server), server.connected() as client:
        await client.send(encoded("POST", "/v1/x", headers={"Transfer-Encoding": "chunked"}) + b'5\r\n{"mod\r\nzz\r\n')
        assert (await client.answer()).status == 400
        assert await client.at_end()
    assert not backend.seen


async def test_expect_100_continue_is_answered_before_the_body_and_refused_before_it() -> None:
    body = b'{"model": "tiny"}'
    expect = {"Expect": "100-continue", "Content-Length": str(len(body)), "Content-Type": "application/json"}
    async with upstream() as backend, serving(limited(backend.port, 1024)) as server:
        async with server.connected() as client:
            await client.send(encoded("POST", "/v1/x", headers=expect))
            assert (await client.answer()).status == 100
            await client.send(body)
            assert (await client.answer()).status == 200
        too_long = await server.request("POST", "/v1/x", headers={**expect, "Content-Length": "5000"})
        assert too_long.status == 413
        assert (await server.request("POST", "/v1/x", headers={**expect, "Expect": "miracles"})).status == 417
    assert "expect" not in backend.seen[0].headers


def test_all_bodies_together_have_a_budget_and_give_it_back() -> None:
    budget = Budget(100)
    with HeldBody(budget) as first:
        first.add(b"x" * 80)
        with HeldBody(budget) as second, pytest.raises(Refusal) as refused:
            second.add(b"x" * 30)
        assert refused.value.status == 503
        assert "Retry-After" in refused.value.headers
        first.release()
        assert budget.held == 0
    assert budget.held == 0
