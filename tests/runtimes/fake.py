"""A second implementation of ``Runtime``: in memory, scripted, on a clock that is moved by hand.

``FakeHost`` is what outlives a daemon (the processes, the ports, the logs); ``FakeRuntime`` is one daemon's view of it. A script says
how a replica behaves from its start on; ``crash``, ``go_dark`` and ``refuse_starts`` change things while it runs.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from reconciler.core.contracts import Endpoint, ExitRecord, Handle, LogFile, ProcessState, ReplicaFacts, StartOrder
from reconciler.core.errors import Conflict, LlamactlError, Missing, Transient
from reconciler.host.clock import Clock


class VirtualClock:
    """``Clock`` that stands still until :meth:`advance`; sleepers wake in the order of their times."""

    def __init__(self, monotonic: float = 1000.0, unix: float = 1_750_000_000.0) -> None:
        self._monotonic, self._unix = monotonic, unix
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._watchers: list[Callable[[], None]] = []

    def monotonic(self) -> float:
        return self._monotonic

    def now(self) -> float:
        return self._unix

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._numbers), future))
        await future

    def on_move(self, watcher: Callable[[], None]) -> None:
        """Call ``watcher`` whenever time has moved."""
        self._watchers.append(watcher)

    def jump_wall(self, seconds: float) -> None:
        """The wall clock alone jumps."""
        self._unix += seconds

    async def advance(self, seconds: float) -> None:
        """Move time on, waking sleepers one date at a time and letting them run."""
        end = self._monotonic + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            date, _, future = heapq.heappop(self._sleepers)
            self._move_to(date)
            if not future.done():
                future.set_result(None)
            await self.settle()
        self._move_to(end)
        await self.settle()

    def _move_to(self, date: float) -> None:
        self._unix += date - self._monotonic
        self._monotonic = date
        for watcher in self._watchers:
            watcher()

    @staticmethod
    async def settle(rounds: int = 20) -> None:
        """Let tasks that can run now run."""
        for _ in range(rounds):
            await asyncio.sleep(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """How a replica behaves. Seconds are counted from its start, or from the order they answer."""

    exits_after: float | None = None
    """Ends by itself after so long; 0 is at once."""
    code: int | None = 0
    signal: str | None = None
    """Given for an end by a signal, with ``code=None``."""
    error: str | None = None
    """The program cannot be run: EXITED at once, with this text."""
    obeys_stop_after: float | None = 0.0
    """None ignores the stop signal."""
    dies_after_kill: float = 0.0
    """SIGKILL takes so long to be complete (uninterruptible sleep)."""
    log: tuple[str, ...] = ()
    """What it has printed when it ends."""
    api_key_known: bool = True


@dataclass(slots=True, kw_only=True)
class FakeProcess:
    """One replica on the fake host."""

    order: StartOrder
    script: Script
    port: int
    pid: int
    started_at: float
    started: float
    ready_since: float | None = None
    stop_since: float | None = None
    asked: str | None = None
    kill_since: float | None = None
    stop_signal: str = ""
    orphan_ttl: float = 0.0
    dark: bool = False
    exit: ExitRecord | None = None

    @property
    def handle(self) -> Handle:
        return self.order.handle


@dataclass(slots=True)
class FakeHost:
    """What goes on existing when a daemon dies."""

    clock: Clock
    scripts: dict[str, Script] = field(default_factory=dict)
    """By instance name; absent means a replica that runs until it is stopped."""
    strangers: set[int] = field(default_factory=set)
    """Ports that somebody else listens on."""
    processes: dict[tuple[str, int], FakeProcess] = field(default_factory=dict)
    ended: dict[str, list[LogFile]] = field(default_factory=dict)
    pids: itertools.count[int] = field(default_factory=lambda: itertools.count(5000))

    def settle(self) -> None:
        """Let everything happen that is due by now."""
        now = self.clock.monotonic()
        for process in self.processes.values():
            if process.exit is None and (due := self._due(process)) is not None and due[0] <= now:
                self.end(process, due[1])

    def _due(self, process: FakeProcess) -> tuple[float, ExitRecord] | None:
        """When and how it will end, as things stand."""
        script, dates = process.script, []
        if script.exits_after is not None:
            by_itself = ExitRecord(code=script.code, signal=script.signal)
            dates.append((process.started + script.exits_after, by_itself))
        if process.stop_since is not None and script.obeys_stop_after is not None:
            dates.append((process.stop_since + script.obeys_stop_after, ExitRecord(signal=process.stop_signal)))
        if process.kill_since is not None:
            dates.append((process.kill_since + script.dies_after_kill, ExitRecord(signal="SIGKILL")))
        return min(dates, key=lambda one: one[0]) if dates else None

    def end(self, process: FakeProcess, record: ExitRecord) -> None:
        """It is gone now."""
        process.exit = replace(
            record,
            at=self.clock.now(),
            monotonic=self.clock.monotonic(),
            asked=process.asked,
            log_tail=process.script.log,
        )


class FakeRuntime:
    """``Runtime`` over a ``FakeHost``. ``calls`` records every action, refused ones included."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.calls: list[tuple[str, str]] = []
        """(``start``/``stop``/``kill``/``forget``/``note_ready``, replica name) in the order of the calls."""
        self.start_errors: list[LlamactlError] = []
        """Raised by the next starts, one each."""
        self._wakes: list[Callable[[], None]] = []
        self._own: set[tuple[str, int]] = set()
        self._open = False
        if isinstance(host.clock, VirtualClock):
            host.clock.on_move(self._moved)

    # -- what tests do to it

    def crash(self, instance: str, *, code: int | None = 1, signal: str | None = None) -> None:
        """Every replica of the instance that still lives ends now, unasked."""
        for process in self._living(instance):
            self.host.end(process, ExitRecord(code=None if signal else code, signal=signal))
        self._wake()

    def go_dark(self, instance: str, *, dark: bool = True) -> None:
        """The runtime cannot tell any more (or again) what the instance's replicas do."""
        for process in self._living(instance):
            process.dark = dark
        self._wake()

    def living(self, instance: str) -> tuple[FakeProcess, ...]:
        """The instance's replicas of which something is left."""
        return tuple(self._living(instance))

    def _living(self, instance: str) -> list[FakeProcess]:
        self.host.settle()
        return [one for one in self.host.processes.values() if one.handle.instance == instance and one.exit is None]

    # -- Runtime

    async def open(self) -> None:
        self._open = True
        self.host.settle()

    async def close(self) -> None:
        self._open = False
        self._wakes.clear()

    def subscribe(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)

    def _wake(self) -> None:
        for wake in self._wakes:
            wake()

    def _moved(self) -> None:
        if self._open:
            before = [process.exit for process in self.host.processes.values()]
            self.host.settle()
            if before != [process.exit for process in self.host.processes.values()]:
                self._wake()

    def observe(self) -> Sequence[ReplicaFacts]:
        self.host.settle()
        return tuple(self._facts(self.host.processes[key]) for key in sorted(self.host.processes))

    def _state(self, process: FakeProcess) -> ProcessState:
        if process.exit is not None:
            return ProcessState.EXITED
        if process.dark:
            return ProcessState.UNKNOWN
        if process.stop_since is not None:
            return ProcessState.STOPPING
        return ProcessState.RUNNING

    def _facts(self, process: FakeProcess) -> ReplicaFacts:
        order, state = process.order, self._state(process)
        return ReplicaFacts(
            handle=process.handle,
            revision=order.revision,
            state=state,
            endpoint=Endpoint(
                host=order.launch.host,
                port=process.port,
                api_key=order.api_key,
                served_model=order.launch.served_model,
            ),
            pid=None if state is ProcessState.EXITED else process.pid,
            started_at=process.started_at,
            started_monotonic=process.started,
            stop_since=process.stop_since,
            killed=process.kill_since is not None,
            exit=process.exit,
            adopted=(process.handle.instance, process.handle.serial) not in self._own,
            ready_since=process.ready_since,
            stop=order.stop,
            log_path=f"/fake/{process.handle.replica}/log",
        )

    async def start(self, order: StartOrder) -> ReplicaFacts:
        self.calls.append(("start", order.handle.replica))
        self.host.settle()
        if self.start_errors:
            raise self.start_errors.pop(0)
        key = (order.handle.instance, order.handle.serial)
        if key in self.host.processes:
            raise Conflict(f"cannot start {order.handle.replica}: it exists already")
        script = self.host.scripts.get(order.handle.instance, Script())
        process = FakeProcess(
            order=order,
            script=script,
            port=self._port(order),
            pid=next(self.host.pids),
            started_at=self.host.clock.now(),
            started=self.host.clock.monotonic(),
            orphan_ttl=order.orphan_ttl,
        )
        self.host.processes[key] = process
        self._own.add(key)
        if script.error is not None:
            self.host.end(process, ExitRecord(error=script.error))
        self.host.settle()
        self._wake()
        return self._facts(process)

    def _port(self, order: StartOrder) -> int:
        used = {one.port for one in self.host.processes.values() if one.exit is None} | self.host.strangers
        if (pinned := order.launch.port) is not None:
            if pinned in used:
                raise Transient(f"cannot start {order.handle.replica}: port {pinned} is in use by pid 4242 (stranger)")
            return pinned
        first, last = order.ports
        wanted = list(range(first, last + 1))
        if order.preferred_port is not None:
            wanted.insert(0, order.preferred_port)
        for port in wanted:
            if port not in used and port not in order.avoid_ports and first <= port <= last:
                return port
        raise Transient(f"cannot find a free port: {first}-{last} are all in use")

    def _of(self, doing: str, handle: Handle) -> FakeProcess:
        self.calls.append((doing, handle.replica))
        self.host.settle()
        process = self.host.processes.get((handle.instance, handle.serial))
        if process is None:
            raise Missing(f"cannot {doing} {handle.replica}: there is no such replica")
        if process.handle.token != handle.token:
            raise Conflict(f"cannot {doing} {handle.replica}: another one stands in its place")
        return process

    def _reach(self, doing: str, handle: Handle) -> FakeProcess:
        process = self._of(doing, handle)
        if process.exit is not None:
            raise Missing(f"cannot {doing} {handle.replica}: it has ended")
        if process.dark:
            raise Transient(f"cannot {doing} {handle.replica}: its supervisor does not answer")
        return process

    async def stop(self, handle: Handle, *, asked: str, signal: str | None = None) -> None:
        process = self._reach("stop", handle)
        if process.stop_since is None:
            process.stop_since, process.asked = self.host.clock.monotonic(), asked
            process.stop_signal = signal if signal is not None else process.order.stop.signal
        self.host.settle()
        self._wake()

    async def kill(self, handle: Handle, *, asked: str) -> None:
        process = self._reach("kill", handle)
        now = self.host.clock.monotonic()
        process.asked = process.asked or asked
        process.stop_since = now if process.stop_since is None else process.stop_since
        process.kill_since = now if process.kill_since is None else process.kill_since
        self.host.settle()
        self._wake()

    async def note_ready(self, handle: Handle, at: float) -> None:
        process = self._reach("note_ready", handle)
        process.ready_since = at if process.ready_since is None else process.ready_since
        self._wake()

    async def lease(self, handle: Handle, orphan_ttl: float) -> None:
        process = self._reach("lease", handle)
        self.calls.pop()  # knowledge, not an action
        process.orphan_ttl = orphan_ttl

    async def forget(self, handle: Handle) -> None:
        process = self._of("forget", handle)
        if process.exit is None:
            raise Conflict(f"cannot forget {handle.replica}: something of it is still there")
        ended = self.host.ended.setdefault(handle.instance, [])
        ended.append(self._log(process, live=False))
        del ended[:-3]
        del self.host.processes[(handle.instance, handle.serial)]
        self._wake()

    @staticmethod
    def _log(process: FakeProcess, *, live: bool) -> LogFile:
        path = Path(f"/fake/{process.handle.replica}/log")
        return LogFile(serial=process.handle.serial, paths=(path,), live=live, started_at=process.started_at)

    def logs(self, instance: str) -> Sequence[LogFile]:
        known = [
            self._log(process, live=process.exit is None)
            for process in self.host.processes.values()
            if process.handle.instance == instance
        ]
        return tuple(sorted((*self.host.ended.get(instance, ()), *known), key=lambda one: one.serial))


def scripted(scripts: Mapping[str, Script] | None = None) -> tuple[FakeRuntime, VirtualClock]:
    """A runtime on a fresh host with a clock of its own: the usual start of a test of the control loop."""
    clock = VirtualClock()
    return FakeRuntime(FakeHost(clock, dict(scripts or {}))), clock
