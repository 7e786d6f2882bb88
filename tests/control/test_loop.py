"""The loop with the real planner, keeper and probes over a scripted host: from a declaration to processes and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.contracts import Handle, ReplicaFacts, StartOrder
from reconciler.core.errors import Conflict, Missing
from tests.control.rooms import HOPELESS, LOADING, SILENT, Daemon, Room, declare
from tests.runtimes.fake import FakeRuntime, Script


def starts(daemon: Daemon, name: str) -> int:
    return sum(1 for verb, replica in daemon.runtime.calls if verb == "start" and replica.startswith(f"{name}#"))


async def test_what_is_declared_starts_and_becomes_ready(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}, b={"replicas": 2}))
    room.answers.moods["a"] = LOADING
    async with room.daemon() as daemon:
        await daemon.ready("b")
        assert daemon.serials("b") == [1, 2]
        assert daemon.phase("a") == "starting"
        assert daemon.of("a")["next_action"]["what"] == "ready"
        assert daemon.controller.ready_report() == (False, ["a"])
        assert daemon.status()["observed_generation"] == 0
        del room.answers.moods["a"]
        await daemon.ready("a")
        assert daemon.controller.ready_report() == (True, [])
        assert daemon.status()["observed_generation"] == daemon.status()["generation"] == 1
        assert daemon.told("phase")[:2] == ["a#1 is starting", "b#1 is starting"]
        assert "a#1 is ready" in daemon.told("phase")


async def test_an_edit_replaces_only_what_it_changes_and_the_old_one_serves_meanwhile(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"size": 1}, b={}))
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        room.answers.moods["a"] = LOADING
        # the old one is asked too: it stays well
        await daemon.save(declare(a={"size": 2, "health": "/new"}, b={}))
        room.answers.routes["a#1"] = "/health"
        del room.answers.moods["a"]
        room.answers.routes["a#2"] = "/not yet"
        await daemon.let_pass(60, step=1)
        assert daemon.serials("a") == [1, 2]
        assert [target.key for target in daemon.controller.routes.by_instance["a"].targets] == [
            daemon.runtime.living("a")[0].handle.token
        ]
        assert ("a#1", "/health") in room.answers.asked
        assert ("a#1", "/new") not in room.answers.asked
        assert daemon.of("a")["observed_generation"] == 1
        assert daemon.of("a")["generation"] == 2
        del room.answers.routes["a#2"]
        await daemon.ready("a")
        assert daemon.serials("a") == [2]
        assert daemon.serials("b") == [1]
        actions = [line for line in daemon.told("action") if " a#" in line]
        assert "size 1 -> 2" in actions[1]
        assert actions[2].startswith("drain  a#1: health /new added, size 1 -> 2; its successor is ready")
        assert actions[3] == "stop   a#1: drained"


async def test_a_crash_is_followed_by_a_restart_after_a_backoff_and_both_are_told(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}, b={}), scripts={"a": Script(log=("boom",))})
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        daemon.runtime.crash("a", code=3)
        await daemon.until(lambda: daemon.phase("a") == "backoff", "backoff")
        assert daemon.of("a")["last_exit"] == {
            "code": 3,
            "signal": None,
            "at": daemon.of("a")["last_exit"]["at"],
            "reason": "exit code 3",
            "log_tail": ["boom"],
        }
        assert daemon.of("a")["next_action"]["what"] == "backoff"
        assert daemon.of("a")["next_action"]["at"] > daemon.of("a")["last_exit"]["at"]
        assert daemon.condition("a", "Ready")["status"] is False
        await daemon.ready("a")
        assert daemon.of("a")["restarts"] == 1
        assert daemon.serials("a") == [2]
        assert daemon.serials("b") == [1]
        assert "a#1 ended: exit code 3" in daemon.told("exit")


async def test_a_crash_loop_backs_off_further_each_time_also_over_a_daemon_restart(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}), scripts={"a": Script(exits_after=0.0, code=1)})
    async with room.daemon() as daemon:
        await daemon.until(lambda: daemon.of("a")["restarts"] == 4, "four failures")
        assert daemon.condition("a", "Stalled")["status"] is True
        due = daemon.of("a")["next_action"]["at"]
    async with room.daemon() as daemon:
        await daemon.until(lambda: daemon.phase("a") == "backoff", "still in backoff")
        assert daemon.of("a")["restarts"] == 4
        assert daemon.of("a")["next_action"]["at"] == due
        await daemon.let_pass(5, step=0.5)
        assert starts(daemon, "a") == 0
        await daemon.until(lambda: starts(daemon, "a") == 1, "the fifth attempt")
    async with room.daemon(boot="b2") as daemon:
        await daemon.until(lambda: starts(daemon, "a") >= 1, "a new boot forgets the backoff")


async def test_a_hopeless_start_is_ended_and_counted(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    room.answers.moods["a"] = HOPELESS
    async with room.daemon() as daemon:
        await daemon.until(lambda: daemon.of("a")["restarts"] == 1, "the first failure")
        assert daemon.of("a")["last_exit"]["reason"].startswith("ended by us because it was not healthy")


async def test_a_replica_that_answers_no_probe_is_replaced_but_not_one_that_sends_tokens(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}, b={}))
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        room.answers.moods["a"] = room.answers.moods["b"] = SILENT
        (busy,) = daemon.runtime.living("b")
        with daemon.parts.leases.hold("b", busy.handle.token) as lease:
            for _ in range(60):
                lease.progress()
                await daemon.let_pass(1)
            assert daemon.serials("b") == [1]
        assert daemon.serials("a") != [1]
        assert any("no good answer to 3 liveness probes" in line for line in daemon.told("action"))


@pytest.mark.parametrize("verb", ["start", "stop", "forget"])
async def test_a_defect_in_a_runtime_call_is_shown_and_holds_up_only_its_own_instance(
    tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(tmp_path, declare(a={"size": 1}, b={"size": 1}))
    real = getattr(FakeRuntime, verb)
    broken = {"a"}

    async def failing(self: FakeRuntime, what: StartOrder | Handle, **more: str) -> ReplicaFacts | None:
        handle = what.handle if isinstance(what, StartOrder) else what
        if handle.instance in broken:
            raise ZeroDivisionError("a defect")
        result: ReplicaFacts | None = await real(self, what, **more)
        return result

    monkeypatch.setattr(FakeRuntime, verb, failing)
    async with room.daemon() as daemon:
        if verb == "start":
            await daemon.ready("b")
        else:
            await daemon.ready("a", "b")
        await daemon.save(declare(a={"size": 2}, b={"size": 2}))
        await daemon.until(lambda: daemon.of("a")["fault"], "the fault is shown")
        assert "ZeroDivisionError('a defect')" in daemon.of("a")["fault"]
        await daemon.ready("b")
        assert daemon.of("b")["fault"] is None
        passes = daemon.controller.loop.passes
        await daemon.let_pass(60, step=1)
        assert daemon.controller.loop.passes - passes < 100, "a broken instance must not make the loop spin"
        if verb == "forget":
            assert daemon.of("a")["restarts"] == 0, "an end that cannot be forgotten is counted once"
        broken.clear()
        await daemon.until(lambda: daemon.settled("a") and daemon.of("a")["fault"] is None, "all is well again")


async def test_adopted_replicas_keep_serving_and_nothing_is_started(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}, b={}))
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        pids = [one.pid for one in (*daemon.runtime.living("a"), *daemon.runtime.living("b"))]
    room.answers.moods["a"] = SILENT  # one that is slow to answer its first probe
    async with room.daemon() as daemon:
        await daemon.controller.loop.passed()
        assert daemon.phase("a") == daemon.phase("b") == "ready"
        assert daemon.of("a")["replicas"][0]["adopted"] is True
        del room.answers.moods["a"]
        await daemon.let_pass(30, step=1)
        assert [one.pid for one in (*daemon.runtime.living("a"), *daemon.runtime.living("b"))] == pids
        assert daemon.runtime.calls == []
        assert daemon.status()["observed_generation"] == 1


async def test_a_draining_replica_lives_until_its_last_request_ends(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"size": 1, "stop": "{drain_timeout: 10m}"}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        (old,) = daemon.runtime.living("a")
        with daemon.parts.leases.hold("a", old.handle.token):
            await daemon.save(declare(a={"size": 2, "stop": "{drain_timeout: 10m}"}))
            await daemon.let_pass(300, step=1)
            assert daemon.serials("a") == [1, 2]
            assert [one["phase"] for one in daemon.of("a")["replicas"]] == ["draining", "ready"]
            assert daemon.of("a")["next_action"]["what"] == "drain"
            assert daemon.of("a")["ready"] is True
            assert daemon.of("a")["observed_generation"] == 1
        before = daemon.clock.monotonic()
        await daemon.until(lambda: daemon.serials("a") == [2], "the old one is gone", step=0.0)
        assert daemon.clock.monotonic() - before < 1.0, "the end of the last request wakes the loop"


async def test_drain_timeout_bounds_the_wait(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"stop": "{drain_timeout: 30s}"}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        (old,) = daemon.runtime.living("a")
        with daemon.parts.leases.hold("a", old.handle.token):
            await daemon.save(declare(b={}))
            await daemon.let_pass(29, step=1)
            assert daemon.serials("a") == [1]
            await daemon.until(lambda: daemon.phase("a") == "gone", "it is ended all the same")


async def test_an_on_demand_instance_wakes_for_a_request_and_sleeps_after_the_last_one(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"state": "on_demand", "idle_timeout": "60s"}))
    async with room.daemon() as daemon:
        await daemon.until(lambda: daemon.status()["observed_generation"] == 1, "idle as declared")
        assert daemon.phase("a") == "stopped"
        with daemon.parts.leases.waiting("a"):
            await daemon.until(lambda: daemon.controller.routes.by_instance["a"].targets, "a target", step=0.02)
        (target,) = daemon.controller.routes.by_instance["a"].targets
        with daemon.parts.leases.hold("a", target.key):
            await daemon.let_pass(300, step=1)
            assert daemon.serials("a") == [1]
        ended = daemon.clock.monotonic()
        await daemon.let_pass(55, step=1)
        assert daemon.serials("a") == [1]
        await daemon.until(lambda: daemon.phase("a") == "stopped", "it sleeps")
        assert 59 < daemon.clock.monotonic() - ended < 62


async def test_end_stops_everything_and_returns_when_nothing_is_left(tmp_path: Path) -> None:
    scripts = {"stubborn": Script(obeys_stop_after=None), "slow": Script(obeys_stop_after=5.0)}
    room = Room(tmp_path, declare(a={}, stubborn={}, slow={}, idle={"state": "on_demand"}), scripts=scripts)
    async with room.daemon() as daemon:
        await daemon.ready("a", "stubborn", "slow")
        assert daemon.controller.begin_down() == 3
        await daemon.until(daemon.loop_task.done, "the loop returns")
        assert not any(process.exit is None for process in room.host.processes.values())
        assert ("kill", "stubborn#1") in daemon.runtime.calls
        assert ("kill", "slow#1") not in daemon.runtime.calls


async def test_conditions_move_when_the_world_does_not_when_somebody_asks(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        since = daemon.condition("a", "Ready")["since"]
        await daemon.let_pass(50, step=1)
        assert daemon.condition("a", "Ready")["since"] == since
        daemon.runtime.crash("a")
        await daemon.until(lambda: daemon.parts.histories.get("a").restarts == 1, "the crash is known")
        crashed = daemon.clock.now()
        await daemon.until(lambda: daemon.parts.histories.get("a").next_serial == 3, "started again")
        await daemon.let_pass(100, step=1)
        later = daemon.condition("a", "Ready")
        assert later["status"] is True
        assert since < later["since"], "it moved, though nobody asked in between"
        assert daemon.clock.now() - crashed > 90
        room_since = daemon.of("a")["conditions"]
        await daemon.let_pass(20, step=1)
        assert daemon.of("a")["conditions"] == room_since


async def test_observed_generation_follows_and_never_falls(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"size": 1}, b={}))
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        room.answers.moods["a"] = LOADING
        await daemon.save(declare(a={"size": 2}, b={}))
        await daemon.save(declare(a={"size": 3}, b={}))
        await daemon.let_pass(2)
        assert (daemon.of("a")["generation"], daemon.of("a")["observed_generation"]) == (3, 1)
        assert (daemon.of("b")["generation"], daemon.of("b")["observed_generation"]) == (1, 1)
        assert (daemon.status()["generation"], daemon.status()["observed_generation"]) == (3, 1)
        del room.answers.moods["a"]
        await daemon.ready("a")
        assert daemon.status()["observed_generation"] == 3
        daemon.runtime.crash("a")
        await daemon.until(lambda: not daemon.of("a")["ready"], "it is down")
        assert daemon.of("a")["observed_generation"] == 3
        assert daemon.status()["observed_generation"] == 3


async def test_quick_edits_collapse_into_the_last_one(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"size": 0}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        room.answers.moods["a"] = LOADING
        for size in range(1, 21):
            await daemon.save(declare(a={"size": size}))
        del room.answers.moods["a"]
        await daemon.ready("a")
        (process,) = daemon.runtime.living("a")
        assert "--size=20" in process.order.launch.argv
        assert "size 0 -> 20" in daemon.told("action")[-2]
        assert daemon.of("a")["restarts"] == 0


async def test_a_change_back_before_the_new_one_is_ready_leaves_the_old_one_alone(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"size": 1}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        room.answers.routes["a#2"] = "/never"
        await daemon.save(declare(a={"size": 2}))
        await daemon.let_pass(2)
        await daemon.save(declare(a={"size": 1}))
        await daemon.ready("a")
        assert daemon.serials("a") == [1]


async def test_restart_replaces_by_the_update_strategy_and_answers_only_for_what_can_run(tmp_path: Path) -> None:
    text = declare(a={}, off={"enabled": "false"}, out={"backend_type": "outside", "size": 9})
    room = Room(tmp_path, text)
    async with room.daemon() as daemon:
        await daemon.ready("a")
        for name, why in (("nobody", Missing), ("off", Conflict), ("out", Conflict)):
            with pytest.raises(why):
                await daemon.controller.restart(name)
        await daemon.let_pass(1)
        answer = await daemon.controller.restart("a")
        assert answer["name"] == "a"
        await daemon.until(lambda: daemon.serials("a") == [2], "it was replaced")
        assert any("restart requested; start-first" in line for line in daemon.told("action"))


async def test_an_edit_is_answered_after_the_next_pass_also_when_nothing_is_to_be_done(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        await daemon.let_pass(8, step=1)
        passes = daemon.controller.loop.passes
        await daemon.controller.set_enabled("a", True)
        assert daemon.controller.loop.passes - passes in (1, 2)
        answer = await daemon.controller.set_enabled("a", False)
        assert answer["state"] == "disabled"


async def test_an_external_endpoint_is_probed_and_routed_and_a_new_url_is_not_trusted_unseen(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(out={"backend_type": "outside", "size": 5001}))
    from reconciler.host.probe import Answer

    room.answers.moods["5001"] = Answer(status=200)
    async with room.daemon() as daemon:
        await daemon.until(lambda: daemon.controller.ready_report() == (True, []), "it answers")
        assert daemon.controller.routes.by_instance["out"].targets[0].endpoint.port == 5001
        await daemon.save(declare(out={"backend_type": "outside", "size": 5002}))
        await daemon.controller.loop.passed()
        assert daemon.phase("out") == "unready"
        assert daemon.controller.routes.by_instance["out"].targets == ()
        room.answers.moods["5002"] = Answer(status=200)
        await daemon.until(lambda: daemon.phase("out") == "ready", "the new one answers")
        assert daemon.of("out")["replicas"] == []


async def test_a_changed_probe_policy_is_followed_without_losing_what_is_known(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"probe": "{interval: 10m}"}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        await daemon.let_pass(2)
        await daemon.save(declare(a={"probe": "{interval: 1s}"}))
        assert daemon.phase("a") == "ready"
        asked = len(room.answers.asked)
        await daemon.let_pass(10, step=0.5)
        assert len(room.answers.asked) - asked >= 8
        assert daemon.serials("a") == [1]
