"""A backend outlives its daemon, and the next one knows everything about it; nothing else is ever taken for ours."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

from reconciler.core.contracts import ASKED_STOP, ProcessState, StartOrder
from tests.runtimes import programs
from tests.runtimes.conftest import Place, alive, clean_up, ended, facts_of, until

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
