"""The shim as a program of its own: what it refuses, what it costs, and that a half-written order starts nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from reconciler.core.contracts import ASKED_STOP
from reconciler.runtimes import _folders, _link, _shim
from reconciler.runtimes._folders import ShimState
from tests.runtimes import programs
from tests.runtimes.conftest import Place, ended, until

COMMAND = [sys.executable, "-I", "-S", _shim.__file__]


def run(data: bytes) -> int:
    """The shim with an order on its stdin; its exit code."""
    return subprocess.run(COMMAND, input=data, timeout=10, check=False).returncode


def spec(folder: Path, program: str) -> dict[str, object]:
    return {
        "version": 1,
        "folder": str(folder),
        "folder_id": _folders.folder_id(folder),
        "token": "a" * 32,
        "boot": _folders.boot_id(),
        "instance": folder.parent.name,
        "serial": int(folder.name),
        "revision": "r",
        "host": "127.0.0.1",
        "port": 10_000 + os.getpid() % 50_000,
        "served_model": None,
        "argv": [sys.executable, "-I", "-S", "-c", program],
        "executable": sys.executable,
        "refused": None,
        "environment": {"LLAMACTL_TOKEN": "a" * 32},
        "cwd": str(folder.parent),
        "api_key": "k",
        "stop_signal": "SIGTERM",
        "grace": 1.0,
        "orphan_ttl": 0.0,
        "log_bytes": 1 << 20,
        "log_files": 3,
    }


@pytest.fixture
def folder(place: Place) -> Path:
    made = place.folder / "replicas" / "tiny" / "1"
    made.mkdir(parents=True, mode=0o700)
    place.tokens.append("a" * 32)
    return made


def test_a_broken_order_starts_nothing(folder: Path) -> None:
    whole = json.dumps(spec(folder, "open('started', 'w')")).encode()
    for part in (b"", b"{", whole[: len(whole) // 2], whole[:-1], b"[]\n", b"null\n"):
        assert run(part) == _shim.EXIT_SPEC
    assert list(folder.iterdir()) == []
    assert run(whole) == 0
    assert (folder.parent / "started").exists()


def test_a_second_shim_is_refused_by_the_lock(folder: Path) -> None:
    """Row 21."""
    order = json.dumps(spec(folder, "import time; open('runs', 'a').write('x'); time.sleep(600)")).encode() + b"\n"
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE) as first:
        assert first.stdin is not None
        first.stdin.write(order)
        first.stdin.close()
        while not (folder.parent / "runs").exists() or not (folder.parent / "runs").read_text():
            assert first.poll() is None
        assert run(order) == _shim.EXIT_LOCKED
        assert (folder.parent / "runs").read_text() == "x"
        first.terminate()
        assert first.wait(timeout=10) == 0
    assert run(order) == _shim.EXIT_LOCKED, "a replica is run once"
    assert (folder.parent / "runs").read_text() == "x"


def test_a_daemon_that_died_before_the_fork_gets_no_process(folder: Path) -> None:
    """Row 6: the order arrived whole, its sender is gone, and the next daemon may have ordered another."""
    ours, theirs = socket.socketpair()
    ours.sendall(json.dumps(spec(folder, "open('started', 'w')")).encode() + b"\n")
    ours.close()
    with theirs:
        code = subprocess.run(COMMAND, stdin=theirs.fileno(), timeout=10, check=False).returncode
    assert code == _shim.EXIT_SETUP
    assert not (folder.parent / "started").exists()
    assert _folders.look(folder, _folders.boot_id()).found is not _folders.Found.ENDED


async def test_both_sides_know_the_same_words(place: Place) -> None:
    assert _shim.PROTOCOL == _folders.PROTOCOL
    assert _shim.BACKLOG_LIMIT <= _link.LINE_LIMIT
    runtime = place.runtime()
    await runtime.open()
    order = place.order(programs.EXITS_7)
    await runtime.start(order)
    await ended(runtime, order.handle)
    said = json.loads((place.replica_folder(order) / "exit.json").read_text())
    assert set(ShimState.model_fields) <= set(said)
    assert set(_folders.ShimExit.model_fields) == set(said["exit"])
    await runtime.close()


async def test_a_shim_is_small(place: Place) -> None:
    """Under 12 MB once Python has compiled it; the first of all may have compiled it itself."""
    runtime = place.runtime()
    await runtime.open()
    sizes = []
    for serial in (1, 2):
        order = place.order(programs.SERVES, serial=serial)
        await runtime.start(order)
        await place.up(order)
        shim = json.loads((place.replica_folder(order) / "state.json").read_text())["shim_pid"]
        sizes.append(psutil.Process(shim).memory_info().rss)
        assert len(psutil.Process(shim).threads()) == 1
        await runtime.kill(order.handle, asked=ASKED_STOP)
        await ended(runtime, order.handle)
    assert sizes[-1] < 13_000_000, sizes
    await runtime.close()


async def test_the_shim_survives_nonsense_on_its_socket(place: Place) -> None:
    runtime = place.runtime()
    await runtime.open()
    order = place.order(programs.SERVES)
    facts = await runtime.start(order)
    path = place.replica_folder(order) / "control"
    nonsense = (b"\0" * 100 + b"\n", b"[]\n", b'{"do": "note"}\n', b"x" * 200_000, b'{"do": "dance", "id": 1}\n', b"")
    for data in nonsense:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(2)
            client.connect(str(path))
            hello = json.loads(client.makefile("rb").readline())
            assert ShimState.model_validate(hello["state"]).pid == facts.pid
            try:
                client.sendall(data)
            except OSError:
                continue  # dropped in the middle of it
    assert facts.pid is not None
    assert os.path.exists(f"/proc/{facts.pid}")
    await runtime.stop(order.handle, asked=ASKED_STOP)
    await ended(runtime, order.handle)
    await until(lambda: not place.processes(), what="the end of the shim")
    await runtime.close()
