"""Who is in flight: what draining and idle stops wait for. Counted by the proxy, read by the loop; nothing here is ever awaited on.

A lease belongs to one request on one target from before its first byte goes up until its last byte came down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from reconciler.core.observed import Demand
from reconciler.host.clock import Clock


@dataclass(slots=True)
class Lease:
    """One request on one target."""

    instance: str
    target: str
    book: Leases

    def progress(self) -> None:
        """A byte of the answer came from the backend."""
        self.book.note_progress(self.target)


@dataclass(slots=True)
class _Use:
    waiting: int = 0
    in_flight: int = 0
    last_end: float | None = None


class Leases:
    """The book of requests in flight and requests that wait for a start."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_target: dict[str, int] = {}
        self._progress: dict[str, float] = {}
        self._uses: dict[str, _Use] = {}
        self._awaited: frozenset[str] = frozenset()
        self._wake: Callable[[], None] = lambda: None

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` when a count changed in a way that the planner waits for: an awaited target became empty, a first request waits."""
        self._wake = wake

    def keep(self, *, instances: Collection[str], awaited: Collection[str]) -> None:
        """Forget instances that are neither named nor in use; from now on the end of the last request on an ``awaited`` target wakes."""
        self._awaited = frozenset(awaited)
        for name in [
            n for n, use in self._uses.items() if n not in instances and not use.waiting and not use.in_flight
        ]:
            del self._uses[name]

    @contextmanager
    def hold(self, instance: str, target: str) -> Iterator[Lease]:
        """A request is on ``target`` for as long as the block lasts."""
        use = self._use(instance)
        use.in_flight += 1
        self._by_target[target] = self._by_target.get(target, 0) + 1
        try:
            yield Lease(instance, target, self)
        finally:
            use.in_flight -= 1
            use.last_end = self._clock.monotonic()
            left = self._by_target[target] - 1
            if left:
                self._by_target[target] = left
            else:
                del self._by_target[target]
                self._progress.pop(target, None)
                if target in self._awaited:
                    self._wake()

    @contextmanager
    def waiting(self, instance: str) -> Iterator[None]:
        """A request waits for the instance to start for as long as the block lasts."""
        use = self._use(instance)
        use.waiting += 1
        if use.waiting == 1:
            self._wake()
        try:
            yield
        finally:
            use.waiting -= 1
            use.last_end = self._clock.monotonic()

    def note_progress(self, target: str) -> None:
        """``target`` sent a byte."""
        if target in self._by_target:
            self._progress[target] = self._clock.monotonic()

    def in_flight(self, target: str) -> int:
        """Requests on one target now; what balancing by least outstanding requests compares."""
        return self._by_target.get(target, 0)

    def progress_at(self, target: str) -> float | None:
        """When the target last sent a byte while it had a request, monotonic seconds."""
        return self._progress.get(target)

    def waiting_for(self, instance: str) -> int:
        """Requests that wait for the instance now."""
        use = self._uses.get(instance)
        return use.waiting if use else 0

    def demand(self, instance: str) -> Demand:
        """What the planner sees of it."""
        use = self._uses.get(instance)
        if use is None:
            return Demand()
        return Demand(waiting=use.waiting, in_flight=use.in_flight, last_end=use.last_end)

    def _use(self, instance: str) -> _Use:
        return self._uses.setdefault(instance, _Use())
