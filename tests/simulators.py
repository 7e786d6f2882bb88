"""Starts simulators as real processes for any room's tests, and leaves neither them nor their children behind.

`with running_simulator("vllm", "--token-delay-ms", "5") as simulator:` gives a ready one on a free loopback port.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import IO, Any, Literal

import psutil

DEADLINE_S = 20.0
"""Longest any wait here lasts, seconds: a start takes 0.3 s on an idle machine, many times that on a busy one."""

_LISTENING = re.compile(r"^listening on \S+:(\d+)$", re.MULTILINE)
_CHILD = re.compile(r"^started child process pid=(\d+) kind=(\w+)$", re.MULTILINE)


def until(condition: Callable[[], bool], what: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Waits for a condition; fails with what was waited for."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"waited {deadline_s} s in vain for: {what}"
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, read to its end; `version` is 10 or 11, header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    version: int

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The stream's events in order, each decoded; the last is the text `[DONE]` if the stream came to its end."""
        data = [part[6:] for part in self.body.decode().split("\n\n") if part.startswith("data: ")]
        return [part if part == "[DONE]" else json.loads(part) for part in data]

    def text(self) -> str:
        """What the tokens of a streamed chat say."""
        choices = [choice for event in self.events() if isinstance(event, dict) for choice in event["choices"]]
        return "".join(choice["delta"].get("content", "") for choice in choices)


@dataclass(slots=True)
class RunningSimulator:
    """A simulator process. `port` is 0 until it listens; `log_file` holds all it wrote."""

    process: subprocess.Popen[bytes]
    log_file: Path
    arguments: tuple[str, ...]
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """The simulator's own pid."""
        return self.process.pid

    @property
    def port(self) -> int:
        """The port it listens on."""
        found = _LISTENING.search(self.log())
        return int(found[1]) if found else 0

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        """What it has written to stdout and stderr so far."""
        return self.log_file.read_text(errors="replace")

    def children(self) -> list[tuple[int, str]]:
        """Pid and kind of each child it has made (fault `--children`)."""
        return [(int(pid), kind) for pid, kind in _CHILD.findall(self.log())]

    @contextmanager
    def opened(
        self, method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None
    ) -> Iterator[HTTPResponse]:
        """Sends a request (a body that is not bytes goes as JSON) and gives the answer unread; leaving disconnects."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(
                method, path, raw, {"Content-Type": "application/json", **self.headers, **(headers or {})}
            )
            response = connection.getresponse()
            try:
                yield response
            finally:
                response.close()  # the socket lives on in the response when the server means to close
        finally:
            connection.close()

    def request(
        self, method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Sends a request and reads its whole answer; raises `http.client.IncompleteRead` for one without an end."""
        with self.opened(method, path, body, headers=headers) as response:
            content = response.read()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(status=response.status, headers=names, body=content, version=response.version)

    def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        """GET."""
        return self.request("GET", path, headers=headers)

    def chat(self, text: str = "hello there", **fields: object) -> Answer:
        """A chat request with one message."""
        return self.request("POST", "/v1/chat/completions", chat_body(text, **fields))

    def stats(self) -> dict[str, Any]:
        """`/_sim/stats`: requests, in_flight, aborted, tokens, pid, last, ..."""
        found: dict[str, Any] = self.get("/_sim/stats").json()
        return found

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def wait(self, *, deadline_s: float = DEADLINE_S) -> int:
        """Waits for its end; the exit code, or minus the signal."""
        return self.process.wait(deadline_s)

    def wait_listening(self) -> None:
        """Waits until the port is open."""
        until(lambda: self._alive() and self.port != 0, "the simulator listens")

    def wait_ready(self) -> None:
        """Waits until the model is loaded."""
        self.wait_listening()
        until(lambda: self._alive() and bool(self.stats()["loaded"]), "the simulator is loaded")

    def _alive(self) -> bool:
        code = self.process.poll()
        assert code is None, f"the simulator ended with {code}:\n{self.log()}"
        return True


def chat_body(text: str = "hello there", **fields: object) -> dict[str, object]:
    """The JSON of a chat request with one message."""
    return {"messages": [{"role": "user", "content": text}], **fields}


@contextmanager
def running_simulator(
    kind: str,
    *arguments: str,
    wait: Literal["ready", "listening", "no"] = "ready",
    environment: Mapping[str, str] | None = None,
) -> Iterator[RunningSimulator]:
    """Starts `python -m reconciler.simulator KIND ARGUMENTS` and ends it, and all its children, afterwards.

    The model is called `tiny` and the port is a free one unless the arguments say otherwise. The environment given is
    added to ours, keys removed. A simulator that printed a traceback fails the test.
    """
    own = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    named = kind == "vllm" or any(word in {"--model", "-m"} for word in arguments)
    first = ["serve", "tiny"] if kind == "vllm" and arguments[:1] != ("serve",) else []
    port = [] if "--port" in arguments else ["--port", "0"]
    model = [] if named else ["--model", "tiny"]
    command = [sys.executable, "-m", "reconciler.simulator", kind, *first, *arguments, *model, *port]
    with tempfile.TemporaryDirectory(prefix="simulator-") as folder:
        log_file = Path(folder) / "log"
        with log_file.open("wb") as output:
            process = _start(command, output=output, environment={**own, **(environment or {})})
        simulator = RunningSimulator(process=process, log_file=log_file, arguments=arguments)
        try:
            if wait != "no":
                simulator.wait_listening()
            if wait == "ready":
                simulator.wait_ready()
            yield simulator
            assert "Traceback" not in simulator.log(), simulator.log()
        finally:
            process.kill()
            process.wait(DEADLINE_S)
            _end_children(simulator)


def _start(command: list[str], *, output: IO[bytes], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(environment))


def _end_children(simulator: RunningSimulator) -> None:
    """Looks for them by their environment, not in the log: the simulator may have died before it wrote of them."""
    if "--children" not in simulator.arguments:
        return

    def none_left() -> bool:
        left = left_by(simulator.pid)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return not left

    until(none_left, "the simulator's children are gone")


def left_by(pid: int) -> list[psutil.Process]:
    """The living processes whose environment says that this simulator made them."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("LLAMACTL_SIM_PARENT") == str(pid):
                found.append(process)
    return found
