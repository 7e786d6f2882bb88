"""What runs on this host, for whoever looks for servers among it: command lines first, and details of the few that matter.

It only reads, says what it may not read, and takes no process for more than what it was at that moment: nothing here may end one.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

_NESTED = re.compile(r"^NSpid:\s+\d+\s+\d+", re.MULTILINE)
"""More than one pid: the process lives in a pid namespace below ours, that is in a container (proc_pid_status(5))."""
_SERVICE = re.compile(r"/(?!user@)([^/\n]+\.service)(?=/|$)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One process, as anybody may see it."""

    pid: int
    parent: int | None
    started: float
    """Unix time, seconds."""
    argv: tuple[str, ...] | None
    """Empty for a kernel thread or one that hides it; None when it may not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What only its owner (or root) may see of a process; None where it may not be read."""

    user: str | None
    directory: str | None
    environment: Mapping[str, str] | None
    ports: tuple[int, ...]
    """TCP ports on which it listens, in order; empty when it listens nowhere, or that may not be read."""
    contained: bool
    """It runs in a container, so its paths are not this host's."""
    service: str | None
    """The systemd service that it belongs to."""
    files: frozenset[str]
    """Those of its words that name a file relative to its directory."""


def running() -> tuple[Running, ...]:
    """Every process but this one and those above it, oldest first. Blocks for some milliseconds per hundred processes."""
    own = {os.getpid()}
    with contextlib.suppress(psutil.Error):
        own.update(parent.pid for parent in psutil.Process().parents())
    found: list[Running] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.pid in own:
                continue
            try:
                argv: tuple[str, ...] | None = tuple(process.cmdline())
            except (psutil.AccessDenied, OSError):
                argv = None
            with contextlib.suppress(psutil.AccessDenied):
                found.append(Running(pid=process.pid, parent=process.ppid(), started=process.create_time(), argv=argv))
    return tuple(sorted(found, key=lambda one: (one.started, one.pid)))


def details(one: Running) -> Details | None:
    """More of one process; None when it is gone, or its pid is another's by now."""
    try:
        process = psutil.Process(one.pid)
        if process.create_time() != one.started:
            return None
        directory = _directory(process)
        return Details(
            user=_user(process),
            directory=directory,
            environment=_environment(process),
            ports=_ports(process),
            contained=_NESTED.search(_proc(one.pid, "status")) is not None,
            service=_service(_proc(one.pid, "cgroup")),
            files=_files(directory, one.argv or ()),
        )
    except psutil.NoSuchProcess:
        return None


def _user(process: psutil.Process) -> str | None:
    try:
        return process.username()
    except (psutil.AccessDenied, KeyError):
        return None


def _directory(process: psutil.Process) -> str | None:
    try:
        return process.cwd() or None
    except (psutil.AccessDenied, OSError):
        return None


def _environment(process: psutil.Process) -> Mapping[str, str] | None:
    try:
        return process.environ()
    except (psutil.AccessDenied, OSError):
        return None


def _ports(process: psutil.Process) -> tuple[int, ...]:
    """Its own and its children's: vLLM's front may be one of several processes."""
    found: set[int] = set()
    for one in (process, *_children(process)):
        with contextlib.suppress(psutil.Error, OSError):
            found.update(
                connection.laddr.port
                for connection in one.net_connections(kind="tcp")
                if connection.status == psutil.CONN_LISTEN and connection.laddr
            )
    return tuple(sorted(found))


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _proc(pid: int, name: str) -> str:
    """A file of ``/proc``; empty where there is none."""
    try:
        with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _service(cgroup: str) -> str | None:
    found = _SERVICE.findall(cgroup)
    return str(found[-1]) if found else None


def _files(directory: str | None, argv: tuple[str, ...]) -> frozenset[str]:
    if directory is None:
        return frozenset()
    found = set()
    for word in argv:
        name = word.partition("=")[2] if word.startswith("-") else word
        with contextlib.suppress(OSError, ValueError):
            if name and not os.path.isabs(name) and os.path.exists(os.path.join(directory, name)):
                found.add(name)
    return frozenset(found)
