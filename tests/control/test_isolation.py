"""What may not spread, spin or pile up: defects and stuck calls of one instance, storms of events, names that come and go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from reconciler.control import faults
from reconciler.core.contracts import ExitRecord, Handle, ReplicaFacts, StartOrder
from reconciler.core.desired import Desired
from reconciler.core.diff import diff as real_diff
from reconciler.core.errors import Conflict, Transient
from reconciler.core.observed import World
from reconciler.core.plan import Plan
from tests.control.rooms import LOADING, NONSENSE, Room, declare
from tests.runtimes.fake import FakeRuntime, Script


async def test_a_call_that_hangs_holds_up_only_its_own_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    room = Room(tmp_path, declare(a={"size": 1}, b={"size": 1}))
    real, open_again = FakeRuntime.stop, asyncio.Event()

    async def hanging(self: FakeRuntime, handle: Handle, *, asked: str, signal: str | None = None) -> None:
        if handle.instance == "a":
            await open_again.wait()
        await real(self, handle, asked=asked, signal=signal)

    monkeypatch.setattr(FakeRuntime, "stop", hanging)
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        await daemon.save(declare(a={"size": 2}, b={"size": 2}))
        await daemon.ready("b")
        assert daemon.serials("a") == [1, 2]
        await daemon.save(declare(a={"size": 2}, b={"size": 3}))
        await daemon.ready("b")
        open_again.set()
        await daemon.ready("a")
        assert daemon.serials("a") == [2]


async def test_readiness_that_cannot_be_noted_with_the_replica_is_no_reason_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(tmp_path, declare(a={}, b={}))
    real = FakeRuntime.note_ready
    refusing = True

    async def note(self: FakeRuntime, handle: Handle, at: float) -> None:
        if refusing and handle.instance == "a":
            raise Transient("its supervisor does not answer")
        await real(self, handle, at)

    monkeypatch.setattr(FakeRuntime, "note_ready", note)
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        (serving,) = daemon.runtime.living("a")
        with daemon.parts.leases.hold("a", serving.handle.token):
            await daemon.save(declare(b={}))
            await daemon.let_pass(3)
            assert daemon.phase("a") == "draining", "it served: its requests may finish"
        await daemon.until(lambda: daemon.phase("a") == "gone", "a is gone")
        refusing = False


async def test_a_defect_in_a_pass_does_not_end_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(tmp_path, declare(a={"size": 1}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        real, broken = daemon.parts.leases.keep, [True]

        def keep(**given: object) -> None:
            if broken:
                raise ZeroDivisionError("a defect")
            real(**given)  # type: ignore[arg-type]  # passed on as given

        monkeypatch.setattr(daemon.parts.leases, "keep", keep)
        await daemon.save(declare(a={"size": 2}))
        await daemon.let_pass(5, step=0.5)
        assert not daemon.loop_task.done()
        broken.clear()
        await daemon.ready("a")
        assert daemon.serials("a") == [2]


async def test_a_defect_in_a_probe_is_shown_and_the_target_asked_again(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}, b={}))
    room.answers.moods["a"] = NONSENSE
    async with room.daemon() as daemon:
        await daemon.ready("b")
        await daemon.let_pass(3)
        assert daemon.phase("a") == "starting"
        del room.answers.moods["a"]
        await daemon.ready("a")
        assert daemon.serials("a") == [1]


async def test_removal_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}, b={}), scripts={"a": Script(obeys_stop_after=None)})
    room.answers.moods["a"] = LOADING
    async with room.daemon() as daemon:
        await daemon.until(lambda: daemon.phase("a") == "starting", "a starts")
        await daemon.save(declare(b={}))
        await daemon.until(lambda: daemon.phase("a") == "gone", "a is gone")
        assert ("kill", "a#1") in daemon.runtime.calls
        await daemon.until(lambda: not daemon.parts.histories.unsaved, "the books are written")
        assert not (room.state / "history" / "a.json").exists()


async def test_a_name_removed_and_added_again_starts_afresh_after_what_is_left(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}, b={}))
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        (old,) = daemon.runtime.living("a")
        with daemon.parts.leases.hold("a", old.handle.token):
            await daemon.save(declare(b={}))
            await daemon.until(lambda: daemon.phase("a") == "draining", "it drains")
            assert daemon.of("a")["state"] == "removed"
            await daemon.save(declare(a={}, b={}))
            await daemon.until(lambda: daemon.of("a")["state"] == "running", "it is declared again")
            assert daemon.phase("a") == "draining", "the memory of the old one is not free yet"
            assert daemon.of("a")["generation"] == 3
            assert daemon.of("a")["observed_generation"] < 3
        await daemon.ready("a")
        assert daemon.serials("a") == [2]


async def test_a_name_that_was_gone_never_reuses_a_serial(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}, b={}))
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        await daemon.save(declare(b={}))
        await daemon.until(lambda: daemon.phase("a") == "gone", "a is gone")
        assert "a" not in daemon.parts.histories.all()
        await daemon.save(declare(a={}, b={}))
        await daemon.ready("a")
        assert daemon.serials("a") == [2], "its logs lie under serial 1"
        assert daemon.of("a")["restarts"] == 0


async def test_a_serial_that_is_taken_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(tmp_path, declare(a={}))
    real = FakeRuntime.start

    async def start(self: FakeRuntime, order: StartOrder) -> ReplicaFacts:
        if order.handle.serial < 3:
            raise Conflict("cannot start: it exists already")
        return await real(self, order)

    monkeypatch.setattr(FakeRuntime, "start", start)
    async with room.daemon() as daemon:
        await daemon.ready("a")
        assert daemon.serials("a") == [3]
        assert daemon.of("a")["restarts"] == 0


async def test_what_is_gone_leaves_nothing_in_memory(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(keep={}))
    async with room.daemon() as daemon:
        await daemon.ready("keep")
        for turn in range(3):
            name = f"n{turn}"
            await daemon.save(declare(keep={}, **{name: {"size": turn}}))
            await daemon.ready(name)
            (one,) = daemon.runtime.living(name)
            with daemon.parts.leases.hold(name, one.handle.token) as lease:
                lease.progress()
            lease.progress()
            await daemon.save(declare(keep={}, **{name: {"size": turn + 10}}))
            await daemon.ready(name)
        await daemon.save(declare(keep={}))
        await daemon.until(lambda: len(daemon.status()["instances"]) == 1, "only one is left")
        await daemon.let_pass(6, step=1)
        loop, leases, probes = daemon.controller.loop, daemon.parts.leases, daemon.parts.probes
        memory = loop._memory
        books = (memory.draining, memory.ready_at, memory.stops, memory._questions, memory._changed_from)
        assert [len(book) for book in books] == [0, 0, 1, 1, 0]
        assert [len(book) for book in (memory.restarts, loop._notes._leases, loop.faults._seen)] == [1, 1, 0]
        assert [len(book) for book in (leases._uses, leases._by_target, leases._progress)] == [0, 0, 0]
        assert [len(book) for book in (probes._tasks, probes._health)] == [1, 1]
        executor = loop._executor
        assert not executor._busy
        assert not loop._notes._under_way
        assert not executor._tries
        assert not executor._counted
        assert list(daemon.parts.histories.all()) == ["keep"]


async def test_a_storm_of_requests_does_not_make_the_loop_spin(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        (one,) = daemon.runtime.living("a")
        await daemon.let_pass(1)
        passes = daemon.controller.loop.passes
        for _ in range(500):
            with daemon.parts.leases.hold("a", one.handle.token):
                await daemon.clock.settle(1)
        assert daemon.controller.loop.passes == passes


async def test_a_storm_of_events_costs_a_bounded_number_of_passes(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        await daemon.let_pass(1)
        passes = daemon.controller.loop.passes
        for _ in range(300):
            daemon.controller.loop.wake()
            await daemon.clock.settle(3)
        spent = daemon.controller.loop.passes - passes
        assert spent <= 22, f"{spent} passes while no time went by"


async def test_an_idle_loop_rests(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}, b={"state": "on_demand", "idle_timeout": "60s"}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        passes = daemon.controller.loop.passes
        await daemon.let_pass(300, step=1)
        assert daemon.controller.loop.passes - passes <= 70


async def test_an_instance_that_cannot_be_planned_is_left_alone_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(tmp_path, declare(a={"size": 1}, b={"size": 1}))
    broken: list[str] = []

    def diff(desired: Mapping[str, Desired], world: World, *, now: float, max_parallel_replacements: int = 2) -> Plan:
        if set(broken) & (desired.keys() | world.replicas.keys()):
            raise ZeroDivisionError("a defect of a")
        return real_diff(desired, world, now=now, max_parallel_replacements=max_parallel_replacements)

    monkeypatch.setattr(faults, "diff", diff)
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        broken.append("a")
        await daemon.save(declare(a={"size": 2}, b={"size": 2}))
        await daemon.ready("b")
        assert (daemon.serials("a"), daemon.serials("b")) == ([1], [2])
        assert "a defect of a" in daemon.of("a")["fault"]
        assert daemon.of("b")["fault"] is None
        assert daemon.controller.routes.by_instance["a"].targets, "what serves goes on serving"
        broken.clear()
        await daemon.ready("a")
        await daemon.controller.loop.passed()
        assert daemon.of("a")["fault"] is None


@pytest.mark.parametrize("place", ["probing", "telling its conditions", "telling its route", "telling its status"])
async def test_a_defect_anywhere_on_the_way_stays_with_its_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    room = Room(tmp_path, declare(a={"size": 1}, b={"size": 1}))
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        real = daemon.controller.loop.faults.attempt
        broken = ["a"]

        def attempt(name: str, doing: str, work: Callable[[], Any], otherwise: Any) -> Any:
            def defect() -> Any:
                raise ZeroDivisionError("a defect of a")

            return real(name, doing, defect if name in broken and doing == place else work, otherwise)

        monkeypatch.setattr(daemon.controller.loop.faults, "attempt", attempt)
        await daemon.save(declare(a={"size": 1}, b={"size": 2}))
        await daemon.ready("b")
        await daemon.let_pass(6)
        assert (daemon.serials("a"), daemon.serials("b")) == ([1], [2])
        assert "a defect of a" in daemon.of("a")["fault"]
        assert daemon.controller.routes.by_instance["a"].targets
        broken.clear()
        await daemon.ready("a")
        await daemon.controller.loop.passed()
        assert daemon.of("a")["fault"] is None


async def test_books_that_cannot_be_kept_by_a_defect_are_shown_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(tmp_path, declare(a={}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        real, broken = daemon.parts.histories.save, [True]

        async def save(name: str | None = None) -> None:
            if broken:
                raise ZeroDivisionError("a defect in the books")
            await real(name)

        monkeypatch.setattr(daemon.parts.histories, "save", save)
        await daemon.save(declare(a={}, b={}))
        await daemon.until(lambda: "a defect in the books" in str(daemon.status()["config"]["write_errors"]), "shown")
        broken.clear()
        await daemon.until(lambda: not daemon.status()["config"]["write_errors"], "kept again")
        await daemon.until(lambda: not daemon.parts.histories.unsaved, "written")


async def test_a_replicas_restarts_are_the_failures_that_led_to_it(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"replicas": 2}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        first = daemon.runtime.living("a")[0]
        daemon.room.host.end(first, ExitRecord(code=1))
        await daemon.until(lambda: daemon.serials("a") == [2, 3], "it has a successor")
        await daemon.ready("a")
        found = {one["name"]: one["restarts"] for one in daemon.of("a")["replicas"]}
        assert found == {"a#2": 0, "a#3": 1}
        assert daemon.of("a")["restarts"] == 1
