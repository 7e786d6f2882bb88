"""The loop: look at everything, plan, carry out, publish; then wait until something may have changed. Reads as that list and little else.

Every event (file, exit, probe, request, timer) only wakes it; what to do follows from what is true at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from reconciler.control.events import EventLog
from reconciler.control.execute import Executor, Orders
from reconciler.control.histories import Histories
from reconciler.control.keeper import Accepted, Keeper
from reconciler.control.leases import Leases
from reconciler.control.probes import Asked, Probes
from reconciler.control.publish import Snapshot
from reconciler.core import history as step
from reconciler.core.changes import field_changes
from reconciler.core.contracts import Backend, Handle, ProcessState, ReplicaFacts, Runtime
from reconciler.core.desired import Desired, Mode
from reconciler.core.diff import diff
from reconciler.core.errors import Conflict, Missing
from reconciler.core.lifecycle import phase_of
from reconciler.core.observed import Health, Replica, World
from reconciler.core.plan import Plan
from reconciler.core.spec import StopSpec
from reconciler.host.clock import Clock

log = logging.getLogger("llamactl.loop")

LONGEST_SLEEP_S = 5.0
"""The loop looks at least this often, seconds, whatever it was told."""
QUICK_PASSES = 8
"""Passes in a row that may follow each other at once because each did something; a chain of causes is shorter than that."""
DEFECT_PAUSE_S = 1.0
"""Pause after a pass that failed by a defect of ours, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the loop works with."""

    runtime: Runtime
    backends: Mapping[str, Backend]
    keeper: Keeper
    histories: Histories
    leases: Leases
    events: EventLog
    clock: Clock
    probes: Probes


class Loop:
    """One owner of all mutable state of the reconciler."""

    def __init__(self, parts: Parts, *, publish: Callable[[Snapshot], None]) -> None:
        self._parts = parts
        self._publish = publish
        self._wake = asyncio.Event()
        self._draining: dict[str, float] = {}
        self._stops: dict[str, StopSpec] = {}
        self._causes: dict[str, str] = {}
        self._faults: dict[str, str] = {}
        self._phases: dict[str, str] = {}
        self._ending = False
        self._busy_passes = 0
        self.passes = 0
        """Passes begun so far."""
        self._passed = asyncio.Event()
        self._known: Accepted | None = None
        self._executor = Executor(
            runtime=parts.runtime,
            backends=parts.backends,
            histories=parts.histories,
            events=parts.events,
            clock=parts.clock,
            drain=self._drain,
            fault=self._fault,
        )
        parts.runtime.subscribe(self.wake)
        parts.leases.subscribe(self.wake)
        parts.probes.subscribe(self.wake)

    def wake(self) -> None:
        """Something may have changed."""
        self._wake.set()

    def end(self) -> None:
        """From now on nothing is wanted any more; :meth:`run` returns when nothing is left."""
        self._ending = True
        self.wake()

    def request_restart(self, name: str) -> None:
        """Replace what runs of an instance now, by its update strategy; failures before this do not count any more."""
        history = self._parts.histories.get(name)
        asked = replace(history, restart_requested_at=self._parts.clock.monotonic(), failures={})
        self._parts.histories.put(name, asked)
        self.wake()

    async def passed(self, *, after: int) -> None:
        """Until a whole pass that began after pass number ``after`` is published; a stuck loop is not waited for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_SLEEP_S):
                while self.passes <= after + 1:
                    await self._passed.wait()

    @property
    def ending(self) -> bool:
        """Whether everything is being stopped."""
        return self._ending

    def running(self) -> frozenset[str]:
        """Instances of which a replica runs now."""
        return frozenset(
            facts.handle.instance for facts in self._parts.runtime.observe() if facts.state is ProcessState.RUNNING
        )

    async def run(self) -> None:
        """Reconcile until cancelled, or until nothing is left after :meth:`end`."""
        while True:
            self._wake.clear()
            try:
                plan = await self.once()
            except Exception:  # the one place where everything is caught: a defect in one pass must not end the daemon
                log.exception("defect in a pass of the loop; trying again in %gs", DEFECT_PAUSE_S)
                await self._parts.clock.sleep(DEFECT_PAUSE_S)
                continue
            self._end_pass()
            if self._ending and not self._parts.runtime.observe():
                return
            await self._rest(plan)

    def _end_pass(self) -> None:
        self.passes += 1
        passed, self._passed = self._passed, asyncio.Event()
        passed.set()

    async def once(self) -> Plan:
        """One pass."""
        self._parts.keeper.release()
        accepted = self._parts.keeper.accepted
        if accepted is None:
            return Plan()
        self._learn(accepted)
        desired = self._desired(accepted)
        await self._probe(desired)
        world = self.world()
        plan = diff(
            desired,
            world,
            now=self._parts.clock.monotonic(),
            max_parallel_replacements=accepted.fleet.server.max_parallel_replacements,
        )
        facts = {facts.handle.token: facts for facts in self._parts.runtime.observe()}
        await self._executor.execute(plan, facts, self._orders(accepted))
        self._tell(accepted, desired, plan)
        return plan

    def world(self) -> World:
        """The snapshot that is planned against."""
        grouped: dict[str, list[Replica]] = {}
        for facts in self._parts.runtime.observe():
            grouped.setdefault(facts.handle.instance, []).append(self._replica(facts))
        names = set(self._known.desired) if self._known is not None else set()
        return World(
            replicas={name: tuple(replicas) for name, replicas in grouped.items()},
            histories=self._parts.histories.all(),
            demand={name: self._parts.leases.demand(name) for name in names},
            stops=dict(self._stops),
            causes=dict(self._causes),
        )

    # ---- looking ------------------------------------------------------------------------------------------------

    def _replica(self, facts: ReplicaFacts) -> Replica:
        token = facts.handle.token
        health = self._parts.probes.health(token)
        return Replica(
            facts=facts,
            health=health if facts.state is ProcessState.RUNNING else Health(),
            in_flight=self._parts.leases.in_flight(token),
            draining_since=self._draining.get(token),
            progress_at=self._parts.leases.progress_at(token),
        )

    def _desired(self, accepted: Accepted) -> Mapping[str, Desired]:
        if not self._ending:
            return accepted.desired
        return {name: replace(one, mode=Mode.ENDING) for name, one in accepted.desired.items()}

    def _learn(self, accepted: Accepted) -> None:
        """Take note of a newly accepted fleet: why instances change, and how to end those that are no longer declared."""
        before, self._known = self._known, accepted
        if before is accepted:
            return
        for name in accepted.desired.keys() | (before.desired.keys() if before else frozenset()):
            now = accepted.desired.get(name)
            was = before.desired.get(name) if before else None
            if now is not None:
                self._stops[name] = now.spec.stop
            if was is not None and now is not None and was.revision != now.revision:
                self._causes[name] = ", ".join(map(str, field_changes(was.spec, now.spec)))
        if before is not None:
            self._parts.events.add("config", f"generation {accepted.generation} is in force")

    async def _probe(self, desired: Mapping[str, Desired]) -> None:
        """Ask exactly the replicas and endpoints that matter now; note the ones that became ready."""
        wanted: dict[str, Asked] = {}
        for facts in self._parts.runtime.observe():
            one = desired.get(facts.handle.instance)
            if one is None or facts.state is not ProcessState.RUNNING:
                continue
            await self._note_ready(facts, one)
            wanted[facts.handle.token] = self._asked(facts.handle.token, one, facts)
        for name, one in desired.items():
            if one.external is not None and one.mode not in (Mode.DISABLED, Mode.ENDING):
                wanted[name] = self._asked(name, one, None)
        self._parts.probes.follow(wanted)

    def _asked(self, key: str, one: Desired, facts: ReplicaFacts | None) -> Asked:
        endpoint = facts.endpoint if facts is not None else one.external
        assert endpoint is not None
        return Asked(
            key=key,
            backend=self._parts.backends[one.spec.backend_type],
            endpoint=endpoint,
            readiness=one.readiness,
            liveness=one.liveness,
            policy=one.spec.probe,
            ready=facts is not None and facts.ready_since is not None,
        )

    async def _note_ready(self, facts: ReplicaFacts, one: Desired) -> None:
        health = self._parts.probes.health(facts.handle.token)
        if health.ready and facts.ready_since is None:
            with contextlib.suppress(Missing, Conflict):  # it ended meanwhile: the next pass sees that
                await self._parts.runtime.note_ready(facts.handle, self._parts.clock.monotonic())
        histories = self._parts.histories
        history = histories.get(one.name)
        if health.ready and facts.revision == one.revision and one.launch is not None:
            history = step.after_ready(history, one.launch)
            self._causes.pop(one.name, None)
        reset_after = one.spec.restart.reset_after
        now = self._parts.clock.monotonic()
        history = step.after_health(history, self._replica(facts), reset_after=reset_after, now=now)
        histories.put(one.name, history)

    # ---- acting -------------------------------------------------------------------------------------------------

    def _orders(self, accepted: Accepted) -> Orders:
        pinned = [one.launch.port for one in accepted.desired.values() if one.launch is not None]
        return Orders(
            fleet=accepted.fleet,
            stops=dict(self._stops),
            pinned=frozenset(port for port in pinned if port is not None),
        )

    def _drain(self, handle: Handle) -> None:
        self._draining.setdefault(handle.token, self._parts.clock.monotonic())

    def _fault(self, name: str, error: Exception) -> None:
        self._faults[name] = f"internal error: {error!r}"

    # ---- telling ------------------------------------------------------------------------------------------------

    def _tell(self, accepted: Accepted, desired: Mapping[str, Desired], plan: Plan) -> None:
        """Publish what is true after the actions, and forget what belongs to replicas that are gone."""
        alive = {facts.handle.token: facts for facts in self._parts.runtime.observe()}
        self._draining = {token: since for token, since in self._draining.items() if token in alive}
        external = {name: self._parts.probes.health(name) for name, one in desired.items() if one.external is not None}
        snapshot = Snapshot(
            accepted=replace(accepted, desired=desired),
            world=self.world(),
            plan=plan,
            external=external,
            faults=dict(self._faults),
        )
        self._record_phases(snapshot)
        self._publish(snapshot)
        gone = [n for n in self._parts.histories.all() if n not in desired and not snapshot.world.replicas.get(n)]
        for name in gone:
            self._parts.histories.drop(name)
            for book in (self._stops, self._causes, self._faults):
                book.pop(name, None)

    def _record_phases(self, snapshot: Snapshot) -> None:
        now = {r.name: phase_of(r).value for replicas in snapshot.world.replicas.values() for r in replicas}
        for name, value in now.items():
            if self._phases.get(name) != value:
                instance = name.rpartition("#")[0]
                self._parts.events.add("phase", f"{name} is {value}", instance=instance)
        self._phases = now

    async def _rest(self, plan: Plan) -> None:
        """Until something happens or the next deadline."""
        self._busy_passes = self._busy_passes + 1 if plan.actions else 0
        if plan.actions:
            # what was done may ask for more at once; but actions that change nothing must not spin
            excess = max(0, self._busy_passes - QUICK_PASSES)
            await self._parts.clock.sleep(min(0.005 * 2.0**excess, DEFECT_PAUSE_S) if excess else 0.0)
            return
        now = self._parts.clock.monotonic()
        held = self._parts.keeper.held
        ends = [at for at in (plan.wake_at, held.until if held else None) if at is not None]
        pause = min([LONGEST_SLEEP_S, *(max(0.0, at - now) for at in ends)])
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            return
