"""The only place of the daemon that reads a clock or sleeps; everything else is handed a ``Clock`` or a number.

Durations are always monotonic, so a jump of the wall clock never fires or loses a timer; wall time is for people.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Time as an interface; the tests have one that is moved by hand."""

    def monotonic(self) -> float:
        """Seconds since some point of this boot; the same for every process of the host."""
        ...

    def now(self) -> float:
        """Unix time, seconds; may jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many monotonic seconds; zero or less only lets others run."""
        ...


class SystemClock:
    """The host's clocks."""

    def monotonic(self) -> float:
        """Seconds of the host's monotonic clock."""
        return time.monotonic()

    def now(self) -> float:
        """Unix time, seconds."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running event loop."""
        await asyncio.sleep(max(0.0, seconds))


def rfc3339(unix: float) -> str:
    """``2026-09-01T10:00:00.250Z`` for Unix seconds: UTC, to the millisecond."""
    moment = datetime.fromtimestamp(unix, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
