"""A scripted controller behind the real HTTP application on a real socket, and a client that sends exact bytes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from reconciler.control.edits import PreconditionFailed
from reconciler.control.events import EventLog
from reconciler.control.leases import Leases
from reconciler.control.routes import Route, Routes, Target
from reconciler.core.contracts import Backend, Endpoint, LogFile
from reconciler.core.desired import Mode
from reconciler.core.errors import Conflict, Missing, Problem, Rejected
from reconciler.core.lifecycle import Phase
from reconciler.core.spec import AccessKey, BackendsSpec, QueueSpec, ServerSpec
from reconciler.host.clock import SystemClock
from reconciler.proxy.auth import Authorizer
from reconciler.server.app import make_app, make_runner

DEADLINE_S = 20.0
"""Longest any single wait in these tests lasts, seconds."""

MANAGEMENT_KEY = "management-key-of-the-tests"
INFERENCE_KEY = "inference-key-of-the-tests"


def access_key(key: str, name: str = "test", instances: Sequence[str] | None = None) -> AccessKey:
    """The key as the daemon holds it."""
    granted = frozenset(instances) if instances is not None else None
    return AccessKey(name=name, digest=hashlib.sha256(key.encode()).digest(), instances=granted)


def target(port: int, *, key: str | None = None, model: str | None = None, api_key: str | None = None) -> Target:
    """A replica on loopback."""
    endpoint = Endpoint(host="127.0.0.1", port=port, api_key=api_key, served_model=model)
    return Target(key=key or f"replica-{port}", endpoint=endpoint, handle=None)


def route(
    name: str,
    *targets: Target,
    aliases: Sequence[str] = (),
    mode: Mode = Mode.RUNNING,
    phase: Phase | None = None,
    start_wait: float = 10.0,
    queue: int = 1000,
    reason: str = "",
    retry_after: int = 7,
) -> Route:
    """One instance as the proxy sees it."""
    return Route(
        instance=name,
        backend_type="simulator",
        mode=mode,
        phase=phase or (Phase.READY if targets else Phase.STARTING),
        targets=targets,
        aliases=tuple(aliases),
        created=1_750_000_000,
        start_wait=start_wait,
        queue=QueueSpec(length=queue),
        reason=reason,
        retry_after=retry_after,
    )


def routes(
    *entries: Route,
    server: ServerSpec | None = None,
    management: Sequence[AccessKey] = (),
    inference: Sequence[AccessKey] = (),
) -> Routes:
    """A snapshot."""
    names = {entry.instance: entry.instance for entry in entries}
    for entry in entries:
        for alias in entry.aliases:
            names.setdefault(alias, entry.instance)
    return Routes(
        generation=1,
        server=server or ServerSpec(),
        by_instance={entry.instance: entry for entry in entries},
        names=names,
        management_keys=tuple(management),
        inference_keys=tuple(inference),
    )


@dataclass
class FakeControl:
    """Answers like the controller, from values that a test sets."""

    snapshot: Routes = field(default_factory=Routes)
    backends: Mapping[str, Backend] = field(default_factory=dict)
    programs: BackendsSpec = field(default_factory=BackendsSpec)
    instances: dict[str, dict[str, object]] = field(default_factory=dict)
    text: bytes = b"instances: {}\n"
    not_ready: list[str] = field(default_factory=list)
    saved: bool = False
    log_files: dict[str, list[LogFile]] = field(default_factory=dict)
    calls: list[tuple[object, ...]] = field(default_factory=list)
    fails: Exception | None = None

    def __post_init__(self) -> None:
        self.clock = SystemClock()
        self.events = EventLog(self.clock)
        self.leases = Leases(self.clock)
        self._news = asyncio.Event()

    @property
    def routes(self) -> Routes:
        return self.snapshot

    def publish(self, snapshot: Routes) -> None:
        """Put another snapshot in force."""
        self.snapshot = snapshot
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def routes_changed(self, seen: Routes, timeout: float) -> Routes:  # noqa: ASYNC109  # the controller's signature
        async with asyncio.timeout(timeout):
            while self.snapshot is seen:
                await self._news.wait()
        return self.snapshot

    def _note(self, *call: object) -> None:
        self.calls.append(call)
        if self.fails is not None:
            raise self.fails

    def _known(self, name: str) -> dict[str, object]:
        if name not in self.instances:
            raise Missing(f"there is no instance {name}")
        return self.instances[name]

    def status(self) -> dict[str, object]:
        return {
            "schema_version": 1,
            "generation": 3,
            "observed_generation": 3,
            "config": {"valid": True, "problems": []},
            "instances": list(self.instances.values()),
        }

    async def file_pending(self) -> bool:
        return self.saved

    def instance(self, name: str) -> dict[str, object]:
        return self._known(name)

    def ready_report(self) -> tuple[bool, list[str]]:
        return not self.not_ready, list(self.not_ready)

    async def plan(self, text: bytes | None) -> dict[str, object]:
        self._note("plan", text)
        return {"schema_version": 1, "pending": False, "changes": [], "steps": [], "warnings": []}

    async def config(self) -> tuple[bytes, str]:
        return self.text, hashlib.sha256(self.text).hexdigest()

    async def apply(self, text: bytes, *, if_match: str | None) -> dict[str, object]:
        self._note("apply", text, if_match)
        if if_match is not None and if_match != hashlib.sha256(self.text).hexdigest():
            raise PreconditionFailed("the file changed meanwhile; read it again")
        self.text = text
        return {"generation": 4, "etag": hashlib.sha256(text).hexdigest(), "changed": [], "removed": [], "warnings": []}

    async def create(self, name: str, body: Mapping[str, object]) -> dict[str, object]:
        self._note("create", name, dict(body))
        if name in self.instances:
            raise Conflict(f"there is an instance {name} already; PUT replaces it")
        if "backend_type" not in body:
            raise Rejected(Problem(message="backend_type is missing", file="llamactl.yaml", line=4, column=3))
        self.instances[name] = {"name": name, "phase": "pending", "ready": False, "restarts": 0}
        return self.instances[name]

    async def replace(self, name: str, body: Mapping[str, object]) -> dict[str, object]:
        self._note("replace", name, dict(body))
        return self._known(name)

    async def delete(self, name: str) -> dict[str, object]:
        self._note("delete", name)
        self._known(name)
        return {"name": name, "removed": True}

    async def set_enabled(self, name: str, enabled: bool) -> dict[str, object]:
        self._note("set_enabled", name, enabled)
        return self._known(name)

    async def restart(self, name: str) -> dict[str, object]:
        self._note("restart", name)
        return self._known(name)

    def logs(self, name: str) -> Sequence[LogFile]:
        if name not in self.log_files:
            raise Missing(f"there is no instance {name}")
        return list(self.log_files[name])

    def begin_down(self) -> int:
        self._note("down")
        return len(self.instances)


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, read as far as it went; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool
    """It had its proper end: all of its length, its last chunk, or an orderly close where nothing else marks it."""

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Connection:
    """A client's connection that sends exactly what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        async with asyncio.timeout(DEADLINE_S):
            await self.writer.drain()

    async def answer(self, *, head: bool = False) -> Answer:
        """Read one answer; ``head`` for one to a HEAD request. An answer that never began has status 0."""
        async with asyncio.timeout(DEADLINE_S):
            return await self._answer(head=head)

    async def _answer(self, *, head: bool) -> Answer:
        try:
            raw = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return Answer(0, {}, b"", whole=False)
        first, *lines = raw.decode("latin-1").split("\r\n")
        status = int(first.split()[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        if head or status in (100, 204, 304):
            return Answer(status, headers, b"", whole=True)
        body = bytearray()
        whole = await self._body(headers, body)
        return Answer(status, headers, bytes(body), whole=whole)

    async def _body(self, headers: Mapping[str, str], body: bytearray) -> bool:
        try:
            if headers.get("transfer-encoding") == "chunked":
                while True:
                    size = int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16)
                    body += (await self.reader.readexactly(size + 2))[:-2]
                    if size == 0:
                        return True
            if "content-length" in headers:
                body += await self.reader.readexactly(int(headers["content-length"]))
                return True
            while chunk := await self.reader.read(65536):
                body += chunk
        except asyncio.IncompleteReadError as cut:
            body += cut.partial
            return False
        except ConnectionError:
            return False
        return True

    async def at_end(self) -> bool:
        """Wait for the server to close; whether it did so without sending more."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    def reset(self) -> None:
        """Leave at once."""
        self.writer.transport.abort()


class Server:
    """The application on a port."""

    def __init__(self, port: int, control: FakeControl) -> None:
        self.port = port
        self.control = control

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        """A fresh connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        try:
            yield Connection(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own; a body that is not bytes goes as JSON."""
        async with self.connected() as connection:
            await connection.send(encoded(method, path, body, key=key, headers=headers))
            return await connection.answer(head=method == "HEAD")

    async def chat(self, model: str, *, key: str | None = None, **fields: object) -> Answer:
        """A chat request with one message."""
        body = {"model": model, "messages": [{"role": "user", "content": "hello there"}], **fields}
        return await self.request("POST", "/v1/chat/completions", body, key=key)


def encoded(
    method: str, path: str, body: object = None, *, key: str | None = None, headers: Mapping[str, str] | None = None
) -> bytes:
    """A request as bytes."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    fields = {"Host": "127.0.0.1", **(headers or {})}
    if body is not None:
        fields.setdefault("Content-Type", "application/json")
        fields.setdefault("Content-Length", str(len(raw)))
    if key is not None:
        fields["Authorization"] = f"Bearer {key}"
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "surrogateescape") + raw


@asynccontextmanager
async def serving(
    control: FakeControl, *, local_key: str | None = None, keepalive: float = 15.0
) -> AsyncIterator[Server]:
    """The real application over a scripted controller, on a free port of loopback."""
    runner = make_runner(make_app(control, authorizer=Authorizer(local_key)), keepalive_timeout=keepalive)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield Server(int(runner.addresses[0][1]), control)
    finally:
        await runner.cleanup()
