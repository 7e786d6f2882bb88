"""How an instance's history moves on: pure steps from one ``History`` to the next. Who stores it does not matter here."""

from __future__ import annotations

from dataclasses import replace

from reconciler.core.contracts import ASKED_STOP, ASKED_TIMEOUT, ExitRecord, Launch, ReplicaFacts
from reconciler.core.observed import Failures, History, Replica

KEPT_REVISIONS = 8
"""Revisions whose failures are remembered; an instance under edit has two or three that matter."""


def is_failure(record: ExitRecord | None) -> bool:
    """Whether an end counts as a failure: everything but a stop that the declaration asked for, exit code 0 included."""
    return record is None or record.asked != ASKED_STOP


def after_start(history: History, *, serial: int, port: int) -> History:
    """A replica was started: its serial is used up, its port is the one to prefer."""
    return replace(history, next_serial=max(history.next_serial, serial + 1), port=port)


def after_failed_start(history: History, *, serial: int, revision: str, record: ExitRecord, now: float) -> History:
    """A start did not even give a process."""
    used = replace(history, next_serial=max(history.next_serial, serial + 1), last_exit=record)
    return _count_failure(used, revision, now)


def after_end(history: History, facts: ReplicaFacts, now: float) -> History:
    """A replica is gone."""
    used = replace(history, next_serial=max(history.next_serial, facts.handle.serial + 1))
    if not is_failure(facts.exit):
        return replace(used, last_exit=facts.exit or used.last_exit)
    ended = facts.exit.monotonic if facts.exit is not None and 0.0 < facts.exit.monotonic <= now else now
    timed_out = facts.exit is not None and facts.exit.asked == ASKED_TIMEOUT
    return _count_failure(replace(used, last_exit=facts.exit), facts.revision, ended, timed_out=timed_out)


def after_ready(history: History, launch: Launch) -> History:
    """A replica of this launch became ready: it is the one to return to."""
    return replace(history, good=launch)


def after_health(history: History, replica: Replica, *, reset_after: float, now: float) -> History:
    """Failures are forgotten after ``reset_after`` seconds of health."""
    since = replica.facts.ready_since
    revision = replica.facts.revision
    if revision not in history.failures or not replica.health.ready or since is None or now - since < reset_after:
        return history
    return replace(history, failures={key: value for key, value in history.failures.items() if key != revision})


def _count_failure(history: History, revision: str, at: float, *, timed_out: bool = False) -> History:
    before = history.failures.get(revision)
    failures = {key: value for key, value in history.failures.items() if key != revision}
    late = timed_out or (before is not None and before.timed_out)
    failures[revision] = Failures(count=1 + (before.count if before else 0), last_at=at, timed_out=late)
    newest = dict(list(failures.items())[-KEPT_REVISIONS:])
    return replace(history, failures=newest, restarts=history.restarts + 1)
