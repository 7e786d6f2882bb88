"""Noise, full disks and supervisors that fail: the backend goes on, and what is lost is counted."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from pathlib import Path

import pytest

from reconciler.core.contracts import ASKED_STOP, ProcessState
from reconciler.core.errors import Transient
from reconciler.runtimes import _launcher, local
from tests.runtimes import programs
from tests.runtimes.conftest import Place, clean_up, ended, facts_of, until

# -- logs


async def test_fifty_megabytes_without_a_newline_block_nobody_and_keep_the_cap(place: Place) -> None:
    """Row 23."""
    runtime = place.runtime(log_bytes=1 << 20, log_files=3)
    await runtime.open()
    order = place.order(programs.NOISE_WITHOUT_NEWLINE)
    await runtime.start(order)
    facts = await ended(runtime, order.handle, deadline=20.0)
    assert facts.exit is not None
    assert facts.exit.code == 0
    assert facts.exit.log_tail[-1] == "last words"
    (log,) = runtime.logs("tiny")
    assert [path.name for path in log.paths] == ["log.2", "log.1", "log"]
    assert all(path.stat().st_size <= (1 << 20) + 65536 for path in log.paths)
    assert log.paths[-1].read_text().endswith("last words\n")
    assert facts.dropped_log_bytes == 0
    await runtime.close()


async def test_no_line_is_lost_or_torn_over_a_rotation(place: Place) -> None:
    runtime = place.runtime(log_bytes=20_000, log_files=3)
    await runtime.open()
    order = place.order("for number in range(6000): print(f'line {number:05}')")
    await runtime.start(order)
    await ended(runtime, order.handle)
    (log,) = runtime.logs("tiny")
    text = "".join(path.read_text() for path in log.paths)
    lines = text.splitlines()
    assert lines == [f"line {number:05}" for number in range(6000 - len(lines), 6000)]
    assert len(lines) > 3000
    await runtime.close()


async def test_the_last_words_before_a_crash_are_kept(place: Place) -> None:
    runtime = place.runtime()
    await runtime.open()
    program = "import os, signal\nfor n in range(100): print(n, flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)"
    order = place.order(program)
    await runtime.start(order)
    facts = await ended(runtime, order.handle)
    assert facts.exit is not None
    assert facts.exit.signal == "SIGSEGV"
    assert facts.exit.log_tail == tuple(str(number) for number in range(80, 100))
    await runtime.close()


async def test_a_full_disk_under_the_log_costs_bytes_and_not_the_backend(place: Place) -> None:
    """Row 24, the disk played by a limit on the size of the files that the shim may write: room for its records, none for the log."""
    runtime = place.runtime()
    await runtime.open()
    program = """
import os, time
print("up", flush=True)
while not os.path.exists("go"):
    time.sleep(0.005)
print("x" * 100000, flush=True)
while not os.path.exists("end"):
    time.sleep(0.005)
"""
    order = place.order(program)
    facts = await runtime.start(order)
    await place.up(order)
    shim = json.loads((place.replica_folder(order) / "state.json").read_text())["shim_pid"]
    resource.prlimit(shim, resource.RLIMIT_FSIZE, (12_000, 12_000))
    (place.work / "go").touch()
    await until(lambda: facts_of(runtime, order.handle).dropped_log_bytes > 0, what="the count of dropped bytes")
    assert facts_of(runtime, order.handle).state is ProcessState.RUNNING
    assert facts.pid == facts_of(runtime, order.handle).pid
    (place.work / "end").touch()
    last = await ended(runtime, order.handle)
    assert last.exit is not None
    assert last.exit.code == 0
    assert last.exit.log_tail != ()
    await runtime.close()


async def test_the_log_of_a_live_replica_is_found(place: Place) -> None:
    runtime = place.runtime()
    await runtime.open()
    order = place.order(programs.SERVES)
    facts = await runtime.start(order)
    await place.up(order)
    (log,) = runtime.logs("tiny")
    assert log.live
    assert log.started_at == facts.started_at
    assert facts.log_path == str(log.paths[-1])
    await clean_up(runtime)


# -- trouble


async def test_a_full_disk_under_the_state_is_worth_another_try(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 25: no new start, nothing half-made, what runs is untouched."""
    runtime = place.runtime()
    await runtime.open()
    running = place.order(programs.SERVES)
    await runtime.start(running)

    def full(_self: Path, *_arguments: object, **_named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", full)
        with pytest.raises(Transient, match="No space left on device"):
            await runtime.start(place.order(programs.SERVES, instance="second"))
    assert not (place.state / "replicas" / "second").exists()
    assert [facts.state for facts in runtime.observe()] == [ProcessState.RUNNING]
    await runtime.start(place.order(programs.SERVES, instance="second"))
    await clean_up(runtime)


async def test_a_shim_that_cannot_write_starts_nothing(place: Place) -> None:
    """The shim itself meets the full disk: its refusal is a Transient, and its folder is gone."""
    runtime = place.runtime()
    await runtime.open()
    await until(lambda: runtime._launcher._spare is not None, what="the spare shim")
    spare = runtime._launcher._spare
    assert spare is not None
    resource.prlimit(spare.pid, resource.RLIMIT_FSIZE, (0, 0))
    with pytest.raises(Transient, match="File too large"):
        await runtime.start(place.order(programs.SERVES))
    assert list(runtime.observe()) == []
    assert not (place.state / "replicas" / "tiny").exists()
    await runtime.close()


async def test_a_deleted_state_folder_costs_no_backend_and_new_ones_start(place: Place) -> None:
    runtime = place.runtime()
    await runtime.open()
    first = place.order(programs.SERVES)
    await runtime.start(first)
    await place.up(first)
    shutil.rmtree(place.state / "replicas")
    assert facts_of(runtime, first.handle).state is ProcessState.RUNNING
    second = place.order(programs.SERVES, serial=2)
    assert (await runtime.start(second)).state is ProcessState.RUNNING
    await runtime.note_ready(first.handle, 5.0)
    await runtime.kill(first.handle, asked=ASKED_STOP)
    facts = await ended(runtime, first.handle)
    assert "STATE_WRITE_FAILED" in facts.degraded
    assert facts.exit is not None
    assert facts.exit.signal == "SIGKILL"
    await runtime.forget(first.handle)
    await clean_up(runtime)
    await until(lambda: not place.processes(), what="the end of the shims")


async def test_no_process_for_us_is_worth_another_try(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_arguments: object, **_named: object) -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    runtime = place.runtime()
    monkeypatch.setattr(os, "posix_spawn", none)
    await runtime.open()
    with pytest.raises(Transient, match="cannot start a supervisor"):
        await runtime.start(place.order(programs.SERVES))
    assert not (place.state / "replicas" / "tiny").exists()
    await runtime.close()


async def test_a_dead_spare_is_replaced(place: Place) -> None:
    runtime = place.runtime()
    await runtime.open()
    await until(lambda: runtime._launcher._spare is not None, what="the spare shim")
    spare = runtime._launcher._spare
    assert spare is not None
    runtime._launcher.end(spare.pid)
    await until(lambda: not Path(f"/proc/{spare.pid}/cwd").exists() or _zombie(spare.pid), what="its end")
    facts = await runtime.start(place.order(programs.SERVES))
    assert facts.state is ProcessState.RUNNING
    await clean_up(runtime)


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


async def test_a_shim_that_dies_at_the_order_is_an_end_and_no_hang(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        _launcher, "_PROGRAM", "import os, signal; os.read(0, 10); os.kill(os.getpid(), signal.SIGKILL)"
    )
    runtime = place.runtime()
    await runtime.open()
    order = place.order(programs.SERVES)
    await runtime.start(order)
    facts = await ended(runtime, order.handle)
    assert facts.exit is not None
    assert "supervisor was lost" in (facts.exit.error or "")
    await runtime.close()


async def test_a_shim_that_is_silent_is_unknown(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "START_TIMEOUT_S", 0.2)
    monkeypatch.setattr(_launcher, "_PROGRAM", "import os, time; os.read(0, 1); time.sleep(0.6)")
    runtime = place.runtime()
    await runtime.open()
    order = place.order(programs.SERVES)
    facts = await runtime.start(order)
    assert facts.state in (ProcessState.UNKNOWN, ProcessState.EXITED)
    await ended(runtime, order.handle)
    await runtime.close()
