"""What is in force, what is held, what is remembered: over edits, daemon restarts and a disk that refuses."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path

import pytest

from reconciler.control.keeper import HOLD_S, LAST_GOOD_NAME, RECORD_NAME
from reconciler.core.errors import Conflict, Rejected
from tests.control.rooms import LOADING, Daemon, Room, declare

MANY = {f"n{number:02}": {"size": number} for number in range(61)}


def only(*names: str) -> str:
    return declare(**{name: MANY[name] for name in names})


async def running(daemon: Daemon, count: int) -> None:
    await daemon.until(lambda: len(daemon.controller.loop.running()) == count, f"{count} run")


async def test_a_file_that_would_stop_nearly_everything_is_held_and_shown_and_then_counts(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(**MANY))
    async with room.daemon() as daemon:
        await daemon.ready(*MANY)
        await daemon.save(only("n00"))
        held = daemon.status()["config"]["held"]
        assert len(held["removes"]) == 60
        assert held["until"].startswith("2025-")
        assert daemon.status()["config"]["valid"] is True
        assert any("held for 10s" in line for line in daemon.told("config"))
        await daemon.let_pass(HOLD_S - 1.0)
        assert len(daemon.controller.loop.running()) == 61
        await daemon.save(only("n00"))  # touched, the same bytes: the time goes on
        await daemon.let_pass(1.5)
        await running(daemon, 1)
        assert daemon.status()["config"]["held"] is None


async def test_another_content_is_held_anew(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(**MANY))
    async with room.daemon() as daemon:
        await daemon.ready(*MANY)
        await daemon.save(only("n00"))
        await daemon.let_pass(HOLD_S - 1.0)
        await daemon.save(only("n01"))
        await daemon.let_pass(HOLD_S - 1.0)
        assert len(daemon.controller.loop.running()) == 61
        await daemon.let_pass(1.5)
        await running(daemon, 1)


async def test_a_repaired_file_takes_the_place_of_a_held_one_and_nothing_was_stopped(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(**MANY))
    async with room.daemon() as daemon:
        await daemon.ready(*MANY)
        await daemon.save(only("n00", "n01"))
        await daemon.let_pass(HOLD_S / 2)
        await daemon.save(declare(**MANY))
        assert daemon.status()["config"]["held"] is None
        await daemon.let_pass(HOLD_S * 2, step=1)
        assert len(daemon.controller.loop.running()) == 61
        assert not [call for call in daemon.runtime.calls if call[0] == "stop"]
        assert daemon.status()["generation"] == 1


async def test_a_broken_file_ends_the_hold_without_stopping_anything(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(**MANY))
    async with room.daemon() as daemon:
        await daemon.ready(*MANY)
        await daemon.save(only("n00"))
        await daemon.save("instances: [")
        assert daemon.status()["config"]["held"] is None
        assert daemon.status()["config"]["valid"] is False
        await daemon.let_pass(HOLD_S * 2, step=1)
        assert len(daemon.controller.loop.running()) == 61


async def test_apply_does_not_wait(tmp_path: Path) -> None:
    room = Room(tmp_path, only("n00", "n01", "n02"))
    async with room.daemon() as daemon:
        await daemon.ready("n00", "n01", "n02")
        answer = await daemon.controller.apply(only("n00").encode(), if_match=None)
        assert answer["removed"] == ["n01", "n02"]
        assert daemon.status()["config"]["held"] is None
        await running(daemon, 1)


async def test_one_after_the_other_may_be_removed_even_while_earlier_ones_drain(tmp_path: Path) -> None:
    room = Room(tmp_path, only("n00", "n01", "n02"))
    async with room.daemon() as daemon:
        await daemon.ready("n00", "n01", "n02")
        (first,) = daemon.runtime.living("n00")
        with daemon.parts.leases.hold("n00", first.handle.token):
            await daemon.controller.delete("n00")
            await daemon.controller.delete("n01")
            assert daemon.status()["config"]["held"] is None
            await daemon.until(lambda: daemon.phase("n01") == "gone", "the second is gone")


async def test_an_edit_over_the_api_never_puts_a_held_file_in_force(tmp_path: Path) -> None:
    room = Room(tmp_path, only("n00", "n01", "n02", "n03"))
    async with room.daemon() as daemon:
        await daemon.ready("n00", "n01", "n02", "n03")
        await daemon.save(only("n00"))
        with pytest.raises(Conflict, match="is held for a moment"):
            await daemon.controller.set_enabled("n00", False)
        assert room.file.read_text() == only("n00")
        assert len(daemon.controller.loop.running()) == 4


async def test_a_broken_save_keeps_everything_says_where_and_the_fixed_one_recovers(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}, b={}))
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        await daemon.save(declare(a={}, b={}).replace("backend_options", "backend_optoins", 1))
        problems = daemon.status()["config"]["problems"]
        assert (4, 5) in [(problem["line"], problem["column"]) for problem in problems]
        assert daemon.status()["config"]["valid"] is False
        assert "the file is refused" in daemon.told("config")[-1]
        events = len(daemon.told("config"))
        await daemon.save(declare(a={}, b={}).replace("backend_options", "backend_optoins", 1))
        assert len(daemon.told("config")) == events, "the same problem is told once"
        await daemon.save(declare(a={}, b={}))
        assert daemon.status()["config"]["valid"] is True
        assert daemon.told("config")[-1] == "the file is valid again"
        assert daemon.serials("a") == daemon.serials("b") == [1]
        assert daemon.status()["generation"] == 1


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(declare(a={"size": 1}, b={}), id="the same bytes"),
        pytest.param("# a comment\n" + declare(a={"size": 1}, b={}) + "\n\n# another\n", id="comments"),
        pytest.param(declare(b={}, a={"size": 1}), id="another order"),
        pytest.param(
            "{instances: {a: {backend_options: {size: 1, model: m}, backend_type: tiny}, "
            "b: {backend_options: {model: 'm'}, backend_type: \"tiny\"}}}",
            id="another layout",
        ),
    ],
)
async def test_what_means_the_same_is_no_change(tmp_path: Path, again: str) -> None:
    room = Room(tmp_path, declare(a={"size": 1}, b={}))
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        calls, events = list(daemon.runtime.calls), len(daemon.told())
        await daemon.save(again)
        await daemon.let_pass(3)
        assert daemon.runtime.calls == calls
        assert daemon.status()["generation"] == daemon.status()["observed_generation"] == 1
        assert len(daemon.told()) == events


async def test_generations_count_on_over_daemon_restarts(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"size": 1}, b={}))
    async with room.daemon() as daemon:
        await daemon.save(declare(a={"size": 2}, b={}))
        await daemon.ready("a", "b")
        created = daemon.parts.keeper.accepted
        assert created is not None
        assert daemon.status()["generation"] == 2
    await room.clock.advance(100)
    async with room.daemon() as daemon:
        assert daemon.status()["generation"] == 2
        again = daemon.parts.keeper.accepted
        assert again is not None
        assert (again.generations, again.created) == (created.generations, created.created)
        assert again.generations == {"a": 2, "b": 1}
    room.file.write_text(declare(a={"size": 3}, b={}))
    async with room.daemon() as daemon:
        assert daemon.status()["generation"] == 3


async def test_a_daemon_that_finds_a_broken_file_goes_on_with_the_last_good_one(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}, b={}))
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
    room.file.write_text("instances: [")
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        assert daemon.runtime.calls == []
        assert daemon.status()["config"]["valid"] is False
        assert daemon.status()["generation"] == 1
        await daemon.save(declare(a={}, b={}, c={}))
        await daemon.ready("c")
        assert daemon.status()["config"]["valid"] is True


async def test_the_last_good_content_of_another_file_is_not_taken(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
    room.file = tmp_path / "other.yaml"
    room.file.write_text("instances: [")
    with pytest.raises(Rejected):
        async with room.daemon():
            pass


@pytest.mark.parametrize("garbage", [b"", b"\xff\x00", b"[]", b'{"files": 3}', b'{"generation": "x", "instances": 4}'])
async def test_state_that_makes_no_sense_is_put_aside(tmp_path: Path, garbage: bytes) -> None:
    room = Room(tmp_path, declare(a={}))
    (room.state / "history").mkdir()
    for path in (room.state / RECORD_NAME, room.state / LAST_GOOD_NAME, room.state / "history" / "a.json"):
        path.write_bytes(garbage)
    async with room.daemon() as daemon:
        await daemon.ready("a")
        assert daemon.status()["generation"] == 1
        await daemon.until(lambda: not daemon.parts.keeper.unsaved, "it is written")
        assert json.loads((room.state / RECORD_NAME).read_bytes())["generation"] == 1
        assert daemon.parts.keeper.last_good(room.file) is not None


async def test_a_full_disk_is_shown_touches_nothing_and_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(tmp_path, declare(a={"size": 1}, b={}))
    full = False
    from reconciler.host import store

    real = store.write_json

    def write(path: Path, value: dict[str, object], mode: int = 0o600) -> None:
        if full:
            raise OSError(28, "No space left on device", str(path))
        real(path, value, mode)

    monkeypatch.setattr(store, "write_json", write)
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        full = True
        await daemon.save(declare(a={"size": 2}, b={}))
        await daemon.ready("a")
        await daemon.until(lambda: daemon.status()["config"]["write_errors"], "the failure is shown")
        assert "No space left" in daemon.status()["config"]["write_errors"][0]
        await daemon.save(declare(a={"size": 3}, b={}))
        await daemon.ready("a")
        assert daemon.status()["generation"] == 3, "what cannot be written is counted all the same"
        assert daemon.serials("b") == [1]
        full = False
        await daemon.let_pass(12, step=0.5)
        assert daemon.status()["config"]["write_errors"] == []
        record = json.loads((room.state / RECORD_NAME).read_bytes())
        assert record["generation"] == 3
        good = json.loads((room.state / LAST_GOOD_NAME).read_bytes())
        (text,) = good["files"].values()
        assert b"size: 3" in base64.b64decode(text)


async def test_a_slow_disk_delays_neither_passes_nor_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reconciler.host import store

    room = Room(tmp_path, declare(a={"size": 1}))
    real, go = store.write_json, threading.Event()

    def write(path: Path, value: dict[str, object], mode: int = 0o600) -> None:
        go.wait(10)
        real(path, value, mode)

    monkeypatch.setattr(store, "write_json", write)
    async with room.daemon() as daemon:
        try:
            await daemon.ready("a")
            await daemon.save(declare(a={"size": 2}))
            await daemon.until(lambda: 2 in daemon.serials("a"), "the new one is started")
        finally:
            go.set()
        await daemon.ready("a")


async def test_what_changes_while_it_is_written_is_written_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reconciler.host import store

    room = Room(tmp_path, declare(a={}))
    room.answers.moods["a"] = LOADING
    real, go, writing = store.write_json, threading.Event(), threading.Event()

    def write(path: Path, value: dict[str, object], mode: int = 0o600) -> None:
        if path.name == "a.json":
            writing.set()
            go.wait(10)
        real(path, value, mode)

    monkeypatch.setattr(store, "write_json", write)
    async with room.daemon() as daemon:
        try:
            await daemon.until(writing.is_set, "the start is being written")
            del room.answers.moods["a"]
            await daemon.until(lambda: daemon.of("a")["ready"], "ready, meanwhile")
        finally:
            go.set()
        before = daemon.clock.monotonic()
        await daemon.until(lambda: not daemon.parts.histories.unsaved, "all is written", step=0.0)
        assert daemon.clock.monotonic() == before
        assert json.loads((room.state / "history" / "a.json").read_bytes())["good"] is not None


async def test_a_down_keeps_what_the_next_up_wants_to_know(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        (one,) = daemon.runtime.living("a")
        daemon.controller.begin_down()
        await daemon.until(daemon.loop_task.done, "all is down")
    assert json.loads((room.state / "history" / "a.json").read_bytes())["port"] == one.port


async def test_the_books_are_private(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"environment": "{TOKEN: very-secret}"}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        await daemon.until(
            lambda: not (daemon.parts.keeper.unsaved or daemon.parts.histories.unsaved), "all is written"
        )
    written = list(room.state.rglob("*.json"))
    assert {path.name for path in written} == {RECORD_NAME, LAST_GOOD_NAME, "a.json"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in written)
