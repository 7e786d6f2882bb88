"""What the loop remembers between two passes beyond the facts: a handful of small books, each pruned to what still exists.

None of it decides anything; a daemon that starts with empty books reaches the same end, with poorer words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconciler.core.changes import field_changes
from reconciler.core.contracts import Backend, Handle, Launch, Probe, ReplicaFacts
from reconciler.core.desired import Desired
from reconciler.core.observed import History, Replica
from reconciler.core.spec import InstanceSpec, OptionValue, StopSpec
from reconciler.host.clock import Clock

NO_WORDS = "its definition changed"


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
        self.restarts: dict[str, int] = {}
        """By token: failures in a row of its revision that led to this replica."""
        self.stops: dict[str, StopSpec] = {}
        """How to end an instance's replicas, also after it is no longer declared."""
        self._questions: dict[tuple[str, str], Questions] = {}
        self._changed_from: dict[str, InstanceSpec] = {}

    def learn(self, was: Desired | None, now: Desired, backends: Mapping[str, Backend]) -> None:
        """Another fleet is in force, with this instance in it."""
        self.stops[now.name] = now.spec.stop
        questions = Questions(backends[now.spec.backend_type], now.readiness, now.liveness)
        self._questions[now.name, now.revision] = questions
        if was is not None and was.revision != now.revision:
            self._changed_from.setdefault(now.name, was.spec)

    def changed(self) -> list[str]:
        """Instances that were not ready as declared since their definition changed."""
        return list(self._changed_from)

    def cause(self, now: Desired) -> str:
        """In the user's words, what changed of such an instance."""
        return ", ".join(map(str, field_changes(self._changed_from[now.name], now.spec))) or NO_WORDS

    def questions_for(
        self, one: Desired, facts: ReplicaFacts | None, *, good: Launch | None, backends: Mapping[str, Backend]
    ) -> Questions:
        """What to ask a replica (what it was started to answer, not what its successor will be), or an external endpoint.

        For a replica from before this daemon's first fleet only its launch is known, when it is ``good``, the last good one: then its
        backend is asked what it asks by default. With nothing known of it, it is asked what the declaration says now.
        """
        now = self._questions[one.name, one.revision]
        if facts is None or facts.revision == one.revision:
            return now
        known = self._questions.get((one.name, facts.revision))
        if known is None and good is not None and good.revision() == facts.revision:
            known = self._questions_of(good, one, now, backends)
            self._questions[one.name, facts.revision] = known
        return known if known is not None else now

    def _questions_of(self, good: Launch, one: Desired, now: Questions, backends: Mapping[str, Backend]) -> Questions:
        backend = backends.get(good.backend_type)
        if backend is None or good.backend_type == one.spec.backend_type:
            return now
        options: dict[str, OptionValue] = {} if good.served_model is None else {"model": good.served_model}
        spec = one.spec.model_copy(update={"backend_type": good.backend_type, "backend_options": options})
        return Questions(backend, backend.readiness(spec), backend.liveness(spec))

    def meet(self, facts: ReplicaFacts, history: History) -> None:
        """A replica is seen: at the first time it is noted how many failures in a row of its revision came before it."""
        if facts.handle.token not in self.restarts:
            failures = history.failures.get(facts.revision)
            before = failures is not None and failures.last_at <= facts.started_monotonic
            self.restarts[facts.handle.token] = failures.count if failures is not None and before else 0

    def drain(self, handle: Handle, now: float) -> None:
        """No more requests from now on."""
        self.draining.setdefault(handle.token, now)

    def keep(self, desired: Mapping[str, Desired], alive: Sequence[Replica], histories: Mapping[str, History]) -> None:
        """Forget what belongs to instances and replicas that are gone."""
        tokens = {one.facts.handle.token for one in alive}
        self.draining = {token: since for token, since in self.draining.items() if token in tokens}
        self.ready_at = {token: since for token, since in self.ready_at.items() if token in tokens}
        self.restarts = {token: count for token, count in self.restarts.items() if token in tokens}
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
