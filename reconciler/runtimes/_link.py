"""One connection from the daemon to a shim: JSON lines over a local socket.

Every message carries the whole state, so none matters alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from reconciler.core.errors import Transient

LINE_LIMIT = 1 << 20
"""Longest message accepted, bytes; a state with its log tail is under 100 kB."""
CONNECT_TIMEOUT_S = 2.0
"""From connect to hello, seconds; a live shim answers in under a millisecond."""
REQUEST_TIMEOUT_S = 5.0
_ADDRESS_LIMIT = 100
"""Longest path put into a socket address, bytes: the system's own limit is 104 (macOS) or 108 (Linux)."""

State = Mapping[str, object]


async def _open(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a socket whose path may be longer than a socket address."""
    if len(os.fsencode(path)) <= _ADDRESS_LIMIT:
        return await asyncio.open_unix_connection(str(path), limit=LINE_LIMIT)
    if hasattr(os, "O_PATH"):
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{path.name}", limit=LINE_LIMIT)
        finally:
            os.close(folder)
    with tempfile.TemporaryDirectory(prefix="llamactl-") as short:
        (Path(short) / "f").symlink_to(path.parent)
        return await asyncio.open_unix_connection(f"{short}/f/{path.name}", limit=LINE_LIMIT)


class Link:
    """A live connection. ``on_state`` is called with every state that arrives, on the event loop."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_state: Callable[[State], None]
    ) -> None:
        """Use :meth:`over` or :meth:`connect`; then :meth:`greet`."""
        self._reader, self._writer, self._on_state = reader, writer, on_state
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._listener: asyncio.Task[None] | None = None
        self.closed = asyncio.Event()

    @classmethod
    async def over(cls, sock: socket.socket, on_state: Callable[[State], None]) -> Link:
        """Use a connected socket, which the link closes."""
        try:
            reader, writer = await asyncio.open_unix_connection(sock=sock, limit=LINE_LIMIT)
        except BaseException:
            sock.close()
            raise
        return cls(reader, writer, on_state)

    @classmethod
    async def connect(cls, path: Path, on_state: Callable[[State], None]) -> Link:
        """Connect to a control socket; OSError or TimeoutError when nobody answers."""
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await _open(path)
        return cls(reader, writer, on_state)

    async def send_line(self, message: Mapping[str, object]) -> None:
        """One message; ConnectionError when the other side is gone."""
        self._writer.write(json.dumps(message).encode() + b"\n")
        await self._writer.drain()

    async def greet(self, patience: float) -> Mapping[str, object]:
        """The shim's first line within ``patience`` seconds; after a hello, states are followed.

        TimeoutError, or ConnectionError when it ended instead.
        """
        async with asyncio.timeout(patience):
            line = await self._read()
        if line is None:
            raise ConnectionError("the supervisor closed the connection")
        if "hello" in line:
            self._listener = asyncio.create_task(self._listen(), name="shim link")
        return line

    async def _read(self) -> Mapping[str, object] | None:
        try:
            line = await self._reader.readline()
            value = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    async def _listen(self) -> None:
        try:
            while (message := await self._read()) is not None:
                state = message.get("state")
                if isinstance(state, dict):
                    self._on_state(state)
                number = message.get("id")
                future = self._waiting.pop(number, None) if isinstance(number, int) else None
                if future is not None and not future.done():
                    future.set_result(None)
        finally:
            for future in self._waiting.values():
                future.cancel()
            self._waiting.clear()
            self._writer.close()
            self.closed.set()

    async def request(self, do: str, **arguments: object) -> None:
        """Ask, and return when it was done; Transient when the shim does not answer."""
        number = next(self._numbers)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = done
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await self.send_line({"id": number, "do": do, **arguments})
                await asyncio.wait([done])
        except (OSError, TimeoutError) as error:
            raise Transient(f"its supervisor does not answer ({type(error).__name__})") from None
        finally:
            self._waiting.pop(number, None)
        if done.cancelled():
            raise Transient("its supervisor ended meanwhile")

    async def close(self) -> None:
        """Let go; the shim goes on."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()
        self.closed.set()
