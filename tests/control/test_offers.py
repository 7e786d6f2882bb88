"""From the file to the accepted fleet: nothing torn, nothing stale, nobody's change lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.control.controller import PreconditionFailed
from reconciler.control.watch import Pace
from reconciler.core.errors import Conflict, Missing, Rejected
from reconciler.core.spec import OptionValue
from reconciler.host import store
from tests.control.rooms import Room, declare, following_file

DEADLINE_S = 20.0


async def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        await asyncio.sleep(0.01)


# ---- torn -------------------------------------------------------------------------------------------------------


def sixty(size: int, *, more: bool = False) -> str:
    """A file of sixty instances in about 5 kB, one line of them changed by ``size``."""
    instances = {f"n{number:02}": {"size": size if number == 30 else number} for number in range(60)}
    return declare(**instances, **({"more": {"size": 1}} if more else {}))


async def _write_torn(path: Path, text: str, choose: random.Random, longest_pause: float) -> None:
    """Write as a slow tool does: truncate or recreate, then piece by piece, with pauses."""
    data, pieces = text.encode(), choose.randint(2, 9)
    cuts = sorted(choose.sample(range(1, len(data)), pieces - 1))
    fashion = choose.choice(["in place", "recreate", "append each"])
    if fashion == "recreate":
        path.unlink()
    with path.open("wb", buffering=0) as file:
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            await asyncio.sleep(choose.random() ** 2 * longest_pause)
            if fashion == "append each":
                with path.open("ab", buffering=0) as once:
                    once.write(data[start:end])
            else:
                file.write(data[start:end])


@pytest.mark.parametrize("seed", range(3))
async def test_only_the_first_and_the_last_text_of_a_torn_writer_are_ever_accepted(tmp_path: Path, seed: int) -> None:
    async def one(turn: int) -> None:
        choose = random.Random(f"{seed}/{turn}")
        folder = tmp_path / f"{turn}"
        folder.mkdir()
        last = choose.choice([sixty(22222), sixty(3), sixty(1, more=True)])
        async with following_file(folder, sixty(1)) as (path, _, keeper):
            await _write_torn(path, last, choose, longest_pause=0.12)
            await until(lambda: keeper.accepted and keeper.accepted.generation > 1, "the last text is accepted")
            await asyncio.sleep(0.1)
            accepted = keeper.accepted
            assert accepted is not None
            size = accepted.fleet.instances["n30"].backend_options["size"]
            found = (len(accepted.fleet.instances), size)
            assert found == (61 if "more" in last else 60, 22222 if "22222" in last else 3 if last == sixty(3) else 1)
            assert accepted.generation == 2, f"seed {seed}/{turn}: something in between was accepted"
            assert keeper.held is None

    async with asyncio.TaskGroup() as group:
        for turn in range(8):
            group.create_task(one(turn))


async def test_a_save_that_is_under_way_when_the_watch_begins_is_waited_for(tmp_path: Path) -> None:
    async with following_file(tmp_path, sixty(1)) as (path, _, keeper):
        data = sixty(22222).encode()
        with path.open("wb", buffering=0) as file:
            file.write(data[: data.index(b"n20")])  # the watch has not looked even once
            await asyncio.sleep(0.15)
            assert keeper.accepted is not None
            assert len(keeper.accepted.fleet.instances) == 60
            file.write(data[data.index(b"n20") :])
        await until(lambda: keeper.accepted and keeper.accepted.generation > 1, "the whole text is accepted")
        assert keeper.accepted.fleet.instances["n30"].backend_options["size"] == 22222


async def test_many_saves_end_with_the_last_one_and_few_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with following_file(tmp_path, declare(a={"size": 0})) as (path, _, keeper):
        loads, real = 0, keeper.load

        async def load(content: object) -> object:
            nonlocal loads
            loads += 1
            return await real(content)  # type: ignore[arg-type]  # passed on as given

        monkeypatch.setattr(keeper, "load", load)
        for size in range(1, 1001):
            new = path.with_name("new.tmp")
            new.write_text(declare(a={"size": size}))
            new.replace(path)
            if size % 20 == 0:
                await asyncio.sleep(0.01)

        def arrived() -> bool:
            assert keeper.accepted is not None
            return keeper.accepted.fleet.instances["a"].backend_options["size"] == 1000

        await until(arrived, "the last one is in force")
        assert loads < 60


async def test_a_removed_file_keeps_the_last_good_one_and_says_so(tmp_path: Path) -> None:
    async with following_file(tmp_path, declare(a={})) as (path, controller, keeper):
        path.unlink()
        await until(lambda: keeper.problems, "it is told")
        config = controller.status()["config"]
        assert isinstance(config, dict)
        assert config["valid"] is False
        assert "no such file" in config["problems"][0]["message"]
        assert keeper.accepted is not None
        assert set(keeper.accepted.fleet.instances) == {"a"}
        path.write_text(declare(a={}))
        await until(lambda: not keeper.problems, "it is back")
        assert keeper.accepted.generation == 1


# ---- stale ------------------------------------------------------------------------------------------------------


async def test_a_read_from_before_an_edit_does_not_revert_it(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"size": 1}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        before_the_edit = daemon.seen()
        await daemon.controller.replace("a", {"backend_type": "tiny", "backend_options": {"model": "m", "size": 2}})
        await daemon.finished(daemon.controller.offer(before_the_edit))
        await daemon.ready("a")
        (process,) = daemon.runtime.living("a")
        assert "--size=2" in process.order.launch.argv
        assert daemon.status()["generation"] == 2


async def test_a_refusal_from_before_an_edit_does_not_stick(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    async with room.daemon() as daemon:
        room.file.write_text("instances: [")
        broken = daemon.seen()
        await daemon.controller.apply(declare(a={}, b={}).encode(), if_match=None)
        await daemon.finished(daemon.controller.offer(broken))
        assert daemon.status()["config"]["valid"] is True


async def test_a_file_put_back_right_after_an_edit_is_what_counts(tmp_path: Path) -> None:
    async with following_file(tmp_path, declare(a={"size": 1})) as (path, controller, keeper):
        task = asyncio.create_task(controller.loop.run())
        try:
            await controller.apply(declare(a={"size": 2}).encode(), if_match=None)
            path.write_text(declare(a={"size": 1}))

            def back() -> bool:
                assert keeper.accepted is not None
                return keeper.accepted.fleet.instances["a"].backend_options["size"] == 1

            await until(back, "the user's text is in force")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await controller._parts.probes.close()


# ---- edits ------------------------------------------------------------------------------------------------------


async def test_an_edit_that_meets_somebody_elses_is_refused_and_theirs_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(tmp_path, declare(a={}))
    async with room.daemon() as daemon:
        real = daemon.parts.keeper.load

        async def load(content: object) -> object:
            room.file.write_text("# theirs\n" + declare(a={}))
            return await real(content)  # type: ignore[arg-type]  # passed on as given

        monkeypatch.setattr(daemon.parts.keeper, "load", load)
        with pytest.raises(Conflict, match="changed by somebody else"):
            await daemon.controller.set_enabled("a", False)
        assert room.file.read_text() == "# theirs\n" + declare(a={})


async def test_a_client_that_leaves_does_not_cut_an_edit_in_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(tmp_path, declare(a={}))
    async with room.daemon() as daemon:
        await daemon.ready("a")
        client = asyncio.create_task(daemon.controller.set_enabled("a", False))
        real = store.write_atomic

        def write(path: Path, data: bytes, mode: int = 0o600, *, ready: Callable[[], None] | None = None) -> None:
            asyncio.run_coroutine_threadsafe(_cancel(client), loop).result()
            real(path, data, mode, ready=ready)

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(store, "write_atomic", write)
        with pytest.raises(asyncio.CancelledError):
            await client
        await daemon.until(lambda: daemon.phase("a") == "stopped", "the edit is in force")
        assert "enabled: false" in room.file.read_text()


async def _cancel(task: asyncio.Task[object]) -> None:
    task.cancel()


async def test_edits_keep_line_ends_and_comments(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    text = ("# a comment\n" + declare(a={}, b={})).replace("\n", "\r\n")
    room.file.write_bytes(text.encode())
    async with room.daemon() as daemon:
        await daemon.controller.set_enabled("b", False)
        after = room.file.read_bytes().decode()
        assert after.replace("    enabled: false\r\n", "") == text
        assert "\n" not in after.replace("\r\n", "")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
async def test_a_file_in_another_encoding_is_never_damaged(tmp_path: Path, encoding: str) -> None:
    room = Room(tmp_path, declare(a={}))
    room.file.write_bytes(declare(a={}).encode(encoding))
    before = room.file.read_bytes()
    async with room.daemon() as daemon:
        if encoding == "utf-16":
            with pytest.raises(Rejected, match="not UTF-8"):
                await daemon.controller.set_enabled("a", False)
            assert room.file.read_bytes() == before
        else:
            await daemon.controller.set_enabled("a", False)
            assert room.file.read_bytes().replace(b"    enabled: false\n", b"") == before


async def test_edits_answer_for_names_that_exist_or_not(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    body: dict[str, OptionValue] = {"backend_type": "tiny", "backend_options": {"model": "m"}}
    async with room.daemon() as daemon:
        with pytest.raises(Conflict, match="exists already"):
            await daemon.controller.create("a", body)
        for change in (daemon.controller.delete("b"), daemon.controller.set_enabled("b", True)):
            with pytest.raises(Missing):
                await change
        with pytest.raises(Rejected):
            await daemon.controller.create("b", {"backend_type": "tiny"})
        assert room.file.read_text() == declare(a={})
        assert (await daemon.controller.create("b", body))["name"] == "b"
        await daemon.ready("a", "b")
        assert (await daemon.controller.delete("b")) == {"name": "b", "removed": True}
        await daemon.until(lambda: daemon.phase("b") == "gone", "b is gone")


async def test_an_edit_of_a_broken_file_shows_the_users_own_problem(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    async with room.daemon() as daemon:
        room.file.write_text("instances: [")
        with pytest.raises(Rejected):
            await daemon.controller.set_enabled("a", False)
        assert room.file.read_text() == "instances: ["


async def test_a_file_that_cannot_be_written_is_a_conflict_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(tmp_path, declare(a={}))

    def refuse(path: Path, data: bytes, mode: int = 0o600, *, ready: Callable[[], None] | None = None) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(store, "write_atomic", refuse)
    async with room.daemon() as daemon:
        with pytest.raises(Conflict, match="Permission denied; give the daemon's user write access"):
            await daemon.controller.set_enabled("a", False)
        assert daemon.status()["generation"] == 1


async def test_apply_insists_on_the_text_that_the_caller_has_seen(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    async with room.daemon() as daemon:
        _, etag = await daemon.controller.config()
        answer = await daemon.controller.apply(declare(a={}, b={}).encode(), if_match=etag)
        assert answer["changed"] == ["b"]
        with pytest.raises(PreconditionFailed):
            await daemon.controller.apply(declare(a={}).encode(), if_match=etag)
        await daemon.controller.apply(declare(a={}).encode(), if_match=str(answer["etag"]))
        assert room.file.read_text() == declare(a={})


async def test_two_edits_at_once_are_both_in_the_file(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    body: dict[str, OptionValue] = {"backend_type": "tiny", "backend_options": {"model": "m"}}
    async with room.daemon() as daemon:
        await asyncio.gather(*(daemon.controller.create(name, body) for name in ("b", "c", "d")))
        await daemon.ready("a", "b", "c", "d")
        assert daemon.status()["generation"] == 4


async def test_in_a_folder_an_instance_is_edited_where_it_stands(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "one.yaml").write_text(declare(a={}))
    (folder / "two.yaml").write_text(declare(b={}))
    room.file = folder
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        await daemon.controller.set_enabled("b", False)
        assert "enabled: false" in (folder / "two.yaml").read_text()
        await daemon.controller.create("c", {"backend_type": "tiny", "backend_options": {"model": "m"}})
        assert "c:" in (folder / "llamactl.yaml").read_text()
        assert (folder / "one.yaml").read_text() == declare(a={})
        await daemon.ready("a", "c")
        with pytest.raises(Conflict):
            await daemon.controller.apply(b"instances: {}", if_match=None)


# ---- plans ------------------------------------------------------------------------------------------------------


async def test_a_plan_changes_nothing_and_what_it_says_comes_true(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={"size": 1}, b={}))
    async with room.daemon() as daemon:
        await daemon.ready("a", "b")
        calls = list(daemon.runtime.calls)
        text = declare(a={"size": 2}, c={}).encode()
        plan = await daemon.controller.plan(text)
        assert plan["pending"] is True
        changes = plan["changes"]
        assert isinstance(changes, list)
        assert {change["instance"]: change["kind"] for change in changes} == {
            "a": "replace",
            "b": "remove",
            "c": "create",
        }
        assert daemon.runtime.calls == calls
        assert room.file.read_text() == declare(a={"size": 1}, b={})
        await daemon.controller.apply(text, if_match=None)
        await daemon.ready("a", "c")
        await daemon.until(lambda: daemon.phase("b") == "gone", "b is gone")
        assert (await daemon.controller.plan(None))["pending"] is False


async def test_a_plan_finds_key_files_beside_the_real_file(tmp_path: Path) -> None:
    room = Room(tmp_path, declare(a={}))
    key = tmp_path / "key"
    key.write_text("k" * 43 + "\n")
    key.chmod(0o600)
    async with room.daemon() as daemon:
        text = "auth: {management_keys: [{file: key}]}\n" + declare(a={})
        assert (await daemon.controller.plan(text.encode()))["warnings"] == []


async def test_a_look_that_was_asked_for_reads_the_keys_again(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 43 + "\n")
    key.chmod(0o600)
    text = "auth: {management_keys: [{file: key}]}\n" + declare(a={})
    async with following_file(tmp_path, text, pace=Pace(look_every=0.2)) as (_, controller, keeper):
        first = keeper.accepted
        await until(lambda: keeper.accepted is not first, "the first look at the file is over")
        key.write_text("n" * 43 + "\n")
        await asyncio.sleep(0.5)
        assert keeper.accepted is not None
        assert keeper.accepted.generation == 1, "looking at the file by itself does not read the keys"
        controller.look()
        await until(lambda: keeper.accepted and keeper.accepted.generation == 2, "the new key counts")
