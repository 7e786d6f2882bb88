"""What only processes of this host promise: ports, environment, secrets, logs, disk trouble."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import socket
from pathlib import Path

import pytest

from reconciler.core.contracts import ASKED_STOP, ProcessState
from reconciler.core.errors import Terminal, Transient
from reconciler.runtimes import _launcher, local
from reconciler.runtimes.local import LocalRuntime
from tests.runtimes import programs
from tests.runtimes.conftest import PORTS, Place, ended, facts_of, until


def listening() -> tuple[socket.socket, int]:
    """A stranger's server."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server, server.getsockname()[1]


async def clean_up(runtime: LocalRuntime) -> None:
    for facts in runtime.observe():
        if facts.state is not ProcessState.EXITED:
            await runtime.kill(facts.handle, asked=ASKED_STOP)
            await ended(runtime, facts.handle)
    await runtime.close()


# -- ports


async def test_a_strangers_port_is_reported_with_its_holder_and_left_alone(place: Place) -> None:
    """Row 36."""
    server, port = listening()
    runtime = place.runtime()
    await runtime.open()
    with server:
        with pytest.raises(Transient, match=rf"port {port} is in use by pid {os.getpid()} "):
            await runtime.start(place.order(programs.SERVES, port=port))
        assert list(runtime.observe()) == []
        assert not (place.state / "replicas" / "tiny").exists()
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            pass
    facts = await runtime.start(place.order(programs.SERVES, port=port))
    assert facts.endpoint.port == port
    await clean_up(runtime)


async def test_a_taken_port_of_the_range_is_passed_over(place: Place) -> None:
    server, port = listening()
    runtime = place.runtime()
    await runtime.open()
    with server:
        if port < 65535:
            facts = await runtime.start(place.order(programs.SERVES, ports=(port, 65535), preferred_port=port))
            assert facts.endpoint.port > port
        with pytest.raises(Transient, match=f"{port}-{port} are all in use"):
            await runtime.start(place.order(programs.SERVES, serial=2, ports=(port, port)))
    await clean_up(runtime)


async def test_a_port_comes_back_when_its_replica_has_ended(place: Place) -> None:
    runtime = place.runtime()
    await runtime.open()
    first = place.order(programs.SERVES, port=PORTS[0] + 321)
    await runtime.start(first)
    await runtime.kill(first.handle, asked=ASKED_STOP)
    await ended(runtime, first.handle)
    facts = await runtime.start(place.order(programs.SERVES, serial=2, port=PORTS[0] + 321))
    assert facts.endpoint.port == PORTS[0] + 321
    await clean_up(runtime)


# -- environment, executable, secrets


async def environment_seen(place: Place, runtime: LocalRuntime, **order: object) -> dict[str, str]:
    """What a backend found in its environment."""
    made = place.order(programs.ENVIRONMENT, **order)  # type: ignore[arg-type] # keyword arguments are passed on
    await runtime.start(made)
    await place.up(made)
    found: dict[str, str] = json.loads(place.log(made).splitlines()[0])
    found.pop("LC_CTYPE", None)  # the test backend's own interpreter sets it when it finds no locale
    assert found.pop("LLAMACTL_TOKEN") == made.handle.token
    return found


async def test_the_daemons_own_variables_do_not_reach_a_backend(place: Place) -> None:
    ours = (
        "LLAMACTL_MANAGEMENT_KEY",
        "NOTIFY_SOCKET",
        "INVOCATION_ID",
        "LISTEN_FDS",
        "WATCHDOG_USEC",
        "JOURNAL_STREAM",
    )
    more = ("CREDENTIALS_DIRECTORY", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "SYSTEMD_EXEC_PID", "MANAGERPID")
    place.environ.update(dict.fromkeys((*ours, *more), "x"))
    place.environ.update({"HF_HOME": "/models", "WEIRD": "a\udcffb"})
    runtime = place.runtime()
    await runtime.open()
    found = await environment_seen(
        place, runtime, environment={"HF_HOME": None, "ADDED": "1"}, key_environment={"K": "v"}
    )
    assert found == {"PATH": place.environ["PATH"], "WEIRD": "a\udcffb", "ADDED": "1", "K": "v"}
    await clean_up(runtime)


async def test_inheritance_is_narrowed(place: Place) -> None:
    place.environ.update({"A": "1", "B": "2"})
    runtime = place.runtime()
    await runtime.open()
    assert await environment_seen(place, runtime, inherit=("A", "LLAMACTL_X")) == {"A": "1"}
    assert await environment_seen(place, runtime, serial=2, inherit=False) == {}
    await clean_up(runtime)


async def test_the_executable_is_looked_up_in_the_backends_own_path(place: Place) -> None:
    folder = place.work / "bin"
    folder.mkdir()
    (folder / "my-server").write_text("#!/bin/sh\necho found\n")
    (folder / "my-server").chmod(0o755)
    runtime = place.runtime()
    await runtime.open()
    order = place.order(("my-server",), environment={"PATH": str(folder)})
    await runtime.start(order)
    facts = await ended(runtime, order.handle)
    assert facts.exit is not None
    assert (facts.exit.code, facts.exit.log_tail) == (0, ("found",))
    absent = place.order(("my-server",), serial=2)
    facts = await runtime.start(absent)
    assert facts.exit is not None
    assert "cannot run my-server: not found in PATH" in (facts.exit.error or "")
    await runtime.close()


async def test_what_cannot_be_executed_says_so(place: Place) -> None:
    (place.work / "text").write_text("no program")
    runtime = place.runtime()
    await runtime.open()
    facts = await runtime.start(place.order(("./text",)))
    assert facts.exit is not None
    assert facts.exit.error == f"cannot run {place.work}/./text: Permission denied"
    with pytest.raises(Terminal, match="NUL"):
        await runtime.start(place.order(("/bin/echo", "a\0b"), serial=2))
    await runtime.close()


async def test_no_secret_reaches_the_disk_or_a_command_line(place: Place) -> None:
    runtime = place.runtime()
    await runtime.open()
    order = place.order(
        programs.SERVES,
        api_key="sk-very-secret",
        key_environment={"VLLM_API_KEY": "sk-very-secret"},
        environment={"HF_TOKEN": "hf-very-secret"},
    )
    facts = await runtime.start(order)
    await place.up(order)
    assert facts.endpoint.api_key == "sk-very-secret"
    assert "very-secret" not in repr(facts) + repr(order)

    def search() -> None:
        for path in (place.state / "replicas").rglob("*"):
            if path.is_file():
                assert b"very-secret" not in path.read_bytes(), path
                assert path.stat().st_mode & 0o077 == 0, path
            elif path.is_dir():
                assert path.stat().st_mode & 0o077 == 0, path

    search()
    for pid in place.processes():
        assert b"very-secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    await runtime.kill(order.handle, asked=ASKED_STOP)
    await ended(runtime, order.handle)
    search()
    await runtime.forget(order.handle)
    search()
    await runtime.close()


async def test_a_backend_inherits_no_descriptor(place: Place) -> None:
    """Row 22: a leaked lock would make a dead shim look alive, a leaked socket would keep the daemon's port."""
    server, _ = listening()
    leaked = os.open(place.work, os.O_RDONLY)
    os.set_inheritable(leaked, True)
    os.set_inheritable(server.fileno(), True)
    runtime = place.runtime()
    await runtime.open()
    order = place.order(programs.DESCRIPTORS)
    await runtime.start(order)
    await ended(runtime, order.handle)
    lines = place.log(order).splitlines()
    assert lines[0] == "up 0 1 2 3", f"3 is the listing itself; {lines}"
    assert lines[1] == "0 /dev/null"
    server.close()
    os.close(leaked)
    await runtime.close()


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
