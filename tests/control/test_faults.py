"""What goes wrong around the loop: clocks that jump, models that load for long, ports that are taken, daemons that die half-way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from reconciler.control.controller import PreconditionFailed
from tests.control.rooms import LOADING, SILENT, Daemon, Room, declare
from tests.runtimes.fake import FakeRuntime, Script


def starts(daemon: Daemon, name: str) -> int:
    return sum(1 for verb, replica in daemon.runtime.calls if verb == "start" and replica.startswith(f"{name}#"))


@pytest.mark.parametrize("jump", [86400.0, -86400.0])
async def test_a_jump_of_the_wall_clock_fires_and_loses_no_timer(tmp_path: Path, jump: float) -> None:
    room = Room(tmp_path, declare(a={"restart": "{initial_delay: 60s}"}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        daemon.runtime.crash("a")
        await daemon.until(lambda: daemon.phase("a") == "backoff", "backoff")
        room.clock.jump_wall(jump)
        daemon.controller.loop.wake()
        await daemon.let_pass(40, step=1)
        assert starts(daemon, "a") == 1, "too early"
        await daemon.let_pass(25, step=1)
        assert starts(daemon, "a") == 2, "lost"


async def test_health_that_flaps_restarts_nothing(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"probe": "{interval: 1s}"}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        for turn in range(60):
            if turn % 2:
                room.answers.moods["a"] = SILENT
            else:
                room.answers.moods.pop("a", None)
            await daemon.let_pass(1)
        assert daemon.serials("a") == [1]
        assert daemon.of("a")["restarts"] == 0


async def test_a_model_may_load_for_as_long_as_start_timeout_says(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"start_timeout": "1h", "probe": "{interval: 1s, failure_threshold: 1}"}))
    room.answers.moods["a"] = LOADING
    async with room.daemon() as daemon:
        await daemon.until(lambda: daemon.serials("a"), "it starts")
        await daemon.let_pass(1800, step=10)
        assert daemon.serials("a") == [1]
        assert daemon.phase("a") == "starting"
        asked = len(room.answers.asked)
        await daemon.let_pass(10, step=0.25)
        assert 8 <= len(room.answers.asked) - asked <= 12, "a long load is asked about once a second"
        await daemon.let_pass(1800, step=10)
        await daemon.until(lambda: daemon.of("a")["restarts"] == 1, "an hour is over")


async def test_a_port_that_a_stranger_has_is_told_and_waited_for(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"port": 9000}, b={}))
    room.host.strangers.add(9000)
    async with room.daemon() as daemon:
        await daemon.ready("b")
        await daemon.until(lambda: daemon.phase("a") == "backoff", "backoff")
        assert "port 9000 is in use by pid 4242" in daemon.of("a")["last_exit"]["reason"]
        assert daemon.of("a")["next_action"]["what"] == "backoff"
        room.host.strangers.clear()
        await daemon.ready("a")
        assert not [call for call in daemon.runtime.calls if call[0] == "kill"]


async def test_a_program_that_cannot_be_run_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    why = "cannot run tiny: not found in PATH"
    room = Room(tmp_path, declare(a={}, b={}), scripts={"a": Script(error=why)})
    async with room.daemon() as daemon:
        await daemon.ready("b")
        await daemon.until(lambda: daemon.of("a")["restarts"] >= 3, "three attempts")
        assert daemon.of("a")["last_exit"]["reason"] == why
        assert daemon.condition("a", "Stalled")["status"] is True
        assert why in daemon.condition("a", "Stalled")["message"]
        assert daemon.serials("b") == [1]


async def test_an_instance_that_cannot_be_seen_is_left_alone(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"size": 1}, b={}))
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        daemon.runtime.go_dark("a")
        await daemon.save(declare(a={"size": 2}, b={}))
        await daemon.let_pass(120, step=1)
        assert daemon.phase("a") == "unknown"
        assert starts(daemon, "a") == 1
        assert "a" in daemon.controller.loop.running()
        daemon.runtime.go_dark("a", dark=False)
        await daemon.ready("a")
        assert daemon.serials("a") == [2]


async def test_a_new_revision_that_never_works_leaves_the_old_one_serving(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"size": 1}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        room.host.scripts["a"] = Script(exits_after=0.0, code=1, log=("unknown flag",))
        await daemon.save(declare(a={"size": 2}))
        await daemon.until(lambda: daemon.condition("a", "Stalled")["status"], "it is given up")
        await daemon.let_pass(60, step=1)
        assert daemon.serials("a") == [1]
        assert daemon.of("a")["ready"] is True
        assert daemon.of("a")["observed_generation"] < daemon.of("a")["generation"]
        assert daemon.of("a")["last_exit"]["log_tail"] == ["unknown flag"]
        del room.host.scripts["a"]
        await daemon.save(declare(a={"size": 3}))
        await daemon.ready("a")
        assert daemon.condition("a", "Stalled")["status"] is False


class Died(Exception):
    """Stands for the end of the daemon in the middle of a call."""


@pytest.mark.parametrize("after", [False, True], ids=["before the effect", "after the effect"])
async def test_a_daemon_that_dies_at_any_action_of_an_edit_is_followed_by_one_that_ends_where_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """The calls of a whole edit are counted first; then the daemon dies at each of them in turn."""
    wanted = declare(a={"size": 2}, c={})

    async def life(folder: Path, dies_at: int | None) -> tuple[int, set[tuple[str, tuple[str, ...]]]]:
        folder.mkdir()
        room = Room(folder, declare(a={"size": 1}, b={}))
        calls, dead = 0, asyncio.Event()

        def counted(verb: str) -> Any:
            real = getattr(FakeRuntime, verb)

            async def call(self: FakeRuntime, *given: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if dies_at is None or calls < dies_at:
                    return await real(self, *given, **more)
                if calls == dies_at and after:
                    await real(self, *given, **more)
                dead.set()
                await asyncio.Event().wait()  # nothing of this daemon comes back any more

            return call

        async with room.daemon() as daemon:
            await daemon.ready("a", "b")
            with monkeypatch.context() as patch:
                for verb in ("start", "stop", "kill", "forget"):
                    patch.setattr(FakeRuntime, verb, counted(verb))
                room.file.write_text(wanted)
                await daemon.finished(daemon.controller.offer(daemon.seen()))
                if dies_at is None:
                    await daemon.ready("a", "c")
                    await daemon.until(lambda: daemon.phase("b") == "gone", "b is gone")
                    await daemon.until(lambda: len(room.host.processes) == 2, "nothing else is left")
                else:
                    await daemon.until(dead.is_set, "the daemon dies")
                daemon.loop_task.cancel()
                await asyncio.gather(daemon.loop_task, return_exceptions=True)
        async with room.daemon() as daemon:
            await daemon.ready("a", "c")
            await daemon.until(lambda: len(room.host.processes) == 2, "nothing else is left")
            assert daemon.of("a")["restarts"] == 0
            assert daemon.of("c")["restarts"] == 0
        left = {(one.handle.instance, one.order.launch.argv) for one in room.host.processes.values()}
        return calls, left

    total, expected = await life(tmp_path / "whole", None)
    assert total >= 6
    for number in range(1, total + 1):
        _, left = await life(tmp_path / f"{number}", number)
        assert left == expected, f"after a death at call {number}"


async def test_of_two_applies_of_the_same_text_one_is_refused(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        _, etag = await daemon.controller.config()
        texts = [declare(a={}, b={}), declare(a={}, c={})]
        outcomes = await asyncio.gather(
            *(daemon.controller.apply(text.encode(), if_match=etag) for text in texts), return_exceptions=True
        )
        refused = [isinstance(outcome, PreconditionFailed) for outcome in outcomes]
        assert sorted(refused) == [False, True]
        assert room.file.read_text() == texts[refused.index(False)]
