"""Nothing of a backend is left behind, whatever it forked and whoever died first."""

from __future__ import annotations

import os
import signal
import sys
import time

import psutil
import pytest

from reconciler.core.contracts import ASKED_STOP, ExitRecord, ProcessState, StartOrder
from reconciler.runtimes import _shim
from reconciler.runtimes.local import LocalRuntime
from tests.runtimes import programs
from tests.runtimes.conftest import Place, alive, ended, facts_of, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")


def tree(place: Place, *words: str, grace: float = 20.0) -> StartOrder:
    return place.order(programs.TREE, str(place.work / "tree"), *words, grace=grace)


def members(place: Place) -> dict[str, int]:
    """The pids that the tree's members wrote down."""
    lines = (place.work / "tree").read_text().splitlines()
    return {name: int(pid) for name, pid in (line.split() for line in lines)}


async def planted(place: Place, *words: str, grace: float = 20.0) -> tuple[LocalRuntime, StartOrder, dict[str, int]]:
    """A running tree of all kinds of children."""
    runtime = place.runtime()
    await runtime.open()
    order = tree(place, *words, grace=grace)
    await runtime.start(order)
    await place.up(order)
    found = members(place)
    assert all(alive(pid) for pid in found.values())
    return runtime, order, found


def exit_of(runtime: LocalRuntime, order: StartOrder) -> ExitRecord:
    found = facts_of(runtime, order.handle).exit
    assert found is not None
    return found


async def test_a_kill_ends_every_kind_of_child(place: Place) -> None:
    runtime, order, found = await planted(place)
    assert set(found) == {"plain", "setsid", "double", "cleared"}
    await runtime.kill(order.handle, asked=ASKED_STOP)
    await ended(runtime, order.handle, deadline=2.0)
    assert [name for name, pid in found.items() if alive(pid)] == []
    assert exit_of(runtime, order).signal == "SIGKILL"
    await runtime.close()


async def test_children_that_outlive_a_stopped_main_process_are_ended(place: Place) -> None:
    runtime, order, found = await planted(place)
    began = time.monotonic()
    await runtime.stop(order.handle, asked=ASKED_STOP)
    facts = await ended(runtime, order.handle)
    took = time.monotonic() - began
    assert [name for name, pid in found.items() if alive(pid)] == []
    assert _shim.SETTLE_S <= took < _shim.SETTLE_S + 2.0, "the survivors get their two seconds, and no more"
    assert facts.exit is not None
    assert (facts.exit.signal, facts.exit.asked) == ("SIGTERM", ASKED_STOP)
    await runtime.close()


async def test_a_main_process_killed_from_outside_leaves_nothing(place: Place) -> None:
    runtime, order, found = await planted(place)
    main = facts_of(runtime, order.handle).pid
    assert main is not None
    began = time.monotonic()
    os.kill(main, signal.SIGKILL)
    await until(
        lambda: facts_of(runtime, order.handle).state is not ProcessState.RUNNING, what="notice of the kill", deadline=1
    )
    noticed = time.monotonic() - began
    facts = facts_of(runtime, order.handle)
    assert facts.exit is not None, "how it ended is known while its children are still being ended"
    assert facts.exit.signal == "SIGKILL"
    assert noticed < 0.5
    facts = await ended(runtime, order.handle)
    assert [name for name, pid in found.items() if alive(pid)] == []
    assert facts.exit is not None
    assert facts.exit.asked is None
    await runtime.close()


async def test_a_main_process_that_exits_leaves_nothing(place: Place) -> None:
    runtime = place.runtime()
    await runtime.open()
    order = tree(place, "and-exit")
    await runtime.start(order)
    facts = await ended(runtime, order.handle)
    assert facts.exit is not None
    assert (facts.exit.code, facts.exit.asked) == (0, None)
    assert [name for name, pid in members(place).items() if alive(pid)] == []
    await runtime.close()


async def test_a_stop_goes_to_the_main_process_alone(place: Place) -> None:
    runtime = place.runtime()
    await runtime.open()
    program = """
import os, signal, sys, time
if os.fork() == 0:
    signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"the child was told"), os._exit(0)))
    time.sleep(600)
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), os.write(1, b"main is done"), os._exit(0)))
os.write(1, b"up\\n")
time.sleep(600)
"""
    order = place.order(program)
    await runtime.start(order)
    await place.up(order)
    await runtime.stop(order.handle, asked=ASKED_STOP)
    await ended(runtime, order.handle)
    assert "main is done" in place.log(order)
    assert "the child was told" not in place.log(order)
    await runtime.close()


async def test_the_configured_signal_is_sent(place: Place) -> None:
    runtime = place.runtime()
    await runtime.open()
    order = place.order(programs.IGNORES_STOP, signal_name="SIGQUIT")
    await runtime.start(order)
    await place.up(order)
    await runtime.stop(order.handle, asked=ASKED_STOP)
    facts = await ended(runtime, order.handle)
    assert facts.exit is not None
    assert facts.exit.signal == "SIGQUIT"
    await runtime.close()


async def test_a_lost_shim_is_reported_and_its_leftovers_are_swept(place: Place) -> None:
    runtime, order, found = await planted(place, "no-cleared")
    main = facts_of(runtime, order.handle).pid
    assert main is not None
    shim = psutil.Process(main).ppid()
    os.kill(shim, signal.SIGKILL)
    facts = await ended(runtime, order.handle, deadline=5.0)
    assert facts.exit is not None
    assert facts.exit.error is not None
    assert "supervisor was lost" in facts.exit.error
    assert facts.exit.asked is None
    assert [name for name, pid in {**found, "main": main}.items() if alive(pid)] == []
    await runtime.close()


async def test_a_shim_lost_while_no_daemon_ran_is_swept_by_the_next(place: Place) -> None:
    runtime, order, found = await planted(place, "no-cleared")
    main = facts_of(runtime, order.handle).pid
    assert main is not None
    shim = psutil.Process(main).ppid()
    await runtime.close()
    os.kill(shim, signal.SIGKILL)
    await until(lambda: not alive(shim), what="the end of the shim")
    second = place.runtime()
    await second.open()
    facts = facts_of(second, order.handle)
    assert facts.state is ProcessState.EXITED
    assert facts.exit is not None
    assert "supervisor was lost" in (facts.exit.error or "")
    assert [name for name, pid in found.items() if alive(pid)] == []
    await second.close()


async def test_a_chain_of_forks_comes_to_its_end(place: Place) -> None:
    runtime = place.runtime()
    await runtime.open()
    program = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True:
    os.setsid() if os.getpid() != os.getsid(0) else None
    if os.fork():
        os._exit(0)
    time.sleep(0.0005)
"""
    order = place.order(program)
    await runtime.start(order)
    await place.up(order)
    await runtime.kill(order.handle, asked=ASKED_STOP)
    await ended(runtime, order.handle, deadline=9.0)
    await until(lambda: not place.processes(), what="the end of the shim")
    await runtime.close()


async def test_ten_stops_take_as_long_as_one(place: Place) -> None:
    runtime = place.runtime()
    await runtime.open()
    orders = [place.order(programs.SERVES, instance=f"i{number}") for number in range(10)]
    for order in orders:
        await runtime.start(order)
    for order in orders:
        await place.up(order)
    began = time.monotonic()
    for order in orders:
        await runtime.stop(order.handle, asked=ASKED_STOP)
    for order in orders:
        await ended(runtime, order.handle)
    assert time.monotonic() - began < 2.0
    await runtime.close()
