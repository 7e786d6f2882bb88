"""The plan as data: conditional, instantaneous actions with their cause, and waits with their reason and deadline.

``Plan.lines()`` is what users read and what the golden tests compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from reconciler.core.contracts import Handle, Launch


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start one replica."""

    instance: str
    serial: int
    launch: Launch
    revision: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Give it no more requests."""

    handle: Handle
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Ask its main process to end."""

    handle: Handle
    asked: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """End everything of it at once."""

    handle: Handle
    asked: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Fold the record of an ended replica into the instance's history."""

    handle: Handle
    cause: str


Action = Start | Drain | Stop | Kill | Forget


class WaitFor(StrEnum):
    """What a wait is for; stable words for programs."""

    READY = "ready"
    DRAIN = "drain"
    STOP = "stop"
    BACKOFF = "backoff"
    SLOT = "slot"
    UNKNOWN = "unknown"
    EXHAUSTED = "exhausted"
    IDLE = "idle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Something has to happen first."""

    instance: str
    what: WaitFor
    reason: str
    until: float | None
    """Monotonic seconds at which to look again; None when only an event can change it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now, and what is waited for."""

    actions: tuple[Action, ...] = ()
    waits: tuple[Wait, ...] = ()

    @property
    def wake_at(self) -> float | None:
        """Earliest deadline among the waits, monotonic seconds."""
        return min((wait.until for wait in self.waits if wait.until is not None), default=None)

    def waits_of(self, instance: str) -> tuple[Wait, ...]:
        """The waits of one instance."""
        return tuple(wait for wait in self.waits if wait.instance == instance)

    def lines(self) -> list[str]:
        """One line per action, then one per wait."""
        return [describe(action) for action in self.actions] + [
            f"wait   {wait.instance}: {wait.reason}" for wait in self.waits
        ]


def describe(action: Action) -> str:
    """One action for people: verb, replica, cause."""
    match action:
        case Start():
            return f"start  {action.instance}#{action.serial} at {action.revision}: {action.cause}"
        case Drain():
            return f"drain  {action.handle.replica}: {action.cause}"
        case Stop():
            return f"stop   {action.handle.replica}: {action.cause}"
        case Kill():
            return f"kill   {action.handle.replica}: {action.cause}"
        case Forget():
            return f"forget {action.handle.replica}: {action.cause}"
        case _:
            assert_never(action)


def instance_of(action: Action) -> str:
    """The instance that an action belongs to."""
    return action.instance if isinstance(action, Start) else action.handle.instance
