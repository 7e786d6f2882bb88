"""Backends made of a bare socket: they record the exact request and answer exact bytes, or die where the test says."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.server.fakes import DEADLINE_S, FakeControl, Server, route, routes, serving, target

OK_JSON = b'{"id":"x","object":"chat.completion","choices":[]}'


@dataclass
class Seen:
    """One request as it arrived."""

    head: bytes
    headers: Mapping[str, str]
    body: bytes

    @property
    def line(self) -> str:
        """Method, target and version."""
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")


class Exchange:
    """One request and the means to answer it."""

    def __init__(self, seen: Seen, writer: asyncio.StreamWriter, gone: asyncio.Event) -> None:
        self.seen = seen
        self.writer = writer
        self.gone = gone
        """Set when the proxy's side ended."""
        self.sent = 0

    async def send(self, data: bytes) -> None:
        """Write and wait until the transport took it."""
        self.writer.write(data)
        await self.writer.drain()
        self.sent += len(data)

    async def chunk(self, data: bytes) -> None:
        """One chunk of a chunked body."""
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def cut(self) -> None:
        """End in good order, wherever this is."""
        self.writer.close()

    def reset(self) -> None:
        """Die: the connection is reset."""
        found = self.writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


async def answer_ok(exchange: Exchange) -> None:
    """A plain 200."""
    await exchange.send(plain(OK_JSON))


def plain(body: bytes, *, status: str = "200 OK", kind: str = "application/json", extra: str = "") -> bytes:
    """An answer with a length."""
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


def fixed(answer: bytes) -> Script:
    """Always these bytes; then the connection ends."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(answer)
        exchange.cut()

    return script


SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
SSE_HEAD_CLOSE = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def event(text: str) -> bytes:
    """One OpenAI stream event."""
    return b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % text.encode()


@dataclass
class Upstream:
    """A listening backend."""

    port: int
    script: Script
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something this backend sees."""
        try:
            async with asyncio.timeout(DEADLINE_S), self.changed:
                await self.changed.wait_for(condition)
        except TimeoutError:
            raise AssertionError(f"waited in vain for: {what}") from None

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        await self._tell()
        try:
            while (seen := await _read_request(reader)) is not None:
                self.seen.append(seen)
                await self._tell()
                await self._answer(seen, reader, writer)
                if writer.is_closing():
                    break
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            await self._tell()
            writer.close()

    async def _answer(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone = asyncio.Event()
        script = asyncio.ensure_future(self.script(Exchange(seen, writer, gone)))
        # while it answers nothing else is sent to it, so that reading tells when the proxy leaves
        watch = asyncio.ensure_future(_end(reader))
        try:
            await asyncio.wait({script, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not script.done():
                gone.set()
                await asyncio.wait({script}, timeout=1.0)
            if not script.done():
                writer.transport.abort()
                script.cancel()
        finally:
            watch.cancel()
            await asyncio.wait({script, watch})
            with suppress(ConnectionError, asyncio.CancelledError):
                script.result()


async def _end(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while not reader.at_eof() and not reader._buffer:  # type: ignore[attr-defined]  # peeking has no public name
            await reader._wait_for_data("watch")  # type: ignore[attr-defined]  # the same


async def _read_request(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")[1:]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = b""
        if "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        elif "transfer-encoding" in headers:
            body = await _read_chunks(reader)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return Seen(head, headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body


@asynccontextmanager
async def upstream(script: Script = answer_ok, *, port: int = 0) -> AsyncIterator[Upstream]:
    """A backend on a free port of loopback."""
    backend = Upstream(0, script)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await backend.serve(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", port, limit=2**24)
    backend.port = server.sockets[0].getsockname()[1]
    try:
        yield backend
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def refused_port() -> int:
    """A port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def proxied(script: Script = answer_ok) -> AsyncIterator[tuple[Upstream, Server]]:
    """One such backend as the instance ``tiny``, behind the real application."""
    async with upstream(script) as backend, serving(FakeControl(routes(route("tiny", target(backend.port))))) as server:
        yield backend, server
