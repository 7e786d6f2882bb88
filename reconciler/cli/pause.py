"""Time for commands: they are not part of the daemon, but read its clock, so that there is one."""

from __future__ import annotations

import threading

from reconciler.host.clock import SystemClock

_CLOCK = SystemClock()
_NEVER = threading.Event()


def monotonic() -> float:
    """Seconds of the host's monotonic clock."""
    return _CLOCK.monotonic()


def unix_now() -> float:
    """Unix time, seconds."""
    return _CLOCK.now()


def pause(seconds: float) -> None:
    """Sleep; Ctrl-C ends it."""
    _NEVER.wait(max(0.0, seconds))


class Deadline:
    """A point in time that a command must not pass; None is no limit."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else monotonic() + seconds

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return self._end is not None and monotonic() >= self._end

    def pause(self, seconds: float) -> None:
        """Sleep, but not beyond the end."""
        pause(seconds if self._end is None else min(seconds, self._end - monotonic()))
