"""What stands in a state folder is checked before it is believed, and is never a reason to signal a process."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import subprocess
import sys

import pytest

from reconciler.core.contracts import ASKED_STOP, ProcessState
from reconciler.core.errors import Transient
from tests.runtimes import programs
from tests.runtimes.conftest import Place, alive, clean_up, ended, facts_of, until


def bystander(place: Place, *, token: str = "") -> subprocess.Popen[bytes]:
    """A process that is not ours; the test ends it."""
    command = [sys.executable, "-I", "-S", "-c", programs.SERVES]
    return subprocess.Popen(command, cwd=place.work, env={"LLAMACTL_TOKEN": token}, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("pid", [1, 0, -1, "own", "truncated", "bytes", "newer"])
async def test_a_forged_state_signals_nobody(place: Place, pid: int | str) -> None:
    """Rows 18 and 27: nothing in a file is a reason to signal a process."""
    order = place.order(programs.SERVES)
    runtime = place.runtime()
    await runtime.open()
    await runtime.start(order)
    await runtime.kill(order.handle, asked=ASKED_STOP)
    await ended(runtime, order.handle)
    await runtime.close()
    await until(lambda: not place.processes(), what="the end of the shim")
    folder = place.replica_folder(order)
    state = json.loads((folder / "state.json").read_text())
    (folder / "exit.json").unlink()
    (folder / "lock").write_bytes(b"")
    innocent = bystander(place)
    try:
        text = json.dumps({**state, "pid": innocent.pid if pid == "own" else pid, "gone": False, "exit": None}).encode()
        broken = {
            "truncated": text[:-20],
            "bytes": os.urandom(200),
            "newer": text.replace(b'"version": 1', b'"version": 99'),
        }
        (folder / "state.json").write_bytes(broken.get(str(pid), text))
        second = place.runtime()
        await second.open()
        assert innocent.poll() is None
        if pid == "own":  # believable, but nobody carries the token: an ended replica
            assert facts_of(second, order.handle).state is ProcessState.EXITED
        else:
            assert list(second.observe()) == []
            assert (folder / "state.json.bad").exists()
        await second.close()
    finally:
        innocent.kill()
        innocent.wait()


async def test_a_copied_state_folder_harms_nobody(place: Place) -> None:
    order = place.order(programs.SERVES)
    runtime = place.runtime()
    await runtime.open()
    facts = await runtime.start(order)
    await place.up(order)
    backup = place.folder / "backup"
    shutil.copytree(place.state, backup, ignore=lambda _folder, names: [name for name in names if name == "control"])
    other = Place(place.folder / "backup")
    other.state = backup
    second = other.runtime()
    await second.open()
    assert list(second.observe()) == []
    assert facts.pid is not None
    assert alive(facts.pid)
    await second.close()
    await clean_up(runtime)


async def test_after_a_reboot_nothing_is_looked_for(place: Place) -> None:
    """Row 19: another boot, and a process that carries the token all the same."""
    order = place.order(programs.SERVES)
    runtime = place.runtime()
    await runtime.open()
    await runtime.start(order)
    await runtime.kill(order.handle, asked=ASKED_STOP)
    await ended(runtime, order.handle)
    await runtime.close()
    await until(lambda: not place.processes(), what="the end of the shim")
    folder = place.replica_folder(order)
    state = json.loads((folder / "state.json").read_text())
    (folder / "exit.json").unlink()
    (folder / "state.json").write_text(json.dumps({**state, "boot": "another", "gone": False, "exit": None}))
    innocent = bystander(place, token=order.handle.token)
    try:
        second = place.runtime()
        await second.open()
        facts = facts_of(second, order.handle)
        assert innocent.poll() is None
        assert facts.state is ProcessState.EXITED
        assert facts.exit is not None
        assert "restarted" in (facts.exit.error or "")
        await second.close()
    finally:
        innocent.kill()
        innocent.wait()


async def test_a_held_lock_without_an_answer_is_unknown_and_then_known(place: Place) -> None:
    order = place.order(programs.SERVES)
    runtime = place.runtime()
    await runtime.open()
    facts = await runtime.start(order)
    await runtime.close()
    control = place.replica_folder(order) / "control"
    control.rename(control.with_name("hidden"))
    second = place.runtime()
    await second.open()
    seen = facts_of(second, order.handle)
    assert seen.state is ProcessState.UNKNOWN
    with pytest.raises(Transient):
        await second.stop(order.handle, asked=ASKED_STOP)
    control.with_name("hidden").rename(control)
    await until(lambda: facts_of(second, order.handle).state is ProcessState.RUNNING, what="the answer")
    assert facts_of(second, order.handle).pid == facts.pid
    await clean_up(second)


async def test_a_shim_of_another_protocol_is_left_running(place: Place) -> None:
    """Row 5: what this daemon cannot speak to is unknown, and nobody touches it."""
    folder = place.state / "replicas" / "tiny" / "1"
    folder.mkdir(parents=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"hello": 7, "state": {}}\n')
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, folder / "control")
    runtime = place.runtime()
    await runtime.open()
    facts = runtime.observe()[0]
    assert facts.state is ProcessState.UNKNOWN
    assert facts.degraded == ("SHIM_PROTOCOL_UNSUPPORTED",)
    with pytest.raises(Transient):
        await runtime.kill(facts.handle, asked=ASKED_STOP)
    await runtime.close()
    server.close()
    os.close(lock)


async def test_a_garbage_state_under_a_live_shim_changes_nothing(place: Place) -> None:
    order = place.order(programs.SERVES)
    runtime = place.runtime()
    await runtime.open()
    facts = await runtime.start(order)
    await runtime.close()
    (place.replica_folder(order) / "state.json").write_bytes(b"\0" * 100)
    second = place.runtime()
    await second.open()
    assert facts_of(second, order.handle).pid == facts.pid
    await clean_up(second)


async def test_empty_folders_are_no_replicas(place: Place) -> None:
    (place.state / "replicas" / "tiny" / "4").mkdir(parents=True)
    (place.state / "replicas" / "tiny" / "not-a-serial").mkdir()
    (place.state / "replicas" / "..strange").mkdir()
    runtime = place.runtime()
    await runtime.open()
    assert list(runtime.observe()) == []
    assert not (place.state / "replicas" / "tiny" / "4").exists()
    await runtime.close()
