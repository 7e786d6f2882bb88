"""A real `llamactl up` in a child process, driven as a person drives it: by its commands, its file and its port.

Also the witness of what it leaves behind: it remembers every process that was seen under the daemon, because vLLM's
engine processes rename themselves and by that erase their command line and their environment.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

LLAMACTL: Final = Path(sys.executable).with_name("llamactl")
COMMAND_DEADLINE_S: Final = 60.0
MARK: Final = "REAL_TEST_MARK"
"""An environment variable that every process of one test inherits; not one that the daemon keeps to itself."""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both streams, for messages and for searching."""
        return f"{self.out}\n{self.err}"


@dataclass(frozen=True, slots=True)
class Reply:
    """A streamed chat answer, as its SSE events."""

    status: int
    content_type: str
    events: tuple[dict[str, Any], ...]
    ended: bool
    """Whether `[DONE]` came, and came last."""
    raw: str

    @property
    def text(self) -> str:
        """The words of all chunks, joined."""
        deltas = (choice.get("delta", {}) for event in self.events for choice in event.get("choices", ()))
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def content_chunks(self) -> int:
        """How many events carried words."""
        return sum(
            any(choice.get("delta", {}).get("content") for choice in event.get("choices", ())) for event in self.events
        )

    @property
    def usage(self) -> Mapping[str, Any] | None:
        """The usage of the last event that has one."""
        found = [event["usage"] for event in self.events if event.get("usage")]
        return found[-1] if found else None


@dataclass(slots=True)
class Daemon:
    """One daemon with its own file, state folder and port."""

    folder: Path
    port: int = field(default_factory=free_port)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: subprocess.Popen[bytes] | None = None
    seen: set[psutil.Process] = field(default_factory=set)
    sessions: set[int] = field(default_factory=set)
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further variables for the daemon and its commands, ``LLAMACTL_*`` ones included."""

    @property
    def file(self) -> Path:
        """The YAML file."""
        return self.folder / "llamactl.yaml"

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.folder / "state"

    @property
    def output(self) -> Path:
        """What the daemon itself prints."""
        return self.folder / "daemon.log"

    def environment(self) -> dict[str, str]:
        """The test's environment without settings of other daemons, with this one's state folder and mark."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LLAMACTL_")}
        return kept | {"LLAMACTL_STATE_DIR": str(self.state), MARK: self.mark, "NO_COLOR": "1", **self.settings}

    def run(self, *words: str, deadline_s: float = COMMAND_DEADLINE_S) -> Outcome:
        """One llamactl command beside the daemon."""
        done = subprocess.run(
            [LLAMACTL, *words],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def up(self, *flags: str) -> None:
        """Start `llamactl up` and wait until it answers; its output is added to what an earlier one printed."""
        with self.output.open("ab") as log:
            self.process = subprocess.Popen(
                [LLAMACTL, "up", "-f", self.file, "--state-dir", self.state, *flags],
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.sessions.add(self.process.pid)
        self.until(lambda: self.get("/livez")[0] == 200, what="the daemon to answer /livez", deadline_s=30.0)

    def until(self, holds: Callable[[], bool], *, what: str, deadline_s: float) -> None:
        """Wait for a condition; fails with the daemon's output when it ends first or the deadline passes."""
        limit = time.monotonic() + deadline_s
        while not holds():
            ended = self.process is not None and self.process.poll() is not None
            assert not ended, f"the daemon ended while waiting for {what}\n{self.evidence()}"
            assert time.monotonic() < limit, f"waited {deadline_s:.0f} s for {what}\n{self.evidence()}"
            time.sleep(0.02)

    def get(self, path: str) -> tuple[int, str]:
        """(status, body) of one request; (0, reason) where nothing answers."""
        return self.request("GET", path)

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """(status, body) of one request with a JSON body; (0, reason) where nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            data = None if body is None else json.dumps(body)
            sent = {"Content-Type": "application/json"} if data is not None else {}
            connection.request(method, path, data, {**sent, **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError as error:
            return 0, str(error)
        finally:
            connection.close()

    def chat(self, model: str, *, max_tokens: int) -> Reply:
        """A streamed chat completion through the proxy, greedy, with usage."""
        question = {
            "model": model,
            "messages": [{"role": "user", "content": "Hello there"}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(question), headers)
            response = connection.getresponse()
            raw = response.read().decode()
            content_type = response.getheader("Content-Type") or ""
            return _reply(response.status, content_type, raw)
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        """`llamactl status -o json`."""
        outcome = self.run("status", "-o", "json")
        assert outcome.code == 0, f"status failed with {outcome.code}: {outcome.text}\n{self.evidence()}"
        found: dict[str, Any] = json.loads(outcome.out)
        return found

    def instance(self, name: str) -> dict[str, Any]:
        """One instance of the status."""
        listed: list[dict[str, Any]] = self.status()["instances"]
        named = [one for one in listed if one["name"] == name]
        assert len(named) == 1, f"status lists {[one['name'] for one in listed]}, not {name} once"
        return named[0]

    def wait_ready(self, name: str, deadline_s: float) -> None:
        """`llamactl wait NAME --for ready`."""
        outcome = self.run(
            "wait", name, "--for", "ready", "--timeout", f"{deadline_s:.0f}s", deadline_s=deadline_s + 30.0
        )
        assert outcome.code == 0, f"{name} was not ready in {deadline_s:.0f} s: {outcome.text}\n{self.evidence()}"

    def down(self) -> None:
        """`llamactl down`, and the daemon itself ends well."""
        assert self.process is not None, "down before up"
        self.look()
        outcome = self.run("down", deadline_s=120.0)
        assert outcome.code == 0, f"down failed with {outcome.code}: {outcome.text}\n{self.evidence()}"
        assert self.process.wait(timeout=30.0) == 0, f"the daemon did not end well\n{self.evidence()}"

    def look(self) -> None:
        """Remember every process of this test that can be seen now, with its descendants and its session."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if self._is_ours(process):
                    self.seen.update((process, *process.children(recursive=True)))
                    self.sessions.update({os.getsid(process.pid)} - {os.getsid(0)})

    def _is_ours(self, process: psutil.Process) -> bool:
        if process.pid == os.getpid():
            return False
        if os.getsid(process.pid) in self.sessions:
            return True
        with contextlib.suppress(psutil.AccessDenied):
            if process.environ().get(MARK) == self.mark:
                return True
        return any(str(self.folder) in word for word in process.cmdline())

    def left_over(self) -> list[str]:
        """Processes of this test that still live: those remembered, and any that carries its mark or its folder."""
        self.look()
        lines = []
        for process in self.seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                # is_running compares start times, so a reused pid is not taken for ours
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    lines.append(f"{process.pid} {process.name()} {' '.join(process.cmdline())[:200]}")
        return lines

    def clean_up(self) -> None:
        """End whatever a failed test left: the daemon, then everything that carries its mark."""
        self.look()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(timeout=10.0)
        for process in self.seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(self.seen, timeout=10.0)

    def evidence(self) -> str:
        """The ends of the daemon's output and of the backends' logs, for a failure's message."""
        logs = [path for path in (self.output, *sorted(self.state.rglob("*.log*"))) if path.is_file()]
        return "\n".join(f"--- {path}\n{path.read_bytes()[-3000:].decode(errors='replace')}" for path in logs)


def _reply(status: int, content_type: str, raw: str) -> Reply:
    """Take a body apart into its SSE events."""
    payloads = [line.removeprefix("data:").strip() for line in raw.splitlines() if line.startswith("data:")]
    ended = bool(payloads) and payloads[-1] == "[DONE]"
    events = tuple(json.loads(payload) for payload in payloads if payload != "[DONE]")
    return Reply(status, content_type, events, ended, raw)
