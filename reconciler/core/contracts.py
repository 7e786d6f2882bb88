"""The two plug points and what passes through them: a ``Backend`` says what to run, a ``Runtime`` runs it.

A backend is pure (options in, data out). A runtime has effects and no opinions: each action names the handle it was planned
against, and is refused with ``Conflict`` or ``Missing`` when the world moved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from reconciler.core.errors import Problem
from reconciler.core.launch import Launch
from reconciler.core.options import OptionProblem, OptionSource, OptionTable, ParsedCommand, TableLookup
from reconciler.core.spec import BackendsSpec, InstanceSpec, StopSpec


class Verdict(StrEnum):
    """What a probe's answer means."""

    READY = "ready"
    LOADING = "loading"
    FAILED = "failed"
    """It will never become ready by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One HTTP question to a backend."""

    method: str = "GET"
    path: str = "/health"
    otherwise: str | None = None
    """Asked in its place where the server has no such route."""
    body: bytes | None = None
    timeout: float | None = None
    """Seconds; None takes the instance's ``probe.timeout``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a backend answers."""

    host: str
    port: int
    base_path: str = ""
    """Prefix before the backend's own routes (``external`` urls); without a trailing slash, without ``/v1``."""
    tls: bool = False
    api_key: str | None = field(default=None, repr=False)
    """Sent to the backend as a bearer token; never the client's."""
    served_model: str | None = None
    """See ``Launch.served_model``."""

    def url(self, path: str) -> str:
        """The whole URL of one of the backend's routes."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.base_path}{path}"


class Backend(Protocol):
    """What runs: one file in the backends room. Pure."""

    @property
    def kind(self) -> str:
        """The ``backend_type``."""
        ...

    @property
    def start_timeout(self) -> float:
        """Default for ``start_timeout``, seconds."""
        ...

    @property
    def parse_routes(self) -> tuple[str, ...]:
        """Names under ``/api/v1/backends/`` whose parse-command this backend answers; empty for none."""
        ...

    @property
    def option_source(self) -> OptionSource | None:
        """How its options are read from an installed program; None for a backend without a table of options."""
        ...

    def read_options(self, output: str) -> OptionTable:
        """The table in what :attr:`option_source` printed; Rejected when it is no such thing."""
        ...

    def informed(self, lookup: TableLookup) -> Backend:
        """The same backend, which prefers the tables that this lookup knows to the packaged one."""
        ...

    def executable(self, spec: InstanceSpec | None, backends: BackendsSpec) -> tuple[str, ...] | None:
        """The words of the program that an instance runs (None: one without an executable of its own).

        None for a backend that starts nothing, or whose program is its own; Rejected for words that cannot be split.
        """
        ...

    def options_schema(self, backends: BackendsSpec | None = None) -> Mapping[str, object]:
        """JSON schema (2020-12) of ``backend_options``; with ``backends``, of the program that is installed where they say."""
        ...

    def check(
        self, spec: InstanceSpec, *, backends: BackendsSpec | None = None, allow_hosts: frozenset[str] = frozenset()
    ) -> Sequence[OptionProblem]:
        """Everything wrong or doubtful with the instance's options, extra_args and executable.

        ``backends`` say which program it is where the instance does not. ``allow_hosts`` are the addresses beside loopback
        that a backend may listen on (``server.allow_backend_hosts``).
        """
        ...

    def launch(self, spec: InstanceSpec, backends: BackendsSpec) -> Launch | None:
        """What to run for a checked instance; None for a backend that is never started by us."""
        ...

    def command(self, launch: Launch, *, host: str, port: int) -> tuple[str, ...]:
        """The final argv with the address in it."""
        ...

    def key_environment(self, api_key: str) -> Mapping[str, str]:
        """Variables that make the backend demand this key; empty when it knows no keys."""
        ...

    def external(self, spec: InstanceSpec, environ: Mapping[str, str]) -> Endpoint | None:
        """Where a backend that is never started answers; None for the others."""
        ...

    def served_model(self, spec: InstanceSpec) -> str | None:
        """The name the backend wants in a request's ``model``; None leaves the client's value alone."""
        ...

    def readiness(self, spec: InstanceSpec) -> Probe:
        """The question whose answer says that requests can be served."""
        ...

    def liveness(self, spec: InstanceSpec) -> Probe:
        """The cheap question asked while it serves."""
        ...

    def judge(self, status: int, body: bytes) -> Verdict:
        """What an answer to :meth:`readiness` means; ``body`` may be cut at 64 KiB."""
        ...

    def parse(self, command: str, backends: BackendsSpec | None = None) -> ParsedCommand:
        """Understand a pasted command line; raises Rejected with the position (line, column) of what is wrong.

        ``backends`` say which program it is where the command only names it plainly (None: the defaults).
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """A runtime's claim ticket for one replica; never a bare pid."""

    instance: str
    serial: int
    """Counts up per instance over its whole life, daemon restarts included."""
    token: str
    """Random, 128 bits in hex: proof of identity."""

    @property
    def replica(self) -> str:
        """Name for people: ``tiny#3``."""
        return f"{self.instance}#{self.serial}"


class ProcessState(StrEnum):
    """What a runtime knows about one replica."""

    RUNNING = "running"
    STOPPING = "stopping"
    """Asked to end, something of it still lives."""
    EXITED = "exited"
    """Nothing of it is left; ``exit`` says how."""
    UNKNOWN = "unknown"
    """The runtime cannot tell: look again, decide nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRecord:
    """How a replica ended."""

    code: int | None = None
    signal: str | None = None
    """``SIGKILL`` and so on; None when it exited."""
    at: float = 0.0
    """Unix time, seconds."""
    monotonic: float = 0.0
    """The host's monotonic clock, seconds; comparable across daemons of one boot."""
    asked: str | None = None
    """Why we asked it to end; None when nobody did. See ``ASKED_*``."""
    error: str | None = None
    """Set when the program could not be started at all, or its supervisor was lost."""
    log_tail: tuple[str, ...] = ()
    """The last lines it printed."""


ASKED_STOP = "stop"
"""The declaration wanted it gone: not a failure."""
ASKED_FAILED = "failed"
"""We ended it because it cannot become ready or stopped answering: a failure."""
ASKED_TIMEOUT = "timeout"
"""We ended it because it was not ready within ``start_timeout``: a failure, and reason enough to give its revision up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFacts:
    """One replica, as its runtime sees it."""

    handle: Handle
    revision: str
    state: ProcessState
    endpoint: Endpoint
    pid: int | None = None
    """The backend's own main process."""
    started_at: float = 0.0
    """Unix time, seconds."""
    started_monotonic: float = 0.0
    stop_since: float | None = None
    """Monotonic time of the first stop request; None when nobody asked."""
    killed: bool = False
    """SIGKILL was sent to everything of it."""
    exit: ExitRecord | None = None
    adopted: bool = False
    """Taken over from an earlier daemon."""
    ready_since: float | None = None
    """Monotonic time noted by an earlier or this daemon when it first became ready."""
    log_path: str | None = None
    stop: StopSpec | None = None
    """How it was to be ended when it was started, as far as its runtime remembers; for replicas that nobody declares any more."""
    degraded: tuple[str, ...] = ()
    """What cannot be promised here (``TREE_KILL_DEGRADED``, dropped log bytes), for status."""
    dropped_log_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOrder:
    """Everything a runtime needs to start one replica."""

    handle: Handle
    launch: Launch
    revision: str
    command: Callable[[str, int], tuple[str, ...]]
    """Host and port in, final argv out (the backend's ``command``)."""
    api_key: str | None = field(default=None, repr=False)
    key_environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    ports: tuple[int, int] = (8100, 8999)
    """First and last port to choose from when the launch pins none."""
    preferred_port: int | None = None
    avoid_ports: frozenset[int] = frozenset()
    """Ports pinned by other instances."""
    stop: StopSpec = field(default_factory=StopSpec)
    orphan_ttl: float = 3600.0
    """Seconds without a daemon after which it ends itself; 0 means never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """Where a replica's output lies, oldest part first."""

    serial: int
    paths: tuple[Path, ...]
    live: bool
    started_at: float


class Runtime(Protocol):
    """Where it runs: one file in the runtimes room. Effects, no opinions."""

    async def open(self) -> None:
        """Take back what earlier daemons left; call once before anything else."""
        ...

    async def close(self) -> None:
        """Let go of everything and leave it running."""
        ...

    def observe(self) -> Sequence[ReplicaFacts]:
        """All replicas known now, from memory, without I/O; order is by instance and serial."""
        ...

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` (on the loop's thread) whenever :meth:`observe` would answer differently."""
        ...

    async def start(self, order: StartOrder) -> ReplicaFacts:
        """Start one replica; Transient (port taken, disk full) or Terminal (cannot ever work) when it cannot."""
        ...

    async def stop(self, handle: Handle, *, asked: str, signal: str | None = None) -> None:
        """Send the stop signal to the main process, once; Missing when it is gone.

        ``signal`` is a name (``SIGINT``); None takes the one that the replica was started with.
        """
        ...

    async def kill(self, handle: Handle, *, asked: str) -> None:
        """SIGKILL everything that belongs to the replica; Missing when it is gone."""
        ...

    async def forget(self, handle: Handle) -> None:
        """Drop the record of an exited replica (its log stays for ``logs --previous``)."""
        ...

    async def note_ready(self, handle: Handle, at: float) -> None:
        """Remember with the replica when it became ready (monotonic seconds), for later daemons."""
        ...

    async def lease(self, handle: Handle, orphan_ttl: float) -> None:
        """Tell a running replica how long it may be without a daemon (seconds; 0 for ever); Missing when it is gone."""
        ...

    def logs(self, instance: str) -> Sequence[LogFile]:
        """Log files of the instance's replicas, oldest first, ended ones included."""
        ...


__all__ = [
    "ASKED_FAILED",
    "ASKED_STOP",
    "ASKED_TIMEOUT",
    "Backend",
    "Endpoint",
    "ExitRecord",
    "Handle",
    "Launch",
    "LogFile",
    "OptionProblem",
    "OptionSource",
    "OptionTable",
    "ParsedCommand",
    "Probe",
    "Problem",
    "ProcessState",
    "ReplicaFacts",
    "Runtime",
    "StartOrder",
    "TableLookup",
    "Verdict",
]
