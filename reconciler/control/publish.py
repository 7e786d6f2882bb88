"""What the world is told after each pass: the status as JSON and the proxy's routes.

Derived afresh each time; only the times at which conditions changed are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from reconciler.control.faults import Faults
from reconciler.control.keeper import Accepted
from reconciler.control.routes import Route, Routes, Target
from reconciler.core.conditions import Condition, Situation, conditions, phase
from reconciler.core.contracts import ASKED_FAILED, ASKED_TIMEOUT, ExitRecord
from reconciler.core.desired import Desired, Mode
from reconciler.core.lifecycle import Phase, describe_exit, phase_of
from reconciler.core.observed import Health, Replica, World
from reconciler.core.plan import Plan
from reconciler.host.clock import Clock, rfc3339

SCHEMA_VERSION = 1
"""Of the status JSON; rises when a field changes its meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One pass, whole: the input of everything that is published."""

    accepted: Accepted
    world: World
    plan: Plan
    external: Mapping[str, Health]
    faults: Mapping[str, str]
    """Instances whose last action or note failed by a defect of ours, with what was seen."""
    restarts: Mapping[str, int] = field(default_factory=dict)
    """By token: see :func:`replica_json`."""

    def names(self) -> list[str]:
        """Declared ones in the file's order, then those that are on their way out."""
        declared = list(self.accepted.desired)
        return declared + sorted(name for name, rs in self.world.replicas.items() if rs and name not in declared)

    def situation(self, name: str) -> Situation:
        """What the conditions of one instance follow from."""
        desired = self.accepted.desired.get(name)
        return Situation(
            desired=desired,
            history=self.world.history(name),
            replicas=self.world.replicas.get(name, ()),
            waits=self.plan.waits_of(name),
            external=self.external.get(name),
        )


class Transitions:
    """What status says about the past: since when each condition has its value, and which generation was last carried out.

    Recorded at each pass, not when somebody asks.
    """

    def __init__(self, clock: Clock, faults: Faults) -> None:
        self._clock = clock
        self._faults = faults
        self._since: dict[tuple[str, str], tuple[bool, float]] = {}
        self._carried_out: dict[str, int] = {}
        self.carried_out = 0
        """The newest generation of the whole fleet of which nothing was left to do at some moment; never falls."""

    def record(self, snapshot: Snapshot) -> None:
        """One pass."""
        now, names = self._clock.now(), snapshot.names()
        since: dict[tuple[str, str], tuple[bool, float]] = {}
        settled: set[str] = set()

        def look(name: str) -> None:
            for condition in conditions(snapshot.situation(name)):
                known = self._since.get((name, condition.type))
                same = known is not None and known[0] is condition.status
                since[name, condition.type] = known if known is not None and same else (condition.status, now)
            if snapshot.situation(name).settled:
                settled.add(name)

        for name in names:
            self._faults.attempt(name, "telling its conditions", partial(look, name), None)
        self._since = since
        generations = snapshot.accepted.generations
        carried = {
            name: generation if name in settled else self._carried_out.get(name, 0)
            for name, generation in generations.items()
        }
        self._carried_out = carried
        leaving = any(name not in generations for name in names)
        if not leaving and all(carried[name] == generation for name, generation in generations.items()):
            self.carried_out = snapshot.accepted.generation

    def since(self, instance: str, condition: Condition) -> float:
        """Unix time since which the condition has this status."""
        known = self._since.get((instance, condition.type))
        return known[1] if known is not None else self._clock.now()

    def carried_out_of(self, instance: str) -> int:
        """The newest generation of the instance of which nothing was left to do at some moment; 0 before the first."""
        return self._carried_out.get(instance, 0)


def instance_json(snapshot: Snapshot, name: str, clock: Clock, transitions: Transitions) -> dict[str, object]:
    """The status of one instance."""
    situation = snapshot.situation(name)
    desired = situation.desired
    accepted = snapshot.accepted
    generation = accepted.generations.get(name, accepted.generation)
    history = situation.history
    warnings = [
        problem.as_json()
        for problem in accepted.fleet.warnings
        if problem.path.startswith((f"instances.{name}.", f"instances.{name}["))
    ]
    return {
        "name": name,
        "backend_type": desired.spec.backend_type if desired else None,
        "state": desired.mode.value if desired else "removed",
        "phase": phase(situation).value,
        "ready": situation.ready,
        "revision": desired.revision if desired else "",
        "generation": generation,
        "observed_generation": transitions.carried_out_of(name),
        "replicas": [
            replica_json(replica, snapshot.restarts.get(replica.facts.handle.token, 0)) for replica in situation.live
        ],
        "restarts": history.restarts,
        "last_exit": exit_json(history.last_exit),
        "conditions": [
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message,
                "since": rfc3339(transitions.since(name, condition)),
                "observed_generation": generation,
            }
            for condition in conditions(situation)
        ],
        "next_action": _next_action(situation, clock),
        "aliases": list(desired.spec.aliases) if desired else [],
        "labels": dict(desired.spec.labels) if desired else {},
        "warnings": warnings,
        "fault": snapshot.faults.get(name),
    }


def replica_json(replica: Replica, restarts: int) -> dict[str, object]:
    """The status of one replica.

    ``restarts``: failures in a row of its revision that led to this very process, counted when this daemon first saw it; failures of a
    boot before, or forgotten after ``restart.reset_after``, are not among them. The instance's own number counts all.
    """
    facts = replica.facts
    return {
        "name": replica.name,
        "pid": facts.pid,
        "port": facts.endpoint.port,
        "revision": facts.revision,
        "phase": phase_of(replica).value,
        "adopted": facts.adopted,
        "started_at": rfc3339(facts.started_at),
        "restarts": restarts,
        "in_flight": replica.in_flight,
        "degraded": list(facts.degraded),
        "dropped_log_bytes": facts.dropped_log_bytes,
    }


def exit_json(record: ExitRecord | None) -> dict[str, object] | None:
    """How the last replica ended."""
    if record is None:
        return None
    reason = describe_exit(record)
    if record.asked in (ASKED_FAILED, ASKED_TIMEOUT):
        reason = f"ended by us because it was not healthy ({reason})"
    elif record.asked is not None:
        reason = f"ended on request ({reason})"
    return {
        "code": record.code,
        "signal": record.signal,
        "at": rfc3339(record.at),
        "reason": reason,
        "log_tail": list(record.log_tail),
    }


def _next_action(situation: Situation, clock: Clock) -> dict[str, object] | None:
    if not situation.waits:
        return None
    timed = [wait for wait in situation.waits if wait.until is not None]
    first = min(timed, key=lambda wait: wait.until or 0.0) if timed else situation.waits[0]
    at = rfc3339(clock.now() + first.until - clock.monotonic()) if first.until is not None else None
    return {"what": first.what.value, "why": first.reason, "at": at}


def unknown_json(name: str, generation: int, fault: str) -> dict[str, object]:
    """In the place of :func:`instance_json` when a defect of ours keeps it from being told."""
    return {
        "name": name,
        "backend_type": None,
        "state": "unknown",
        "phase": Phase.UNKNOWN.value,
        "ready": False,
        "revision": "",
        "generation": generation,
        "observed_generation": 0,
        "replicas": [],
        "restarts": 0,
        "last_exit": None,
        "conditions": [],
        "next_action": None,
        "aliases": [],
        "labels": {},
        "warnings": [],
        "fault": fault,
    }


def routes(snapshot: Snapshot, before: Routes, faults: Faults) -> Routes:
    """What the proxy may know; an instance whose defect keeps it from being told keeps the route that it had ``before``."""
    accepted = snapshot.accepted
    by_instance: dict[str, Route] = {}
    names: dict[str, str] = {}
    for name, desired in accepted.desired.items():
        tell = partial(_route, snapshot, desired, accepted.created.get(name, 0))
        route = faults.attempt(name, "telling its route", tell, before.by_instance.get(name))
        if route is not None:
            by_instance[name] = route
            names[name] = name
    for name in by_instance:
        desired = accepted.desired[name]
        for alias in desired.spec.aliases:
            names.setdefault(alias, name)
    return Routes(
        generation=accepted.generation,
        server=accepted.fleet.server,
        by_instance=by_instance,
        names=names,
        management_keys=accepted.fleet.management_keys,
        inference_keys=accepted.fleet.inference_keys,
    )


def _route(snapshot: Snapshot, desired: Desired, created: int) -> Route:
    situation = snapshot.situation(desired.name)
    targets = _targets(desired, situation)
    now = phase(situation)
    spec = desired.spec
    ready = next(c for c in conditions(situation) if c.type == "Ready")
    return Route(
        instance=desired.name,
        backend_type=spec.backend_type,
        mode=desired.mode,
        phase=now,
        targets=targets,
        aliases=spec.aliases,
        created=created,
        start_wait=spec.queue.timeout if spec.queue.timeout is not None else spec.on_demand_start_timeout,
        queue=spec.queue,
        reason="" if targets else _why_none(desired, now, ready),
        retry_after=5 if now in (Phase.STARTING, Phase.PENDING) else 30,
    )


def _targets(desired: Desired, situation: Situation) -> tuple[Target, ...]:
    if desired.external is not None:
        if desired.mode is Mode.DISABLED or not situation.ready:
            return ()
        return (Target(key=desired.name, endpoint=desired.external, handle=None),)
    return tuple(
        Target(key=replica.facts.handle.token, endpoint=replica.facts.endpoint, handle=replica.facts.handle)
        for replica in situation.replicas
        if phase_of(replica) is Phase.READY
    )


def _why_none(desired: Desired, now: Phase, ready: Condition) -> str:
    if desired.mode is Mode.DISABLED:
        return f"instance {desired.name} is switched off (enabled: false)"
    return f"instance {desired.name} is {now.value}: {ready.message}"
