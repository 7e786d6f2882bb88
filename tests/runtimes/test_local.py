"""What only processes of this host promise: ports, environment, executables, secrets, descriptors."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from reconciler.core.contracts import ASKED_STOP
from reconciler.core.errors import Terminal, Transient
from reconciler.runtimes.local import LocalRuntime
from tests.runtimes import programs
from tests.runtimes.conftest import PORTS, Place, clean_up, ended


def listening() -> tuple[socket.socket, int]:
    """A stranger's server."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server, server.getsockname()[1]


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
