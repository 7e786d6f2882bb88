"""Words for planner tests: small declarations and small worlds, built in one line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reconciler.core.contracts import Endpoint, ExitRecord, Handle, Launch, Probe, ProcessState, ReplicaFacts
from reconciler.core.desired import Desired, mode_of
from reconciler.core.diff import diff
from reconciler.core.observed import Health, History, Replica, World
from reconciler.core.plan import Plan
from reconciler.core.spec import InstanceSpec

NOW = 1000.0


def launch(text: str, *, port: int | None = None) -> Launch:
    """A launch that differs by its text."""
    return Launch(argv=("serve", text), backend_type="simulator", port=port)


def declared(name: str, text: str = "a", *, port: int | None = None, **settings: Any) -> Desired:
    """One declared instance; ``text`` stands for everything the process can feel."""
    spec = InstanceSpec.model_validate({"backend_type": "simulator", **settings})
    what = launch(text, port=port)
    return Desired(
        name=name,
        spec=spec,
        mode=mode_of(spec),
        launch=what,
        revision=what.revision(),
        external=None,
        readiness=Probe(),
        liveness=Probe(),
        start_timeout=spec.start_timeout or 300.0,
    )


def replica(
    name: str,
    serial: int = 1,
    text: str = "a",
    *,
    state: ProcessState = ProcessState.RUNNING,
    ready: bool = True,
    started: float = NOW - 100,
    port: int | None = None,
    **more: Any,
) -> Replica:
    """One replica; ``ready`` also means that it once was."""
    facts_fields = {"stop_since", "killed", "exit", "adopted", "ready_since"}
    facts = ReplicaFacts(
        handle=Handle(instance=name, serial=serial, token=f"{name}-{serial}"),
        revision=launch(text, port=port).revision(),
        state=state,
        endpoint=Endpoint(host="127.0.0.1", port=port or 8100 + serial),
        pid=4000 + serial,
        started_monotonic=started,
        **{"ready_since": started + 1 if ready else None, **{k: v for k, v in more.items() if k in facts_fields}},
    )
    health = more.get("health", Health(ready=ready and state is ProcessState.RUNNING))
    rest = {key: value for key, value in more.items() if key not in facts_fields | {"health"}}
    return Replica(facts=facts, health=health, **rest)


def ended(name: str, serial: int = 1, text: str = "a", *, asked: str | None = None, code: int = 1) -> Replica:
    """A replica of which nothing is left."""
    record = ExitRecord(code=code, asked=asked, monotonic=NOW - 1)
    return replica(name, serial, text, state=ProcessState.EXITED, exit=record)


def world(*replicas: Replica, histories: Mapping[str, History] | None = None, **more: Any) -> World:
    """A world of these replicas; a ready one is also the last good one of its instance, as it would be in life."""
    grouped: dict[str, list[Replica]] = {}
    for one in replicas:
        grouped.setdefault(one.facts.handle.instance, []).append(one)
    return World(
        replicas={name: tuple(members) for name, members in grouped.items()}, histories=histories or {}, **more
    )


def good(text: str, **more: Any) -> History:
    """A history whose last good launch was ``text``."""
    return replace(History(good=launch(text)), **more)


def revision(text: str) -> str:
    """The revision of a launch."""
    return launch(text).revision()


def plan(*desired: Desired, world: World, now: float = NOW, limit: int = 2) -> Plan:
    """The plan of one pass."""
    return diff({one.name: one for one in desired}, world, now=now, max_parallel_replacements=limit)


def lines(planned: Plan) -> list[str]:
    """The plan as text, revisions replaced by the letter they stand for."""
    text = "\n".join(planned.lines())
    for letter in "abcdef":
        text = text.replace(revision(letter), letter.upper())
        text = text.replace(launch(letter, port=9000).revision(), f"{letter.upper()}@9000")
    return text.splitlines()
