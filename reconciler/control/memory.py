"""What the loop remembers between two passes beyond the facts: a handful of small books, each pruned to what still exists.

None of it decides anything; a daemon that starts with empty books reaches the same end, with poorer words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconciler.core.changes import field_changes
from reconciler.core.contracts import Backend, Handle, Probe, ReplicaFacts
from reconciler.core.desired import Desired
from reconciler.core.observed import History, Replica
from reconciler.core.spec import InstanceSpec, StopSpec
from reconciler.host.clock import Clock


@dataclass(frozen=True, slots=True)
class Questions:
    """What one revision of an instance is asked."""

    backend: Backend
    readiness: Probe
    liveness: Probe


class Credit:
    """What may be spent at once, earned again as time passes."""

    def __init__(self, clock: Clock, *, most: float, per_second: float) -> None:
        self._clock = clock
        self._most = most
        self._per_second = per_second
        self._left = most
        self._at = clock.monotonic()

    async def spend(self) -> None:
        """Use up one; wait for it to be earned when nothing is left."""
        now = self._clock.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._per_second) - 1
        self._at = now
        await self._clock.sleep(max(0.0, -self._left) / self._per_second)


class Memory:
    """The books; one owner, the loop."""

    def __init__(self) -> None:
        self.draining: dict[str, float] = {}
        """By token: since when it is given no more requests, monotonic seconds."""
        self.ready_at: dict[str, float] = {}
        """By token: when it first became ready, for as long as its runtime has not noted it."""
        self.stops: dict[str, StopSpec] = {}
        """How to end an instance's replicas, also after it is no longer declared."""
        self._questions: dict[tuple[str, str], Questions] = {}
        self._changed_from: dict[str, InstanceSpec] = {}

    def learn(
        self, before: Mapping[str, Desired], after: Mapping[str, Desired], backends: Mapping[str, Backend]
    ) -> None:
        """Another fleet is in force."""
        for name, now in after.items():
            self.stops[name] = now.spec.stop
            questions = Questions(backends[now.spec.backend_type], now.readiness, now.liveness)
            self._questions[name, now.revision] = questions
            was = before.get(name)
            if was is not None and was.revision != now.revision:
                self._changed_from.setdefault(name, was.spec)

    def causes(self, desired: Mapping[str, Desired]) -> dict[str, str]:
        """In the user's words, what changed since an instance was last ready as declared."""
        return {
            name: ", ".join(map(str, field_changes(was, desired[name].spec))) or "its definition changed"
            for name, was in self._changed_from.items()
            if name in desired
        }

    def questions_for(self, one: Desired, facts: ReplicaFacts | None) -> Questions:
        """What to ask a replica (what it was started to answer, not what its successor will be), or an external endpoint."""
        now = self._questions[one.name, one.revision]
        return now if facts is None else self._questions.get((one.name, facts.revision), now)

    def drain(self, handle: Handle, now: float) -> None:
        """No more requests from now on."""
        self.draining.setdefault(handle.token, now)

    def keep(self, desired: Mapping[str, Desired], alive: Sequence[Replica], histories: Mapping[str, History]) -> None:
        """Forget what belongs to instances and replicas that are gone."""
        tokens = {one.facts.handle.token for one in alive}
        self.draining = {token: since for token, since in self.draining.items() if token in tokens}
        self.ready_at = {token: since for token, since in self.ready_at.items() if token in tokens}
        names = desired.keys() | {one.facts.handle.instance for one in alive}
        self.stops = {name: stop for name, stop in self.stops.items() if name in names}
        self._changed_from = {
            name: spec
            for name, spec in self._changed_from.items()
            if name in desired
            and not _arrived(desired[name], [one for one in alive if one.facts.handle.instance == name])
        }
        revisions = {(one.facts.handle.instance, one.facts.revision) for one in alive}
        revisions |= {(name, one.revision) for name, one in desired.items()}
        for name in desired:
            good = histories[name].good_revision if name in histories else None
            if good is not None:
                revisions.add((name, good))
        self._questions = {key: asked for key, asked in self._questions.items() if key in revisions}


def _arrived(desired: Desired, replicas: Sequence[Replica]) -> bool:
    """Whether the instance is as declared and nothing else of it is left: what led here needs no words any more."""
    ready = any(one.health.ready for one in replicas)
    return ready and all(one.facts.revision == desired.revision for one in replicas)
