"""What happened, in order: a bounded ring that status pages, ``llamactl events`` and tests read, live or from a point on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass

from reconciler.host.clock import Clock, rfc3339

KEPT_EVENTS = 2000
"""Events that can be read again: hours of an ordinary day, about 1 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened."""

    id: int
    at: str
    """RFC 3339, UTC."""
    kind: str
    """``action``, ``phase``, ``config``, ``exit`` or ``daemon``."""
    instance: str | None
    message: str

    def as_json(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


class EventLog:
    """The ring. One writer (the loop), any number of readers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ring: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._next = 1
        self._news = asyncio.Event()

    def add(self, kind: str, message: str, *, instance: str | None = None) -> Event:
        """Record one event and wake the readers."""
        event = Event(id=self._next, at=rfc3339(self._clock.now()), kind=kind, instance=instance, message=message)
        self._next += 1
        self._ring.append(event)
        self._news.set()
        self._news = asyncio.Event()
        return event

    def since(self, last_id: int) -> list[Event]:
        """Events after ``last_id`` that are still in the ring."""
        return [event for event in self._ring if event.id > last_id]

    async def follow(self, last_id: int) -> AsyncIterator[Event]:
        """Events after ``last_id``, then each new one as it comes; a reader that falls behind the ring misses the oldest."""
        while True:
            news = self._news
            for event in self.since(last_id):
                last_id = event.id
                yield event
            await news.wait()
