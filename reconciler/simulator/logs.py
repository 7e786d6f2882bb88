"""What the simulator writes: log lines on stderr (as many as a fault asks for), and the record of calls in a file."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress

FLOOD_TICK_S = 0.02
"""How often the flood writes what is due, seconds: smooth enough to follow, cheap at 100,000 lines a second."""

FLOOD_LINE = "DEBUG simulated engine step {number}: batch 1, queue 0, nothing to see here"


def log(text: str) -> None:
    """Writes lines to stderr. A reader that is gone or a full disk must not end a server, so those errors are dropped."""
    with suppress(OSError):
        os.write(2, text.encode("utf-8", "backslashreplace") + b"\n")


async def flood(lines_per_second: float) -> None:
    """Writes so many lines a second until cancelled; after a stall it makes up for one second at most."""
    started = time.monotonic()
    written = 0
    while lines_per_second > 0:
        due = int((time.monotonic() - started) * lines_per_second)
        first = max(written, due - int(lines_per_second) - 1)
        if due > first:
            log("\n".join(FLOOD_LINE.format(number=number) for number in range(first, due)))
        written = due
        await asyncio.sleep(max(FLOOD_TICK_S, min(1.0, 1 / lines_per_second)))


class CallLog:
    """One JSON line per inference request, each a single appending write, so that replicas may share the file."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._file: int | None = None

    def open(self) -> None:
        """Opens the file, if there is one to write; raises `OSError`."""
        if self._path is not None:
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, record: Mapping[str, object]) -> None:
        """Appends one record."""
        if self._file is not None:
            os.write(self._file, json.dumps(record).encode() + b"\n")
