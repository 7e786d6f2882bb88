"""A daemon of its own for the demo: a child process with its own folder, of which nothing is left at the end, whatever the end is."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from reconciler.cli.client import Client, Target
from reconciler.cli.failure import Failure, Unreachable
from reconciler.cli.pause import Deadline, pause
from reconciler.cli.views import StatusView, status_view

START_S = 20.0
"""How long the daemon may take to answer, seconds; it takes under one, and several on a machine that is busy with something else."""
STOP_S = 20.0
"""How long it may take to stop its simulators, seconds; each ends within milliseconds of its SIGTERM."""
STEP_S = 30.0
"""How long any step of the story may take, seconds."""
POLL_S = 0.05
"""Pause between two looks at the daemon, seconds."""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT")


class Stage:
    """Used as a context manager: the daemon runs inside, and nothing of it is left after."""

    def __init__(self, text: str, port: int | None, environ: Mapping[str, str]) -> None:
        self._text = text
        self.port = port if port is not None else free_port()
        self._environ = environ
        self._folder = Path()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def file(self) -> Path:
        """The file that the daemon watches."""
        return self._folder / "llamactl.yaml"

    @property
    def state(self) -> Path:
        """Its state folder."""
        return self._folder / "state"

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="llamactl-demo-"))
        try:
            self.file.write_text(self._text, encoding="utf-8")
            self._start()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean_up()

    def client(self) -> Client:
        """A client with the daemon's own local key."""
        from reconciler.host.store import read_announcement

        announcement = read_announcement(self.state)
        if announcement is None:
            raise Unreachable("the daemon of the demo has not announced itself")
        return Client(Target(url=announcement.url, key=announcement.key, cure="look at its log", local=True))

    def status(self) -> StatusView:
        """What the daemon says now."""
        return status_view(self.client().get("/api/v1/status"))

    def until(self, what: str, reached: Callable[[StatusView], bool], see: Callable[[StatusView], None]) -> StatusView:
        """The first status that is as wanted; each one on the way is shown to ``see``. Failure when it takes too long."""
        deadline = Deadline(STEP_S)
        while True:
            self.check_alive()
            status = self.status()
            see(status)
            if reached(status):
                return status
            if deadline.passed:
                raise Failure(f"the demo went wrong: {what} was not so after {STEP_S:g}s{self._log_end()}")
            deadline.pause(POLL_S)

    def check_alive(self) -> None:
        """Failure, with the end of its log, when the daemon is gone."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise Failure(f"the demo went wrong: its daemon ended with exit code {code}{self._log_end()}")

    def _start(self) -> None:
        environ = {key: self._environ[key] for key in _KEPT if key in self._environ}
        command = [sys.executable, "-m", "reconciler", "up", "--file", str(self.file), "--state-dir", str(self.state)]
        # An interrupt in the middle of starting it would leave a child that nobody knows.
        with open(self._folder / "daemon.log", "wb") as log, postponed():
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ | {"PYTHONUNBUFFERED": "1"},
                cwd=self._folder,
                start_new_session=True,  # Ctrl-C on the terminal is for the demo, which then stops the daemon in order
            )
        deadline = Deadline(START_S)
        while True:
            self.check_alive()
            try:
                self.client().get("/api/v1/status")
            except Unreachable:
                if deadline.passed:
                    raise Failure(
                        f"the demo went wrong: its daemon does not answer after {START_S:g}s{self._log_end()}"
                    ) from None
            else:
                return
            pause(POLL_S)

    def _log_end(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self._folder / "daemon.log").read_text(errors="replace").splitlines()
            return "".join(f"\n  | {line}" for line in lines[-20:])
        return ""

    def _clean_up(self) -> None:
        """End the daemon and everything it started, then remove the folder. A second Ctrl-C must not leave anything behind."""
        with uninterrupted():
            try:
                if self._process is not None:
                    self._end_daemon(self._process)
            finally:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _end_daemon(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # it stops every instance and then itself, as on a terminal
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self.state.is_dir():
            from reconciler.app import end_leftovers

            end_leftovers(self.state, {})


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Signals that would end the program count after the block. (Blocking them would be inherited by a child; handlers are not.)"""
    came: list[int] = []
    before = [(number, signal.signal(number, lambda which, _: came.append(which))) for number in ENDING]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals that would end the program wait outside: whoever presses Ctrl-C twice still gets everything cleaned up."""
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in ENDING]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
