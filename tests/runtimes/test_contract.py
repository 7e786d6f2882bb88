"""What every ``Runtime`` promises, asked of the local one with real processes and of the fake one on a virtual clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum

import pytest

from reconciler.core.contracts import (
    ASKED_FAILED,
    ASKED_STOP,
    Handle,
    Launch,
    ProcessState,
    ReplicaFacts,
    Runtime,
    StartOrder,
)
from reconciler.core.errors import Conflict, Missing, Transient
from tests.runtimes import programs
from tests.runtimes.conftest import DEADLINE_S, PORTS, Place, ended, facts_of, until
from tests.runtimes.fake import FakeHost, FakeRuntime, Script, VirtualClock


class Manner(Enum):
    """What a backend does."""

    SERVES = programs.SERVES
    IGNORES_STOP = programs.IGNORES_STOP
    EXITS_7 = programs.EXITS_7
    CANNOT_RUN = "cannot run"


class World(ABC):
    """A host with a runtime on it, in whichever implementation."""

    @abstractmethod
    def runtime(self) -> Runtime:
        """A new runtime over the same host: another daemon."""

    @abstractmethod
    def order(self, manner: Manner, *, instance: str = "tiny", serial: int = 1, port: int | None = None) -> StartOrder:
        """An order for a backend of that manner."""

    @abstractmethod
    async def up(self, order: StartOrder) -> None:
        """Return when the backend does what its manner says."""

    @abstractmethod
    async def ended(self, runtime: Runtime, handle: Handle) -> ReplicaFacts:
        """Return when nothing of it is left."""


class LocalWorld(World):
    def __init__(self, place: Place) -> None:
        self.place = place

    def runtime(self) -> Runtime:
        return self.place.runtime()

    def order(self, manner: Manner, *, instance: str = "tiny", serial: int = 1, port: int | None = None) -> StartOrder:
        program = ("/nonexistent/server",) if manner is Manner.CANNOT_RUN else manner.value
        return self.place.order(program, instance=instance, serial=serial, port=port, api_key="k")

    async def up(self, order: StartOrder) -> None:
        await self.place.up(order)

    async def ended(self, runtime: Runtime, handle: Handle) -> ReplicaFacts:
        return await ended(runtime, handle)


SCRIPTS = {
    Manner.SERVES: Script(),
    Manner.IGNORES_STOP: Script(obeys_stop_after=None),
    Manner.EXITS_7: Script(exits_after=0.1, code=7, log=("cannot load the model",)),
    Manner.CANNOT_RUN: Script(error="cannot run /nonexistent/server: No such file or directory"),
}


class FakeWorld(World):
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.host = FakeHost(self.clock)
        self.tokens = iter(f"{number:032x}" for number in range(1, 1000))

    def runtime(self) -> Runtime:
        return FakeRuntime(self.host)

    def order(self, manner: Manner, *, instance: str = "tiny", serial: int = 1, port: int | None = None) -> StartOrder:
        self.host.scripts[instance] = SCRIPTS[manner]
        launch = Launch(argv=(manner.name,), port=port)
        return StartOrder(
            handle=Handle(instance=instance, serial=serial, token=next(self.tokens)),
            launch=launch,
            revision=launch.revision(),
            command=lambda _host, _port: launch.argv,
            api_key="k",
            ports=PORTS,
        )

    async def up(self, order: StartOrder) -> None:
        await self.clock.settle()

    async def ended(self, runtime: Runtime, handle: Handle) -> ReplicaFacts:
        for _ in range(int(DEADLINE_S * 10)):
            if facts_of(runtime, handle).state is ProcessState.EXITED:
                break
            await self.clock.advance(0.1)
        return facts_of(runtime, handle)


@pytest.fixture(params=["local", "fake"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "local":
        yield LocalWorld(request.getfixturevalue("place"))
    else:
        yield FakeWorld()


async def end_all(world: World, runtime: Runtime) -> None:
    """Kill and forget everything, then let go."""
    for facts in runtime.observe():
        if facts.state is not ProcessState.EXITED:
            await runtime.kill(facts.handle, asked=ASKED_STOP)
            await world.ended(runtime, facts.handle)
        await runtime.forget(facts.handle)
    await runtime.close()


async def test_what_was_started_runs_and_is_described(world: World) -> None:
    runtime = world.runtime()
    await runtime.open()
    order = world.order(Manner.SERVES)
    facts = await runtime.start(order)
    assert facts == facts_of(runtime, order.handle)
    assert facts.state is ProcessState.RUNNING
    assert facts.revision == order.revision
    assert facts.pid is not None
    assert facts.pid > 1
    assert PORTS[0] <= facts.endpoint.port <= PORTS[1]
    assert facts.endpoint.api_key == "k"
    assert facts.started_monotonic > 0
    assert (facts.adopted, facts.killed, facts.stop_since, facts.exit) == (False, False, None, None)
    await end_all(world, runtime)


async def test_a_serial_is_used_once(world: World) -> None:
    runtime = world.runtime()
    await runtime.open()
    order = world.order(Manner.SERVES)
    await runtime.start(order)
    with pytest.raises(Conflict):
        await runtime.start(replace(world.order(Manner.SERVES)))
    assert len(runtime.observe()) == 1
    await end_all(world, runtime)


async def test_observation_is_ordered_by_instance_and_serial(world: World) -> None:
    runtime = world.runtime()
    await runtime.open()
    for instance, serial in (("b", 2), ("a", 10), ("a", 9), ("b", 1)):
        await runtime.start(world.order(Manner.SERVES, instance=instance, serial=serial))
    assert [facts.handle.replica for facts in runtime.observe()] == ["a#9", "a#10", "b#1", "b#2"]
    await end_all(world, runtime)


async def test_two_replicas_never_share_a_port(world: World) -> None:
    runtime = world.runtime()
    await runtime.open()
    for serial in (1, 2, 3):
        await runtime.start(world.order(Manner.SERVES, serial=serial))
    assert len({facts.endpoint.port for facts in runtime.observe()}) == 3
    await end_all(world, runtime)


async def test_a_preferred_port_is_kept_and_an_avoided_one_is_not_taken(world: World) -> None:
    runtime = world.runtime()
    await runtime.open()
    preferred = await runtime.start(replace(world.order(Manner.SERVES), preferred_port=PORTS[0] + 77))
    avoiding = world.order(Manner.SERVES, serial=2)
    taken = frozenset(range(PORTS[0], PORTS[0] + 5))
    second = await runtime.start(replace(avoiding, avoid_ports=taken))
    assert preferred.endpoint.port == PORTS[0] + 77
    assert second.endpoint.port not in taken
    await end_all(world, runtime)


async def test_a_pinned_port_of_our_own_replica_is_worth_another_try(world: World) -> None:
    runtime = world.runtime()
    await runtime.open()
    first = world.order(Manner.SERVES, port=PORTS[0] + 123)
    await runtime.start(first)
    with pytest.raises(Transient, match=str(PORTS[0] + 123)):
        await runtime.start(world.order(Manner.SERVES, serial=2, port=PORTS[0] + 123))
    assert len(runtime.observe()) == 1
    await end_all(world, runtime)


async def test_a_stop_is_recorded_as_asked_for(world: World) -> None:
    runtime = world.runtime()
    await runtime.open()
    order = world.order(Manner.SERVES)
    await runtime.start(order)
    await world.up(order)
    await runtime.stop(order.handle, asked=ASKED_STOP)
    facts = await world.ended(runtime, order.handle)
    assert facts.exit is not None
    assert (facts.exit.signal, facts.exit.code, facts.exit.asked) == ("SIGTERM", None, ASKED_STOP)
    assert facts.pid is None
    await end_all(world, runtime)


async def test_a_stop_may_name_another_signal_than_the_one_at_the_start(world: World) -> None:
    runtime = world.runtime()
    await runtime.open()
    order = world.order(Manner.SERVES)
    started = await runtime.start(order)
    assert started.stop is not None
    assert (started.stop.signal, started.stop.grace) == (order.stop.signal, order.stop.grace)
    await world.up(order)
    await runtime.stop(order.handle, asked=ASKED_STOP, signal="SIGQUIT")
    facts = await world.ended(runtime, order.handle)
    assert facts.exit is not None
    assert (facts.exit.signal, facts.exit.asked) == ("SIGQUIT", ASKED_STOP)
    await end_all(world, runtime)


async def test_a_stop_that_is_ignored_stays_visible_until_the_kill(world: World) -> None:
    runtime = world.runtime()
    await runtime.open()
    order = world.order(Manner.IGNORES_STOP)
    await runtime.start(order)
    await world.up(order)
    await runtime.stop(order.handle, asked=ASKED_FAILED)
    since = facts_of(runtime, order.handle).stop_since
    await runtime.stop(order.handle, asked=ASKED_STOP)
    facts = facts_of(runtime, order.handle)
    assert facts.state is ProcessState.STOPPING
    assert facts.stop_since == since
    await runtime.kill(order.handle, asked=ASKED_STOP)
    facts = await world.ended(runtime, order.handle)
    assert facts.exit is not None
    assert (facts.exit.signal, facts.exit.asked, facts.killed) == ("SIGKILL", ASKED_FAILED, True)
    await end_all(world, runtime)


async def test_an_exit_is_noticed_with_its_code_and_last_words(world: World) -> None:
    runtime = world.runtime()
    await runtime.open()
    woken: list[bool] = []
    runtime.subscribe(lambda: woken.append(True))
    order = world.order(Manner.EXITS_7)
    await runtime.start(order)
    woken.clear()
    facts = await world.ended(runtime, order.handle)
    assert woken
    assert facts.exit is not None
    assert (facts.exit.code, facts.exit.signal, facts.exit.asked, facts.exit.error) == (7, None, None, None)
    assert facts.exit.log_tail == ("cannot load the model",)
    assert facts.exit.monotonic >= facts.started_monotonic
    await end_all(world, runtime)


async def test_a_program_that_cannot_be_run_is_an_exit_with_a_reason(world: World) -> None:
    runtime = world.runtime()
    await runtime.open()
    order = world.order(Manner.CANNOT_RUN)
    facts = await runtime.start(order)
    assert facts.state is ProcessState.EXITED
    assert facts.exit is not None
    assert facts.exit.error == "cannot run /nonexistent/server: No such file or directory"
    await end_all(world, runtime)


async def test_acting_on_what_is_gone_is_missing(world: World) -> None:
    runtime = world.runtime()
    await runtime.open()
    order = world.order(Manner.EXITS_7)
    await runtime.start(order)
    await world.ended(runtime, order.handle)
    for refused in (
        runtime.stop(order.handle, asked=ASKED_STOP),
        runtime.kill(order.handle, asked=ASKED_STOP),
        runtime.note_ready(order.handle, 1.0),
        runtime.stop(Handle(instance="other", serial=1, token="0" * 32), asked=ASKED_STOP),
    ):
        with pytest.raises(Missing):
            await refused
    await end_all(world, runtime)


async def test_a_handle_of_another_life_is_refused(world: World) -> None:
    runtime = world.runtime()
    await runtime.open()
    order = world.order(Manner.SERVES)
    await runtime.start(order)
    stale = replace(order.handle, token="f" * 32)
    with pytest.raises(Conflict):
        await runtime.stop(stale, asked=ASKED_STOP)
    with pytest.raises(Conflict):
        await runtime.kill(stale, asked=ASKED_STOP)
    with pytest.raises(Conflict):
        await runtime.forget(stale)
    assert facts_of(runtime, order.handle).state is ProcessState.RUNNING
    await end_all(world, runtime)


async def test_only_what_has_ended_is_forgotten_and_its_log_stays(world: World) -> None:
    runtime = world.runtime()
    await runtime.open()
    for serial in range(1, 6):
        order = world.order(Manner.EXITS_7, serial=serial)
        await runtime.start(order)
        await world.ended(runtime, order.handle)
        await runtime.forget(order.handle)
    live = world.order(Manner.SERVES, serial=6)
    await runtime.start(live)
    await world.up(live)
    with pytest.raises(Conflict):
        await runtime.forget(live.handle)
    assert [facts.handle.serial for facts in runtime.observe()] == [6]
    assert [(log.serial, log.live) for log in runtime.logs("tiny")] == [(3, False), (4, False), (5, False), (6, True)]
    assert [log.started_at for log in runtime.logs("tiny")] == sorted(log.started_at for log in runtime.logs("tiny"))
    assert list(runtime.logs("unheard-of")) == []
    await end_all(world, runtime)


async def test_the_next_daemon_takes_back_what_runs(world: World) -> None:
    first = world.runtime()
    await first.open()
    order = world.order(Manner.SERVES)
    before = await first.start(order)
    await world.up(order)
    await first.note_ready(order.handle, 1234.5)
    await first.note_ready(order.handle, 99999.0)
    await first.close()
    second = world.runtime()
    await second.open()
    after = facts_of(second, order.handle)
    assert after.adopted
    assert after.state is ProcessState.RUNNING
    assert (after.pid, after.revision, after.endpoint) == (before.pid, before.revision, before.endpoint)
    assert (after.started_at, after.started_monotonic) == (before.started_at, before.started_monotonic)
    assert after.ready_since == 1234.5
    await end_all(world, second)


async def test_the_next_daemon_learns_how_it_ended_meanwhile(world: World) -> None:
    first = world.runtime()
    await first.open()
    order = world.order(Manner.EXITS_7)
    await first.start(order)
    await first.close()
    second = world.runtime()
    await second.open()
    facts = await world.ended(second, order.handle)
    assert facts.adopted
    assert facts.exit is not None
    assert (facts.exit.code, facts.exit.asked) == (7, None)
    await second.forget(order.handle)
    await second.close()
    third = world.runtime()
    await third.open()
    assert list(third.observe()) == []
    await third.close()


async def test_wakes_come_with_every_change(world: World) -> None:
    runtime = world.runtime()
    await runtime.open()
    seen: list[tuple[ProcessState, ...]] = []
    runtime.subscribe(lambda: seen.append(tuple(facts.state for facts in runtime.observe())))
    order = world.order(Manner.SERVES)
    await runtime.start(order)
    await world.up(order)
    await runtime.stop(order.handle, asked=ASKED_STOP)
    await world.ended(runtime, order.handle)
    await until(lambda: (ProcessState.EXITED,) in seen, what=f"a wake that shows the end: {seen}")
    await runtime.forget(order.handle)
    assert seen[-1] == ()
    await end_all(world, runtime)
