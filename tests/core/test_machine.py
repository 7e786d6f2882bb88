"""A seeded world that lives through edits in mid-flight, crashes, failed effects and lost memory; the planner's laws hold."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reconciler.core.contracts import ASKED_STOP, Endpoint, ExitRecord, Handle, ProcessState, ReplicaFacts
from reconciler.core.desired import Desired, Mode
from reconciler.core.diff import diff
from reconciler.core.history import after_end, after_failed_start, after_ready, after_start, is_failure
from reconciler.core.lifecycle import given_up
from reconciler.core.observed import Health, History, Replica, World
from reconciler.core.plan import Action, Drain, Forget, Kill, Plan, Start, Stop
from tests.core.worlds import declared, launch

NAMES = ("one", "two", "three")
TEXTS = ("a", "b", "c")
PINNED = 9000
PARALLEL = 2


class Fleet(RuleBasedStateMachine):
    """Three names at most, three launches, a driver that may fail, a clock that only goes forward."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.desired: dict[str, Desired] = {}
        self.replicas: dict[str, dict[int, Replica]] = {}
        self.histories: dict[str, History] = {}
        self.used_serials: set[tuple[str, int]] = set()

    # ---- what users and the world do ----------------------------------------------------------------------------

    @rule(
        name=st.sampled_from(NAMES),
        text=st.sampled_from(TEXTS),
        count=st.integers(1, 3),
        enabled=st.booleans(),
        strategy=st.sampled_from(["auto", "start_first", "stop_first"]),
        rollback=st.booleans(),
        pinned=st.booleans(),
    )
    def edit(
        self, name: str, text: str, count: int, enabled: bool, strategy: str, rollback: bool, pinned: bool
    ) -> None:
        self.desired[name] = declared(
            name,
            text,
            port=PINNED if pinned and count == 1 and name == "one" else None,
            replicas=count if not (pinned and name == "one") else 1,
            enabled=enabled,
            update={"strategy": strategy, "rollback": rollback},
        )

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        self.desired.pop(name, None)

    @rule(name=st.sampled_from(NAMES))
    def ask_for_restart(self, name: str) -> None:
        if name in self.desired:
            self.histories[name] = replace(self.history(name), restart_requested_at=self.now)

    @rule(seconds=st.sampled_from([0.01, 0.5, 3.0, 25.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data())
    def one_becomes_ready(self, data: st.DataObject) -> None:
        loading = [r for r in self.all() if r.facts.state is ProcessState.RUNNING and not r.health.ready]
        if loading:
            self.ready(data.draw(st.sampled_from(loading)))

    @rule(data=st.data(), code=st.sampled_from([0, 1]))
    def one_dies(self, data: st.DataObject, code: int) -> None:
        alive = [r for r in self.all() if r.facts.state in (ProcessState.RUNNING, ProcessState.STOPPING)]
        if alive:
            self.die(data.draw(st.sampled_from(alive)), code)

    @rule(data=st.data())
    def one_hangs(self, data: st.DataObject) -> None:
        serving = [r for r in self.all() if r.health.ready]
        if serving:
            one = data.draw(st.sampled_from(serving))
            self.put(replace(one, health=Health(ready=False, failures=3, message="no answer")))

    @rule(data=st.data(), count=st.integers(0, 3))
    def requests_come_and_go(self, data: st.DataObject, count: int) -> None:
        live = [r for r in self.all() if r.facts.state is ProcessState.RUNNING]
        if live:
            self.put(replace(data.draw(st.sampled_from(live)), in_flight=count))

    @rule(data=st.data())
    def one_cannot_be_seen(self, data: st.DataObject) -> None:
        live = [r for r in self.all() if r.facts.state is ProcessState.RUNNING]
        if live:
            one = data.draw(st.sampled_from(live))
            self.put(replace(one, facts=replace(one.facts, state=ProcessState.UNKNOWN)))

    @rule()
    def all_can_be_seen_again(self) -> None:
        for one in self.all():
            if one.facts.state is ProcessState.UNKNOWN:
                self.put(replace(one, facts=replace(one.facts, state=ProcessState.RUNNING)))

    @rule()
    def the_daemon_restarts(self) -> None:
        """Draining is forgotten, readiness is kept, everything is adopted."""
        for one in self.all():
            self.put(replace(one, draining_since=None, in_flight=0, facts=replace(one.facts, adopted=True)))

    # ---- the loop -----------------------------------------------------------------------------------------------

    @rule(data=st.data())
    def one_pass_in_which_effects_may_fail(self, data: st.DataObject) -> None:
        planned = self.plan()
        self.check(planned)
        for action in planned.actions:
            if data.draw(st.integers(0, 5)) == 0:
                self.fail(action)
            else:
                self.act(action)

    @precondition(lambda self: bool(self.desired) or any(self.replicas.values()))
    @rule()
    def left_alone_it_comes_to_rest(self) -> None:
        self.all_can_be_seen_again()
        for _ in range(400):
            planned = self.plan()
            self.check(planned)
            for action in planned.actions:
                self.act(action)
            self.obey()
            if not planned.actions and planned.wake_at is None:
                break
            if not planned.actions and planned.wake_at is not None:
                self.now = max(self.now, planned.wake_at) + 0.001
        assert self.plan().actions == ()
        for name in NAMES:
            self.check_rest(name)

    def check_rest(self, name: str) -> None:
        live = list(self.replicas.get(name, {}).values())
        one = self.desired.get(name)
        if one is None or one.mode is Mode.DISABLED:
            assert live == []
            return
        allowed = {one.revision}
        history = self.history(name)
        failures = history.failures.get(one.revision)
        if failures is not None and given_up(failures, one.spec.update.attempts) and history.good_revision:
            allowed = {history.good_revision}
        assert len(live) == one.replicas, (name, live)
        assert {replica.facts.revision for replica in live} <= allowed
        assert all(replica.health.ready for replica in live)

    # ---- laws ---------------------------------------------------------------------------------------------------

    def check(self, planned: Plan) -> None:
        again = diff(
            dict(reversed(self.desired.items())), self.world(), now=self.now, max_parallel_replacements=PARALLEL
        )
        assert again == planned, "the order of the inputs must not matter"
        for action in planned.actions:
            self.check_action(action)
        for name, one in self.desired.items():
            self.check_service(name, one, planned)

    def check_action(self, action: Action) -> None:
        if isinstance(action, Start):
            members = self.replicas.get(action.instance, {}).values()
            assert (action.instance, action.serial) not in self.used_serials
            assert all(r.facts.state is not ProcessState.UNKNOWN for r in members)
            assert self.desired[action.instance].mode is Mode.RUNNING
            return
        one = self.replicas[action.handle.instance][action.handle.serial]
        assert one.facts.handle == action.handle
        state = one.facts.state
        if isinstance(action, Forget):
            assert state is ProcessState.EXITED
        elif isinstance(action, Kill):
            assert state is ProcessState.STOPPING
        else:
            assert state is ProcessState.RUNNING
        assert action.cause

    def check_service(self, name: str, one: Desired, planned: Plan) -> None:
        """A replacement never takes the last ready replica away while start-first is possible."""
        first = one.mode is Mode.RUNNING and one.spec.update.strategy != "stop_first"
        if not first or (one.launch is not None and one.launch.port is not None):
            return
        serving = {r.facts.handle.serial for r in self.replicas.get(name, {}).values() if self.serves(r)}
        withdrawn = {
            action.handle.serial
            for action in planned.actions
            if isinstance(action, Drain | Stop) and action.handle.instance == name
        }
        assert len(serving - withdrawn) >= min(len(serving), one.replicas)

    @invariant()
    def never_more_than_one_extra(self) -> None:
        for name, one in self.desired.items():
            starts = [a for a in self.plan().actions if isinstance(a, Start) and a.instance == name]
            occupied = [r for r in self.replicas.get(name, {}).values() if r.facts.state is not ProcessState.EXITED]
            if starts:
                assert len(occupied) + len(starts) <= one.replicas + 1

    @invariant()
    def a_pinned_port_has_one_owner(self) -> None:
        owners = [r for r in self.all() if r.facts.endpoint.port == PINNED and r.facts.state is not ProcessState.EXITED]
        assert len(owners) <= 1

    # ---- the driver ---------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        return diff(self.desired, self.world(), now=self.now, max_parallel_replacements=PARALLEL)

    def world(self) -> World:
        return World(
            replicas={name: tuple(by_serial.values()) for name, by_serial in self.replicas.items()},
            histories=dict(self.histories),
        )

    def act(self, action: Action) -> None:
        match action:
            case Start():
                self.start(action)
            case Drain():
                self.put(replace(self.at(action.handle), draining_since=self.now))
            case Stop():
                one = self.at(action.handle)
                facts = replace(one.facts, state=ProcessState.STOPPING, stop_since=self.now)
                record = ExitRecord(asked=action.asked)
                self.put(replace(one, facts=replace(facts, exit=record), health=Health()))
            case Kill():
                one = self.at(action.handle)
                self.put(replace(one, facts=replace(one.facts, killed=True)))
            case Forget():
                gone = self.replicas[action.handle.instance].pop(action.handle.serial)
                self.histories[action.handle.instance] = after_end(
                    self.history(action.handle.instance), gone.facts, self.now
                )

    def start(self, action: Start) -> None:
        port = action.launch.port or 8000 + action.serial
        self.used_serials.add((action.instance, action.serial))
        self.histories[action.instance] = after_start(self.history(action.instance), serial=action.serial, port=port)
        facts = ReplicaFacts(
            handle=Handle(instance=action.instance, serial=action.serial, token=f"{action.instance}{action.serial}"),
            revision=action.revision,
            state=ProcessState.RUNNING,
            endpoint=Endpoint(host="127.0.0.1", port=port),
            started_monotonic=self.now,
        )
        self.put(Replica(facts=facts))

    def fail(self, action: Action) -> None:
        """An effect that failed changes nothing, except that a failed start is remembered."""
        if isinstance(action, Start):
            self.used_serials.add((action.instance, action.serial))
            record = ExitRecord(error="could not be started", monotonic=self.now)
            self.histories[action.instance] = after_failed_start(
                self.history(action.instance),
                serial=action.serial,
                revision=action.revision,
                record=record,
                now=self.now,
            )

    def obey(self) -> None:
        """Whatever stops is gone, whatever starts is ready, every request ends."""
        for one in self.all():
            if one.facts.state is ProcessState.STOPPING:
                self.die(one, 0)
            elif one.facts.state is ProcessState.RUNNING and not one.health.ready and not one.health.failures:
                self.ready(one)
            elif one.in_flight:
                self.put(replace(one, in_flight=0))

    def ready(self, one: Replica) -> None:
        facts = replace(one.facts, ready_since=one.facts.ready_since or self.now)
        self.put(replace(one, health=Health(ready=True), facts=facts))
        name = one.facts.handle.instance
        declared_now = self.desired.get(name)
        if declared_now is not None and declared_now.launch is not None and declared_now.revision == facts.revision:
            self.histories[name] = after_ready(self.history(name), declared_now.launch)

    def die(self, one: Replica, code: int) -> None:
        asked = one.facts.exit.asked if one.facts.exit is not None else None
        record = ExitRecord(code=code, asked=asked, monotonic=self.now)
        facts = replace(one.facts, state=ProcessState.EXITED, exit=record)
        self.put(replace(one, facts=facts, health=Health(), draining_since=None))

    def serves(self, one: Replica) -> bool:
        return one.health.ready and one.facts.state is ProcessState.RUNNING and one.draining_since is None

    def all(self) -> list[Replica]:
        return [replica for by_serial in self.replicas.values() for replica in list(by_serial.values())]

    def at(self, handle: Handle) -> Replica:
        return self.replicas[handle.instance][handle.serial]

    def put(self, one: Replica) -> None:
        handle = one.facts.handle
        self.replicas.setdefault(handle.instance, {})[handle.serial] = one

    def history(self, name: str) -> History:
        return self.histories.get(name) or History()


Fleet.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


TestThePlannerKeepsItsLaws = Fleet.TestCase


def test_an_end_that_was_asked_for_is_no_failure() -> None:
    assert not is_failure(ExitRecord(code=0, asked=ASKED_STOP))
    assert is_failure(ExitRecord(code=0))
    assert is_failure(None)
    assert launch("a").revision() != launch("b").revision()
