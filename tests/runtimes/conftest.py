"""A place to run real backends in, which makes sure that nothing of them is left behind, whatever a test does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from reconciler.core.contracts import ASKED_STOP, Handle, Launch, ProcessState, ReplicaFacts, Runtime, StartOrder
from reconciler.core.spec import StopSpec
from reconciler.host.clock import SystemClock
from reconciler.runtimes.local import LocalRuntime

DEADLINE_S = 10.0
"""Longest wait for a condition; far beyond what anything here takes, so that only a defect reaches it."""
PORTS = (41000, 48999)
"""Test ports: below the ephemeral range of common hosts' defaults is taken by the product's own range."""


async def until(condition: Callable[[], object], *, what: str, deadline: float = DEADLINE_S) -> None:
    """Wait for a condition, or fail saying what did not come true."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"waited {deadline} s in vain: {what}"
        await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


class Place:
    """One test's folder, runtimes and processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.work = folder / "work"
        self.work.mkdir()
        self.tokens: list[str] = []
        self.environ: dict[str, str] = {"PATH": os.environ.get("PATH", os.defpath)}

    def runtime(self, **arguments: int) -> LocalRuntime:
        """A runtime on this place's state folder; the test closes it."""
        return LocalRuntime(
            self.state, clock=SystemClock(), environ=self.environ, working_directory=self.work, **arguments
        )

    def order(
        self,
        program: str | tuple[str, ...],
        *arguments: str,
        instance: str = "tiny",
        serial: int = 1,
        port: int | None = None,
        grace: float = 20.0,
        orphan_ttl: float = 3600.0,
        api_key: str | None = None,
        key_environment: Mapping[str, str] | None = None,
        environment: Mapping[str, str | None] | None = None,
        inherit: bool | tuple[str, ...] = True,
        preferred_port: int | None = None,
        avoid_ports: frozenset[int] = frozenset(),
        ports: tuple[int, int] = PORTS,
        signal_name: str = "SIGTERM",
    ) -> StartOrder:
        """An order for a program text, or for a whole argv."""
        argv = (sys.executable, "-I", "-S", "-c", program, *arguments) if isinstance(program, str) else program
        launch = Launch(argv=argv, port=port, environment=environment or {}, inherit_environment=inherit)
        token = secrets.token_hex(16)
        self.tokens.append(token)
        return StartOrder(
            handle=Handle(instance=instance, serial=serial, token=token),
            launch=launch,
            revision=launch.revision(),
            command=lambda _host, _port: argv,
            api_key=api_key,
            key_environment=key_environment or {},
            ports=ports,
            preferred_port=preferred_port,
            avoid_ports=avoid_ports,
            stop=StopSpec.model_validate({"signal": signal_name, "grace": grace}),
            orphan_ttl=orphan_ttl,
        )

    def replica_folder(self, order: StartOrder) -> Path:
        """Where the replica's files are."""
        return self.state / "replicas" / order.handle.instance / str(order.handle.serial)

    def log(self, order: StartOrder) -> str:
        """What the replica printed so far."""
        try:
            return (self.replica_folder(order) / "log").read_text(errors="replace")
        except OSError:
            return ""

    async def up(self, order: StartOrder) -> None:
        """Wait until the program says that it is as the test wants it."""
        await until(lambda: "up" in self.log(order), what=f"{order.handle.replica} up; log: {self.log(order)!r}")

    def processes(self) -> list[int]:
        """Everything of this place: by token or by working folder, shims included; without zombies."""
        entries = [f"LLAMACTL_TOKEN={token}".encode() for token in self.tokens]
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            pid = int(name)
            with contextlib.suppress(OSError):
                inside = os.readlink(f"/proc/{pid}/cwd").startswith(str(self.folder))
                with open(f"/proc/{pid}/environ", "rb") as file:
                    marked = any(entry in file.read().split(b"\0") for entry in entries)
                if (inside or marked) and alive(pid):
                    found.append(pid)
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place; at the end of the test no process of it may be left."""
    made = Place(tmp_path)
    yield made
    end = time.monotonic() + 3.0
    while (left := made.processes()) and time.monotonic() < end:
        time.sleep(0.01)
    for _ in range(20):
        for pid in made.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not made.processes():
            break
        time.sleep(0.02)
    assert not left, f"the test left processes behind: {left}"


def facts_of(runtime: Runtime, handle: Handle) -> ReplicaFacts:
    """The facts of one replica; fails when the runtime does not know it."""
    found = [facts for facts in runtime.observe() if facts.handle == handle]
    assert found, f"{handle.replica} is not known; known: {[facts.handle.replica for facts in runtime.observe()]}"
    return found[0]


async def ended(runtime: Runtime, handle: Handle, *, deadline: float = DEADLINE_S) -> ReplicaFacts:
    """Wait for a replica's end."""
    await until(
        lambda: facts_of(runtime, handle).state is ProcessState.EXITED,
        what=f"the end of {handle.replica}: {facts_of(runtime, handle)}",
        deadline=deadline,
    )
    return facts_of(runtime, handle)


async def clean_up(runtime: LocalRuntime) -> None:
    """Kill what is left, and let go."""
    for facts in runtime.observe():
        if facts.state is not ProcessState.EXITED:
            await runtime.kill(facts.handle, asked=ASKED_STOP)
            await ended(runtime, facts.handle)
    await runtime.close()
