"""Watches the user's file. An event only says "look"; the truth is the file's identity, read when it has been still for a moment.

Whatever way a file is saved (in place, renamed over, a ConfigMap's link swapped, the folder replaced, over a mount without events),
the content is seen: the folders on the way to it are watched, and every few seconds it is looked at anyway.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import watchfiles

from reconciler.config import source
from reconciler.core.errors import Rejected
from reconciler.host.clock import Clock

log = logging.getLogger("llamactl.watch")

SETTLE_S = 0.03
"""Stillness asked of a file before and after reading, seconds: with it no torn read was seen in hundreds of chunked writes."""
LOOK_EVERY_S = 5.0
"""How often the file is looked at without any event, seconds."""
STEP_MS = 10
DEBOUNCE_MS = 50
"""watchfiles hands over a batch after a quiet step, at the latest after the debounce; milliseconds."""
REARM_FIRST_S = 0.5
REARM_SLOWEST_S = 30.0
"""Pause before a broken watch is set up again, doubling, seconds."""


class FileWatch:
    """Follows one file, or one folder of files."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._nudge = asyncio.Event()
        self._polling = False

    def look(self) -> None:
        """Look now (SIGHUP, an edit of our own)."""
        self._nudge.set()

    def identity(self) -> source.Identity:
        """The file's identity now."""
        return source.identify(self._path)

    def read(self) -> source.Source:
        """The file's content now, without waiting for it to be still."""
        return source.read(self._path)

    async def changes(self) -> AsyncIterator[source.Source | Rejected]:
        """The content at first, then after each change of identity; a file that cannot be read comes as Rejected."""
        listener = asyncio.create_task(self._listen(), name="file watch")
        seen: object = None
        try:
            while True:
                self._nudge.clear()
                identity = await asyncio.to_thread(_identity, self._path)
                if identity != seen:
                    settled, content = await self._settled_read()
                    seen = settled
                    yield content
                try:
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._nudge.wait()
                except TimeoutError:
                    continue
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _settled_read(self) -> tuple[object, source.Source | Rejected]:
        """Read between two equal looks at the identity, ``SETTLE_S`` apart."""
        while True:
            before = await asyncio.to_thread(_identity, self._path)
            await self._clock.sleep(SETTLE_S)
            if await asyncio.to_thread(_identity, self._path) != before:
                continue
            content: source.Source | Rejected
            try:
                content = await asyncio.to_thread(source.read, self._path)
            except Rejected as rejected:
                content = rejected
            if await asyncio.to_thread(_identity, self._path) == before:
                return before, content

    async def _listen(self) -> None:
        """Turn file system events into nudges; a watch that breaks is set up again, at last by polling."""
        pause = REARM_FIRST_S
        while True:
            try:
                folders = await asyncio.to_thread(source.watch_folders, self._path)
                await self._listen_to(folders)
                pause = REARM_FIRST_S
            except (OSError, RuntimeError, Rejected) as error:  # watchfiles' own errors are RuntimeErrors
                if not self._polling:
                    log.warning(
                        "cannot watch %s by events: %s; looking every %gs instead", self._path, error, LOOK_EVERY_S
                    )
                self._polling = True
                await self._clock.sleep(pause)
                pause = min(pause * 2, REARM_SLOWEST_S)
                self._nudge.set()

    async def _listen_to(self, folders: tuple[Path, ...]) -> None:
        """Return when the folders on the way to the file are no longer these."""
        existing = [folder for folder in folders if folder.is_dir()]
        watched = _inodes(existing)
        if not existing:
            raise FileNotFoundError(f"no folder on the way to {self._path} exists")
        async for _ in watchfiles.awatch(
            *existing,
            watch_filter=None,
            debounce=DEBOUNCE_MS,
            step=STEP_MS,
            recursive=False,
            rust_timeout=int(LOOK_EVERY_S * 1000),
            yield_on_timeout=True,
        ):
            self._polling = False
            self._nudge.set()
            now = await asyncio.to_thread(source.watch_folders, self._path)
            if now != folders or _inodes(existing) != watched:
                return


def _inodes(folders: list[Path]) -> list[tuple[int, int] | None]:
    """Which folders these paths name now: a folder that was replaced keeps its path, and a watch on the old one is deaf."""
    found: list[tuple[int, int] | None] = []
    for folder in folders:
        try:
            stat = folder.stat()
            found.append((stat.st_dev, stat.st_ino))
        except OSError:
            found.append(None)
    return found


def _identity(path: Path) -> object:
    try:
        return source.identify(path)
    except Rejected as rejected:
        return str(rejected)
    except OSError as error:
        return ("unreadable", error.errno)
