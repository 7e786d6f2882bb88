"""A backend outlives its daemon, and the next one knows everything about it; nothing else is ever taken for ours."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import pytest

from reconciler.core.contracts import ASKED_STOP, ProcessState, StartOrder
from reconciler.core.errors import Transient
from reconciler.runtimes.local import LocalRuntime
from tests.runtimes import programs
from tests.runtimes.conftest import Place, alive, ended, facts_of, until

DRIVER = """
import asyncio, json, os, sys
from pathlib import Path

from reconciler.core.contracts import Handle, Launch, StartOrder
from reconciler.core.spec import StopSpec
from reconciler.host.clock import SystemClock
from reconciler.runtimes.local import LocalRuntime

async def main(given):
    runtime = LocalRuntime(Path(given["state"]), clock=SystemClock(), environ=os.environ, working_directory=Path(given["work"]))
    await runtime.open()
    for one in given["orders"]:
        argv = tuple(one["argv"])
        order = StartOrder(
            handle=Handle(**one["handle"]), launch=Launch(argv=argv), revision="r1", command=lambda _h, _p: argv,
            api_key="the-key", ports=(41000, 48999), stop=StopSpec.model_validate({"grace": one["grace"]}),
            orphan_ttl=one["orphan_ttl"],
        )
        await runtime.start(order)
        for do in one["then"]:
            await getattr(runtime, do)(order.handle, asked="stop")
    print(json.dumps([facts.pid for facts in runtime.observe()]), flush=True)
    await asyncio.sleep(600)

asyncio.run(main(json.loads(sys.argv[1])))
"""


class Daemon:
    """A first daemon, in a process of its own, to be killed."""

    def __init__(self, place: Place, *orders: StartOrder, then: tuple[str, ...] = ()) -> None:
        given = {
            "state": str(place.state),
            "work": str(place.work),
            "orders": [
                {
                    "argv": order.launch.argv,
                    "handle": asdict(order.handle),
                    "grace": order.stop.grace,
                    "orphan_ttl": order.orphan_ttl,
                    "then": then,
                }
                for order in orders
            ],
        }
        command = [sys.executable, "-c", DRIVER, json.dumps(given)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=place.folder)

    async def pids(self) -> list[int]:
        """The backends' pids, once all are started."""
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        assert line, "the first daemon failed"
        found: list[int] = json.loads(line)
        return found

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def bystander(place: Place, *, token: str = "") -> subprocess.Popen[bytes]:
    """A process that is not ours; the test ends it."""
    command = [sys.executable, "-I", "-S", "-c", programs.SERVES]
    return subprocess.Popen(command, cwd=place.work, env={"LLAMACTL_TOKEN": token}, stdout=subprocess.DEVNULL)


async def clean_up(runtime: LocalRuntime) -> None:
    for facts in runtime.observe():
        if facts.state is not ProcessState.EXITED:
            await runtime.kill(facts.handle, asked=ASKED_STOP)
            await ended(runtime, facts.handle)
    await runtime.close()


async def test_a_killed_daemon_costs_no_backend(place: Place) -> None:
    orders = [place.order(programs.SERVES, instance=f"i{number}") for number in range(3)]
    daemon = Daemon(place, *orders)
    pids = await daemon.pids()
    daemon.kill()
    second = place.runtime()
    began = time.monotonic()
    await second.open()
    assert time.monotonic() - began < 2.0
    assert [facts.pid for facts in second.observe()] == pids
    assert all(facts.adopted and facts.state is ProcessState.RUNNING for facts in second.observe())
    assert all(facts.endpoint.api_key == "the-key" for facts in second.observe())
    assert all(alive(pid) for pid in pids)
    await clean_up(second)


async def test_an_exit_while_no_daemon_ran_is_known_with_its_code(place: Place) -> None:
    program = (
        "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.005)\nprint('bye')\nraise SystemExit(3)"
    )
    order = place.order(program)
    daemon = Daemon(place, order)
    await daemon.pids()
    daemon.kill()
    (place.work / "go").touch()
    await until(lambda: (place.replica_folder(order) / "exit.json").exists(), what="the exit record")
    second = place.runtime()
    await second.open()
    facts = await ended(second, order.handle)
    assert facts.exit is not None
    assert (facts.exit.code, facts.exit.asked, facts.exit.log_tail) == (3, None, ("bye",))
    await second.close()


async def test_without_a_daemon_the_lease_ends_the_backend(place: Place) -> None:
    order = place.order(programs.IGNORES_STOP, orphan_ttl=0.5, grace=0.3)
    daemon = Daemon(place, order)
    (pid,) = await daemon.pids()
    await place.up(order)
    began = time.monotonic()
    daemon.kill()
    await until(lambda: not alive(pid), what="the end of the lease", deadline=5.0)
    assert time.monotonic() - began >= 0.8
    await until(lambda: not place.processes(), what="the end of the shim")
    assert "no daemon for 0.5 s" in place.log(order)
    second = place.runtime()
    await second.open()
    facts = await ended(second, order.handle)
    assert facts.exit is not None
    assert (facts.exit.asked, facts.exit.signal, facts.killed) == (ASKED_STOP, "SIGKILL", True)
    await second.close()


async def test_a_daemon_that_comes_back_in_time_keeps_the_lease(place: Place) -> None:
    order = place.order(programs.SERVES, orphan_ttl=0.4)
    daemon = Daemon(place, order)
    (pid,) = await daemon.pids()
    daemon.kill()
    second = place.runtime()
    await second.open()
    await asyncio.sleep(0.6)  # longer than the lease: the time itself is what is tested
    assert alive(pid)
    assert facts_of(second, order.handle).state is ProcessState.RUNNING
    await clean_up(second)


async def test_a_stop_ordered_by_a_daemon_that_died_is_completed(place: Place) -> None:
    order = place.order(programs.IGNORES_STOP, grace=0.4)
    runtime = place.runtime()
    await runtime.open()
    await runtime.start(order)
    await place.up(order)
    await runtime.stop(order.handle, asked=ASKED_STOP)
    await runtime.close()
    await until(lambda: not place.processes(), what="the end without a daemon", deadline=5.0)
    second = place.runtime()
    await second.open()
    facts = await ended(second, order.handle)
    assert facts.exit is not None
    assert (facts.exit.asked, facts.exit.signal) == (ASKED_STOP, "SIGKILL")
    await second.close()


async def test_while_a_daemon_is_there_the_shim_kills_nothing_by_itself(place: Place) -> None:
    order = place.order(programs.IGNORES_STOP, grace=0.1)
    runtime = place.runtime()
    await runtime.open()
    facts = await runtime.start(order)
    assert facts.pid is not None
    await place.up(order)
    await runtime.stop(order.handle, asked=ASKED_STOP)
    await asyncio.sleep(0.4)  # well beyond the grace: that nothing happens is what is tested
    assert alive(facts.pid)
    assert facts_of(runtime, order.handle).state is ProcessState.STOPPING
    await clean_up(runtime)


async def test_a_terminated_shim_ends_its_backend(place: Place) -> None:
    order = place.order(programs.IGNORES_STOP, grace=0.2)
    runtime = place.runtime()
    await runtime.open()
    facts = await runtime.start(order)
    await place.up(order)
    shim = json.loads((place.replica_folder(order) / "state.json").read_text())["shim_pid"]
    for name in ("SIGINT", "SIGHUP"):
        os.kill(shim, getattr(signal, name))
    os.kill(shim, signal.SIGTERM)
    facts = await ended(runtime, order.handle)
    assert facts.exit is not None
    assert (facts.exit.signal, facts.exit.asked) == ("SIGKILL", ASKED_STOP)
    await runtime.close()


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


async def test_a_very_long_state_path_works(place: Place) -> None:
    place.state = place.folder / ("d" * 120) / ("e" * 120)
    place.state.mkdir(parents=True)
    runtime = place.runtime()
    await runtime.open()
    order = place.order(programs.SERVES)
    facts = await runtime.start(order)
    await runtime.close()
    second = place.runtime()
    await second.open()
    assert facts_of(second, order.handle).pid == facts.pid
    await clean_up(second)


async def test_a_cancelled_start_is_still_accounted_for(place: Place) -> None:
    runtime = place.runtime()
    await runtime.open()
    order = place.order(programs.SERVES)
    task = asyncio.create_task(runtime.start(order))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    known = [facts.handle for facts in runtime.observe()]
    if known:
        await until(
            lambda: facts_of(runtime, order.handle).state is not ProcessState.UNKNOWN, what="what became of the start"
        )
    await clean_up(runtime)
    assert place.processes() == [] or not known
