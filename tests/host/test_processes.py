"""What is said of running processes is what the system says; nothing here may end one, or fail on another's."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.host import processes
from reconciler.host.processes import Running

LISTENER = """
import os, socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
if os.fork() == 0:
    inner = socket.create_server(("127.0.0.1", 0))
    print(inner.getsockname()[1], flush=True)
    time.sleep(600)
print(listener.getsockname()[1], flush=True)
time.sleep(600)
"""


@contextmanager
def started(mark: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], tuple[int, ...]]]:
    """A process with this word in its command line that listens, and so does its child; both end with the block."""
    argv = [sys.executable, "-I", "-S", "-c", LISTENER, mark, "file.txt", "--at=sub", "/etc"]
    with subprocess.Popen(
        argv, cwd=folder, env={"MARKED": mark}, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, tuple(sorted(int(process.stdout.readline()) for _ in range(2)))
        finally:
            os.killpg(process.pid, 9)


def carriers(mark: str) -> list[Running]:
    """Those with this word in their command line."""
    return [one for one in processes.running() if mark in (one.argv or ())]


@pytest.fixture
def mark() -> str:
    """A word that no other process has."""
    return f"mark-{uuid.uuid4().hex}"


def test_a_process_is_seen_with_its_words_parent_and_details(mark: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").touch()
    (tmp_path / "sub").mkdir()
    with started(mark, tmp_path) as (process, ports):
        first, second = carriers(mark)
        assert (first.pid, second.parent) == (process.pid, process.pid), "oldest first, the child behind it"
        seen = processes.details(first)
        assert seen is not None
        assert seen.directory == str(tmp_path)
        assert seen.environment is not None
        assert seen.environment["MARKED"] == mark
        assert seen.ports == ports, "those of its children count as its own"
        assert seen.files == {"file.txt", "sub"}, (
            "words and values that name files as seen from there, no absolute ones"
        )
        assert not seen.contained
        assert seen.user


def test_another_process_of_the_same_number_is_not_taken_for_it(mark: str, tmp_path: Path) -> None:
    with started(mark, tmp_path):
        first = carriers(mark)[0]
        assert processes.details(replace(first, started=first.started - 1)) is None
    assert processes.details(first) is None, "gone"


def test_this_process_and_those_above_it_are_left_out() -> None:
    pids = {one.pid for one in processes.running()}
    assert os.getpid() not in pids
    assert os.getppid() not in pids


def test_the_order_is_that_of_the_starts() -> None:
    order = [(one.started, one.pid) for one in processes.running()]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("cgroup", "service"),
    [
        ("0::/system.slice/vllm.service\n", "vllm.service"),
        ("0::/system.slice/vllm.service/payload\n", "vllm.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/llama.service\n", "llama.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope\n", None),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", None),
        ("0::/\n", None),
        ("", None),
    ],
)
def test_the_service_of_a_process_is_told_by_its_control_group(cgroup: str, service: str | None) -> None:
    assert processes._service(cgroup) == service


@pytest.mark.parametrize(
    ("status", "contained"),
    [("NSpid:\t4242\t1\n", True), ("Name:\tx\nNSpid:\t4242\n", False), ("", False), ("NSpid:\t1\t2\t3\n", True)],
)
def test_a_process_with_a_number_of_its_own_namespace_is_in_a_container(
    status: str, contained: bool, monkeypatch: pytest.MonkeyPatch, mark: str, tmp_path: Path
) -> None:
    with started(mark, tmp_path):
        first = carriers(mark)[0]
        monkeypatch.setattr(processes, "_proc", lambda pid, name: status if name == "status" else "")
        seen = processes.details(first)
        assert seen is not None
        assert seen.contained is contained
