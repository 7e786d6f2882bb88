"""The loop: look at everything, plan, carry out, publish; then wait until something may have changed. Reads as that list and little else.

Every event (file, exit, probe, request, timer) only wakes it; what to do follows from what is true at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from reconciler.control.books import Books
from reconciler.control.events import EventLog
from reconciler.control.execute import Executor, Orders
from reconciler.control.faults import Faults, plan_around
from reconciler.control.histories import Histories
from reconciler.control.keeper import Accepted, Keeper
from reconciler.control.leases import Leases
from reconciler.control.memory import NO_WORDS, Credit, Memory
from reconciler.control.notes import Notes
from reconciler.control.probes import Asked, Probes
from reconciler.control.publish import Snapshot
from reconciler.core import history as step
from reconciler.core.contracts import Backend, ProcessState, ReplicaFacts, Runtime
from reconciler.core.desired import Desired, Mode
from reconciler.core.lifecycle import phase_of
from reconciler.core.observed import Health, History, Replica, World
from reconciler.core.plan import Plan
from reconciler.host.clock import Clock

log = logging.getLogger("llamactl.loop")

LONGEST_SLEEP_S = 5.0
"""The loop looks at least this often, seconds, whatever it was told."""
QUICK_PASSES = 20
PASSES_PER_S = 50.0
"""Passes that may follow each other at once (longer than any chain of causes), and how many a second a storm of events may cost."""
SHORTEST_REST_S = 0.005
"""Shortest pause before a deadline, seconds: a deadline that has passed without an action must not make the loop spin."""
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
        self._memory = Memory()
        self._notes = Notes(parts.runtime, parts.clock)
        self.faults = Faults()
        """Defects that belong to one instance; whoever works for one instance at a time records them here."""
        self.books = Books(parts.keeper, parts.histories, parts.clock)
        self._phases: dict[str, str] = {}
        self._ending = False
        self._credit = Credit(parts.clock, most=QUICK_PASSES, per_second=PASSES_PER_S)
        self._begun = 0
        self._ended = 0
        self.passes = 0
        """Passes that came to their end so far."""
        self._passed = asyncio.Event()
        self._known: Accepted | None = None
        self._executor = Executor(
            runtime=parts.runtime,
            backends=parts.backends,
            histories=parts.histories,
            events=parts.events,
            clock=parts.clock,
            drain=lambda handle: self._memory.drain(handle, parts.clock.monotonic()),
            wake=self.wake,
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

    async def passed(self) -> None:
        """Until a whole pass that begins after this call is published; a stuck loop is not waited for."""
        began_before = self._begun
        self.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_SLEEP_S):
                while self._ended <= began_before:
                    await self._passed.wait()

    @property
    def ending(self) -> bool:
        """Whether everything is being stopped."""
        return self._ending

    def running(self) -> frozenset[str]:
        """Instances of which a replica runs now, as far as can be told."""
        alive = (ProcessState.RUNNING, ProcessState.UNKNOWN)
        return frozenset(facts.handle.instance for facts in self._parts.runtime.observe() if facts.state in alive)

    async def run(self) -> None:
        """Reconcile until cancelled, or until nothing is left after :meth:`end`."""
        books = asyncio.create_task(self.books.keep(), name="books")
        try:
            await self._run()
        finally:
            books.cancel()
            await asyncio.gather(books, return_exceptions=True)
            await self._executor.close()
            await self._notes.close()
            await self.books.save()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            self._begun += 1
            number = self._begun
            try:
                plan, acted = await self.once()
            except Exception:  # of nobody in particular: a defect in one pass must not end the daemon
                log.exception("defect in a pass of the loop; trying again in %gs", DEFECT_PAUSE_S)
                await self._parts.clock.sleep(DEFECT_PAUSE_S)
                continue
            self._end_pass(number)
            if self._ending and not self._parts.runtime.observe():
                return
            await self._rest(plan, acted=acted)

    def _end_pass(self, number: int) -> None:
        self.passes += 1
        self._ended = number
        passed, self._passed = self._passed, asyncio.Event()
        passed.set()

    async def once(self) -> tuple[Plan, bool]:
        """One pass: what was planned, and whether any of it was begun."""
        parts = self._parts
        if parts.keeper.release():
            parts.events.add("config", "the file stayed as it is; what it stops is stopped now")
        accepted = parts.keeper.accepted
        if accepted is None:
            return Plan(), False
        self._learn(accepted)
        desired = self._desired(accepted)
        faulty = self._probe(desired)
        self._tell_leases(accepted)
        plan = plan_around(
            self.faults,
            desired,
            self.world(),
            now=parts.clock.monotonic(),
            limit=accepted.fleet.server.max_parallel_replacements,
            without=faulty,
        )
        facts = {facts.handle.token: facts for facts in parts.runtime.observe()}
        acted = await self._executor.execute(plan, facts, self._orders(accepted))
        self._tell(accepted, desired, plan)
        return plan, acted

    def world(self) -> World:
        """The snapshot that is planned against."""
        grouped: dict[str, list[Replica]] = {}
        for facts in self._parts.runtime.observe():
            grouped.setdefault(facts.handle.instance, []).append(self._replica(facts))
        names = set(self._known.desired) if self._known is not None else set()
        seen = [replica.facts for replicas in grouped.values() for replica in replicas]
        remembered = {one.handle.instance: one.stop for one in seen if one.stop is not None}
        return World(
            replicas={name: tuple(replicas) for name, replicas in grouped.items()},
            histories=self._parts.histories.all(),
            demand={name: self._parts.leases.demand(name) for name in names},
            stops={**remembered, **self._memory.stops},
            causes=self._causes(self._known.desired if self._known is not None else {}),
        )

    def _causes(self, desired: Mapping[str, Desired]) -> dict[str, str]:
        attempt, cause = self.faults.attempt, self._memory.cause
        names = [name for name in self._memory.changed() if name in desired]
        return {name: attempt(name, "wording its change", partial(cause, desired[name]), NO_WORDS) for name in names}

    # ---- looking ------------------------------------------------------------------------------------------------

    def _replica(self, facts: ReplicaFacts) -> Replica:
        token = facts.handle.token
        if facts.ready_since is None:
            facts = replace(facts, ready_since=self._memory.ready_at.get(token))
        health = self._parts.probes.health(token)
        return Replica(
            facts=facts,
            health=health if facts.state is ProcessState.RUNNING else Health(),
            in_flight=self._parts.leases.in_flight(token),
            draining_since=self._memory.draining.get(token),
            progress_at=self._parts.leases.progress_at(token),
        )

    def _desired(self, accepted: Accepted) -> Mapping[str, Desired]:
        if not self._ending:
            return accepted.desired
        return {name: replace(one, mode=Mode.ENDING) for name, one in accepted.desired.items()}

    def _learn(self, accepted: Accepted) -> None:
        """Take note of a newly accepted fleet: why instances change, what to ask them, how to end those no longer declared."""
        before, self._known = self._known, accepted
        if before is accepted:
            return
        for name, one in accepted.desired.items():
            was = before.desired.get(name) if before is not None else None
            learn = partial(self._memory.learn, was, one, self._parts.backends)
            self.faults.attempt(name, "taking note of its declaration", learn, None)
            if was is None:
                self._skip_used_serials(name)
        if before is not None and before.generation != accepted.generation:
            self._parts.events.add("config", f"generation {accepted.generation} is in force")

    def _skip_used_serials(self, name: str) -> None:
        """A name that was declared before may have left logs under the serials it used."""
        if name not in self._parts.histories.all():
            used = max((log.serial for log in self._parts.runtime.logs(name)), default=0)
            if used:
                self._parts.histories.put(name, History(next_serial=used + 1))

    def _probe(self, desired: Mapping[str, Desired]) -> set[str]:
        """Ask exactly the replicas and endpoints that matter now; note the ones that became ready. Answers names with a defect."""
        targets: dict[str, list[tuple[str, ReplicaFacts | None]]] = {}
        for facts in self._parts.runtime.observe():
            one = desired.get(facts.handle.instance)
            if one is not None and one.launch is not None and facts.state is ProcessState.RUNNING:
                targets.setdefault(one.name, []).append((facts.handle.token, facts))
        for name, one in desired.items():
            if one.external is not None and one.mode not in (Mode.DISABLED, Mode.ENDING):
                targets[name] = [(name, None)]

        def ask(name: str) -> dict[str, Asked]:
            return {key: self._asked(key, desired[name], facts) for key, facts in targets[name]}

        wanted: dict[str, Asked] = {}
        faulty: set[str] = set()
        for name in targets:
            asked = self.faults.attempt(name, "probing", partial(ask, name), None)
            if asked is None:
                faulty.add(name)  # it goes on being asked what it was asked before
                before = {key: self._parts.probes.asked(key) for key, _ in targets[name]}
                asked = {key: one for key, one in before.items() if one is not None}
            wanted.update(asked)
        self._parts.probes.follow(wanted)
        return faulty

    def _tell_leases(self, accepted: Accepted) -> None:
        """Every replica knows how long it may be alone, as declared now; not while everything is being stopped."""
        if self._ending:
            return
        for facts in self._parts.runtime.observe():
            if facts.state is ProcessState.RUNNING:
                self._notes.lease(facts.handle, accepted.fleet.server.orphan_ttl)

    def _asked(self, key: str, one: Desired, facts: ReplicaFacts | None) -> Asked:
        endpoint = facts.endpoint if facts is not None else one.external
        assert endpoint is not None
        if facts is not None:
            self._note_health(facts, one)
        good = self._parts.histories.get(one.name).good
        questions = self._memory.questions_for(one, facts, good=good, backends=self._parts.backends)
        return Asked(
            key=key,
            backend=questions.backend,
            endpoint=endpoint,
            readiness=questions.readiness,
            liveness=questions.liveness,
            policy=one.spec.probe,
            ready=facts is not None and facts.ready_since is not None,
        )

    def _note_health(self, facts: ReplicaFacts, one: Desired) -> None:
        health = self._parts.probes.health(facts.handle.token)
        now = self._parts.clock.monotonic()
        self._memory.meet(facts, self._parts.histories.get(one.name))
        if health.ready and facts.ready_since is None:
            self._memory.ready_at.setdefault(facts.handle.token, now)  # counts already, noted or not
            self._notes.ready(facts.handle)
        elif facts.ready_since is not None:
            self._memory.ready_at.pop(facts.handle.token, None)
        history = self._parts.histories.get(one.name)
        if health.ready and facts.revision == one.revision and one.launch is not None:
            history = step.after_ready(history, one.launch)
        reset_after = one.spec.restart.reset_after
        history = step.after_health(history, self._replica(facts), reset_after=reset_after, now=now)
        self._parts.histories.put(one.name, history)

    # ---- acting -------------------------------------------------------------------------------------------------

    def _orders(self, accepted: Accepted) -> Orders:
        pinned = [one.launch.port for one in accepted.desired.values() if one.launch is not None]
        return Orders(
            fleet=accepted.fleet,
            stops=dict(self._memory.stops),
            pinned=frozenset(port for port in pinned if port is not None),
        )

    # ---- telling ------------------------------------------------------------------------------------------------

    def _tell(self, accepted: Accepted, desired: Mapping[str, Desired], plan: Plan) -> None:
        """Publish what is true after the actions, and forget what belongs to instances and replicas that are gone."""
        external = {name: self._parts.probes.health(name) for name, one in desired.items() if one.external is not None}
        snapshot = Snapshot(
            accepted=replace(accepted, desired=desired),
            world=self.world(),
            plan=plan,
            external=external,
            faults={**self._notes.faults, **self._executor.faults},
            restarts=dict(self._memory.restarts),
        )
        self._record_phases(snapshot)
        self._publish(snapshot)
        self._prune(snapshot)
        self.books.look()

    def _prune(self, snapshot: Snapshot) -> None:
        alive = [one for members in snapshot.world.replicas.values() for one in members]
        desired = snapshot.accepted.desired
        known = desired.keys() | {one.facts.handle.instance for one in alive}
        histories = self._parts.histories
        if not self._ending:  # what is ended now may be declared again by the next daemon
            for name in [name for name in histories.all() if name not in known]:
                histories.drop(name)
        self._memory.keep(desired, alive, histories.all())
        self._notes.keep({one.facts.handle.token for one in alive})
        self.faults.keep(known)
        idling = {name for name, one in desired.items() if one.mode is Mode.ON_DEMAND and one.spec.idle_timeout}
        awaited = [
            one.facts.handle.token
            for one in alive
            if one.draining_since is not None or one.facts.handle.instance in idling
        ]
        self._parts.leases.keep(instances=known, awaited=awaited)

    def _record_phases(self, snapshot: Snapshot) -> None:
        now = {r.name: phase_of(r).value for replicas in snapshot.world.replicas.values() for r in replicas}
        for name, value in now.items():
            if self._phases.get(name) != value:
                instance = name.rpartition("#")[0]
                self._parts.events.add("phase", f"{name} is {value}", instance=instance)
        self._phases = now

    # ---- resting ------------------------------------------------------------------------------------------------

    async def _rest(self, plan: Plan, *, acted: bool) -> None:
        """Until something happens or the next deadline; a pass that did something is followed by another at once."""
        await self._credit.spend()
        if acted:
            return
        held = self._parts.keeper.held
        ends = (plan.wake_at, held.until if held is not None else None, self._executor.next_try())
        now = self._parts.clock.monotonic()
        pause = min([LONGEST_SLEEP_S, *(max(SHORTEST_REST_S, at - now) for at in ends if at is not None)])
        alarm = asyncio.create_task(self._ring(pause), name="alarm")
        try:
            await self._wake.wait()
        finally:
            alarm.cancel()

    async def _ring(self, pause: float) -> None:
        await self._parts.clock.sleep(pause)
        self._wake.set()
