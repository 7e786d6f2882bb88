"""The phases of a replica and the arithmetic of failure: which phase follows from the facts, how long to back off, when to give up.

Phases are derived, never stored. A replica lives through them in this order, leaving early when it fails or is not wanted:

    starting -> ready <-> unready -> draining -> stopping -> stopped
    unknown can stand in for any of them until the runtime can tell.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import assert_never

from reconciler.core.contracts import ExitRecord, ProcessState
from reconciler.core.observed import Failures, Replica
from reconciler.core.spec import RestartSpec

JITTER = 0.2
"""Backoff is spread over 80 to 100 % of the doubled delay, so that instances that died together do not return together."""

STARTING_GRACE_S = 3.0
"""Grace for a replica that never served, seconds: it has nothing to finish, and vLLM ignores SIGTERM for minutes while it loads."""


class Phase(StrEnum):
    """Where a replica or an instance stands."""

    STOPPED = "stopped"
    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    DRAINING = "draining"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"
    SLEEPING = "sleeping"
    UNKNOWN = "unknown"


def phase_of(replica: Replica) -> Phase:
    """The phase that follows from what is known."""
    match replica.facts.state:
        case ProcessState.UNKNOWN:
            return Phase.UNKNOWN
        case ProcessState.EXITED:
            return Phase.STOPPED
        case ProcessState.STOPPING:
            return Phase.STOPPING
        case ProcessState.RUNNING:
            if replica.draining_since is not None:
                return Phase.DRAINING
            if replica.health.ready:
                return Phase.READY
            return Phase.UNREADY if was_ready(replica) else Phase.STARTING
        case _:
            assert_never(replica.facts.state)


def was_ready(replica: Replica) -> bool:
    """Whether it ever served."""
    return replica.health.ready or replica.facts.ready_since is not None


def backoff_delay(name: str, count: int, restart: RestartSpec) -> float:
    """Seconds to wait after the ``count``-th failure in a row: doubling, capped, spread by name so that it is the same at each pass."""
    if count <= 0:
        return 0.0
    doubled = min(restart.initial_delay * 2.0 ** min(count - 1, 63), restart.max_delay)
    spread = int.from_bytes(hashlib.sha256(f"{name}/{count}".encode()).digest()[:4]) / 2**32
    return doubled * (1.0 - JITTER * spread)


def exhausted(failures: Failures | None, restart: RestartSpec) -> str | None:
    """Why no further start is allowed, or None."""
    if failures is None or failures.count == 0:
        return None
    if restart.policy == "never":
        return "it ended and restart.policy is never"
    if restart.max_restarts is not None and failures.count > restart.max_restarts:
        return f"it failed {failures.count} times in a row and restart.max_restarts is {restart.max_restarts}"
    return None


def given_up(failures: Failures, attempts: int) -> str | None:
    """Why a new revision is not tried any more while there is a good one, or None."""
    if failures.timed_out:
        return "it was not ready within start_timeout"
    return f"{failures.count} starts failed" if failures.count >= attempts else None


def describe_exit(record: ExitRecord | None) -> str:
    """How it ended, for people."""
    if record is None:
        return "ended, nobody saw how"
    if record.error is not None:
        return record.error
    if record.signal is not None:
        return f"killed by {record.signal}"
    return f"exit code {record.code}"


def span(seconds: float) -> str:
    """A duration as users write it: ``90s``, ``20m``, ``1.5s``."""
    if seconds >= 60 and seconds % 60 == 0:
        minutes = int(seconds // 60)
        return f"{minutes // 60}h" if minutes % 60 == 0 else f"{minutes}m"
    return f"{seconds:g}s"
