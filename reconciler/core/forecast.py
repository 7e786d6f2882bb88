"""The planner run ahead: against a world in which every action succeeds at once, until nothing is left to do.

``llamactl plan`` prints what comes out. Pure, and the same ``diff`` that the loop runs; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from reconciler.core.contracts import Endpoint, ExitRecord, Handle, ProcessState, ReplicaFacts
from reconciler.core.desired import Desired
from reconciler.core.diff import diff
from reconciler.core.history import after_end, after_ready, after_start
from reconciler.core.observed import Health, History, Replica, World
from reconciler.core.plan import Action, Drain, Forget, Kill, Start, Stop

MOST_PASSES = 2000
"""Passes after which a forecast is cut; sixty-four replicas of an instance are replaced in about six passes each."""


def forecast(
    desired: Mapping[str, Desired],
    world: World,
    *,
    causes: Mapping[str, str],
    now: float,
    max_parallel_replacements: int,
) -> tuple[Action, ...]:
    """Every action, in the order in which it would be taken, without the bookkeeping ``forget``."""
    future = _Future(replace(world, causes={**world.causes, **causes}))
    taken: list[Action] = []
    for _ in range(MOST_PASSES):
        plan = diff(desired, future.world(), now=now, max_parallel_replacements=max_parallel_replacements)
        for action in plan.actions:
            future.apply(action, now)
            if not isinstance(action, Forget):
                taken.append(action)
        settled = future.settle()
        if not plan.actions and not settled:
            if plan.wake_at is None or not any(_passes(wait.what.value) for wait in plan.waits):
                break
            now = max(now, plan.wake_at) + 0.001
    return tuple(taken)


def _passes(what: str) -> bool:
    """Waits that end by time alone and belong to the change itself; idling out does not."""
    return what in ("backoff", "stop", "drain")


class _Future:
    """A world that obeys."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._replicas = {name: {r.facts.handle.serial: r for r in rs} for name, rs in world.replicas.items()}
        self._histories: dict[str, History] = dict(world.histories)

    def world(self) -> World:
        return replace(
            self._world,
            replicas={name: tuple(by_serial.values()) for name, by_serial in self._replicas.items()},
            histories=self._histories,
        )

    def apply(self, action: Action, now: float) -> None:
        match action:
            case Start():
                self._start(action, now)
            case Drain():
                self._put(replace(self._at(action.handle), draining_since=now, in_flight=0))
            case Stop() | Kill():
                ended = replace(
                    self._at(action.handle).facts,
                    state=ProcessState.EXITED,
                    exit=ExitRecord(code=0, asked=action.asked, monotonic=now),
                )
                self._put(replace(self._at(action.handle), facts=ended, health=Health()))
            case Forget():
                gone = self._replicas[action.handle.instance].pop(action.handle.serial)
                history = self._history(action.handle.instance)
                self._histories[action.handle.instance] = after_end(history, gone.facts, now)
            case _:
                assert_never(action)

    def settle(self) -> bool:
        """What starts becomes ready, what stops is gone; True when something changed."""
        changed = False
        for by_serial in self._replicas.values():
            for replica in list(by_serial.values()):
                after = self._settled(replica)
                if after is not replica:
                    self._put(after)
                    changed = True
        return changed

    def _settled(self, replica: Replica) -> Replica:
        state = replica.facts.state
        if state is ProcessState.STOPPING:
            ended = replace(replica.facts, state=ProcessState.EXITED, exit=ExitRecord(code=0, asked="stop"))
            return replace(replica, facts=ended, health=Health())
        if state is ProcessState.RUNNING and not replica.health.ready and replica.draining_since is None:
            return replace(replica, health=Health(ready=True))
        return replica

    def _start(self, action: Start, now: float) -> None:
        port = action.launch.port or 0
        facts = ReplicaFacts(
            handle=Handle(instance=action.instance, serial=action.serial, token=f"{action.instance}/{action.serial}"),
            revision=action.revision,
            state=ProcessState.RUNNING,
            endpoint=Endpoint(host=action.launch.host, port=port),
            started_monotonic=now,
        )
        history = after_start(self._history(action.instance), serial=action.serial, port=port)
        self._histories[action.instance] = after_ready(history, action.launch)
        self._put(Replica(facts=facts))

    def _history(self, name: str) -> History:
        return self._histories.get(name) or History()

    def _at(self, handle: Handle) -> Replica:
        return self._replicas[handle.instance][handle.serial]

    def _put(self, replica: Replica) -> None:
        handle = replica.facts.handle
        self._replicas.setdefault(handle.instance, {})[handle.serial] = replica
