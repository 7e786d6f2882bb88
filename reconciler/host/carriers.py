"""Finds the processes that carry a mark in their environment, and kills exactly those: for what left its group, its session and its parent.

One clean scan proves nothing (a chain of forks hides between two readings), so callers ask for several in a row. A process that
emptied its environment, or that belongs to another user, is not found here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import psutil

SCAN_PAUSE_S = 0.02
"""Between two scans, seconds: longer than a process needs from fork to its own environment."""


def _carries(pid: int, entry: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:
            return entry in environ.read().split(b"\0")
    except OSError:
        return False


def _kill_by_proc(entry: bytes) -> int:
    found = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in (1, os.getpid()):
            continue
        pid = int(name)
        if not _carries(pid, entry):
            continue
        with contextlib.suppress(OSError):  # gone meanwhile
            descriptor = os.pidfd_open(pid)
            try:
                # read again behind the descriptor: it cannot be a later process of the same number that gets the signal
                if _carries(pid, entry):
                    found += 1
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)
    return found


def _kill_by_psutil(variable: str, mark: str) -> int:
    found = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(variable) == mark:
                found += 1
                process.kill()  # checks the creation time first
    return found


def kill_carriers(variable: str, mark: str) -> int:
    """One scan: SIGKILL every other process with this variable in its environment; how many there were. Blocks for milliseconds."""
    if sys.platform == "linux" and hasattr(os, "pidfd_open"):
        return _kill_by_proc(f"{variable}={mark}".encode())
    return _kill_by_psutil(variable, mark)
