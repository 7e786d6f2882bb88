"""Starts shims and buries them. One idle shim waits on its stdin, so that a start costs a write instead of an interpreter's start.

The shims are children of the daemon and outlive it. A spare whose daemon dies reads the end of its stdin and ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import Transient

_FOLDER = Path(__file__).parent
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); import _shim; sys.exit(_shim.main())"
"""Imported rather than run by its path, so that Python's cache of compiled files serves: 5 ms and 2 MB less per shim, when measured."""
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "SYSTEMROOT")
"""What an interpreter may need to start at all; the backend's environment travels in the order."""


@dataclass(slots=True, kw_only=True)
class ShimProcess:
    """A shim that waits for its order on the other end of ``sock``."""

    pid: int
    sock: socket.socket


class Launcher:
    """Owns the shim processes that this daemon started, and the spare one."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environment = {name: environ[name] for name in _PASSED_ON if name in environ}
        self._alive: set[int] = set()
        self._spare: ShimProcess | None = None
        self._endings: dict[int, int] = {}

    def _spawn(self) -> ShimProcess:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise Transient(f"cannot start a supervisor: {error.strerror}") from None
        actions = [
            (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _PROGRAM, str(_FOLDER)]
        try:
            pid = os.posix_spawn(sys.executable, command, self._environment, file_actions=actions, setsigmask=[])
        except OSError as error:
            ours.close()
            raise Transient(f"cannot start a supervisor ({sys.executable}): {error.strerror}") from None
        finally:
            theirs.close()
        self._alive.add(pid)
        return ShimProcess(pid=pid, sock=ours)

    def prepare(self) -> None:
        """Have a spare; a failure is left for the start that will need one."""
        if self._spare is None:
            with contextlib.suppress(Transient):
                self._spare = self._spawn()

    def take(self) -> ShimProcess:
        """A shim that nobody else uses: the spare while it lives, else a fresh one. Transient when the system has no process for us."""
        spare, self._spare = self._spare, None
        if spare is not None:
            if self.ending(spare.pid) is None:
                return spare
            spare.sock.close()
        return self._spawn()

    def ending(self, pid: int) -> int | None:
        """Bury a shim that ended; its exit code (negative for a signal, 0 when not known any more), None while it lives."""
        if pid in self._alive:
            try:
                found, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                found, status = pid, 0  # buried by somebody else
            if found:
                self._alive.discard(pid)
                self._endings[pid] = os.waitstatus_to_exitcode(status)
        return None if pid in self._alive else self._endings.pop(pid, 0)

    def bury(self) -> bool:
        """Bury all that ended; True when none is left alive."""
        for pid in tuple(self._alive):
            if self.ending(pid) is not None and self._spare is not None and self._spare.pid == pid:
                self.release_spare()
        return not self._alive

    def release_spare(self) -> int | None:
        """Send the spare away; its pid, to wait for."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        spare.sock.close()
        return spare.pid

    def end(self, pid: int) -> None:
        """SIGKILL a shim that started nothing."""
        if self.ending(pid) is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # our child and not buried: the number is its own
