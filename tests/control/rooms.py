"""A control room over a fake host: the real keeper, loop, probes and controller, a clock moved by hand, answers by script."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.backends._plain import Untabled
from reconciler.config import source
from reconciler.control.controller import Controller
from reconciler.control.events import EventLog
from reconciler.control.histories import Histories
from reconciler.control.keeper import Keeper
from reconciler.control.leases import Leases
from reconciler.control.loop import Parts
from reconciler.control.probes import Probes
from reconciler.control.watch import Pace, Seen
from reconciler.core.contracts import Endpoint, Launch, OptionProblem, ParsedCommand, Probe, Verdict
from reconciler.core.errors import Rejected
from reconciler.core.spec import BackendsSpec, InstanceSpec
from reconciler.host.clock import Clock, SystemClock
from reconciler.host.probe import Answer
from tests.runtimes.fake import FakeHost, FakeRuntime, Script, VirtualClock

PATIENCE_S = 20.0
"""Longest real time that a test waits for a condition, seconds."""
STEP_S = 0.05
"""Virtual seconds that pass between two looks at a condition."""


@dataclass(frozen=True)
class Tiny(Untabled):
    """A backend with three options: ``model`` and ``size`` are felt by the process, ``health`` is where it answers."""

    kind: str = "tiny"
    start_timeout: float = 300.0
    parse_routes: tuple[str, ...] = ()

    def options_schema(self, backends: BackendsSpec | None = None) -> Mapping[str, object]:
        properties = {"model": {"type": "string"}, "size": {"type": "integer"}, "health": {"type": "string"}}
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def check(
        self, spec: InstanceSpec, *, backends: BackendsSpec | None = None, allow_hosts: frozenset[str] = frozenset()
    ) -> Sequence[OptionProblem]:
        return [] if "model" in spec.backend_options else [OptionProblem(path=(), message="`model` is missing")]

    def launch(self, spec: InstanceSpec, backends: BackendsSpec) -> Launch | None:
        options = spec.backend_options
        words = [f"--{name}={value}" for name, value in sorted(options.items())]
        return Launch(argv=("tiny", *words), backend_type=self.kind, port=spec.port, environment=spec.environment)

    def command(self, launch: Launch, *, host: str, port: int) -> tuple[str, ...]:
        return (*launch.argv, f"--port={port}")

    def key_environment(self, api_key: str) -> Mapping[str, str]:
        return {}

    def external(self, spec: InstanceSpec, environ: Mapping[str, str]) -> Endpoint | None:
        return None

    def served_model(self, spec: InstanceSpec) -> str | None:
        return None

    def readiness(self, spec: InstanceSpec) -> Probe:
        return Probe(path=str(spec.backend_options.get("health", "/health")))

    def liveness(self, spec: InstanceSpec) -> Probe:
        return self.readiness(spec)

    def judge(self, status: int, body: bytes) -> Verdict:
        if body == b"nonsense":
            raise LookupError("a backend with a defect")
        return {200: Verdict.READY, 500: Verdict.FAILED}.get(status, Verdict.LOADING)

    def parse(self, command: str, backends: BackendsSpec | None = None) -> ParsedCommand:
        raise NotImplementedError


@dataclass(frozen=True)
class Outside(Tiny):
    """A backend that is never started."""

    kind: str = "outside"

    def launch(self, spec: InstanceSpec, backends: BackendsSpec) -> Launch | None:
        return None

    def external(self, spec: InstanceSpec, environ: Mapping[str, str]) -> Endpoint | None:
        return Endpoint(host="127.0.0.1", port=int(str(spec.backend_options["size"])))


BACKENDS = {"tiny": Tiny(), "outside": Outside()}


class Answers:
    """The prober: every replica is healthy unless its instance is said to be otherwise."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host
        self.moods: dict[str, Answer] = {}
        """By instance, or by port as text for an external one."""
        self.routes: dict[str, str] = {}
        """By replica (``a#1``): the only path it knows."""
        self.asked: list[tuple[str, str]] = []

    async def ask(self, endpoint: Endpoint, probe: Probe, *, deadline: float) -> Answer:
        for process in self._host.processes.values():
            if process.port == endpoint.port and process.exit is None:
                self.asked.append((process.handle.replica, probe.path))
                known = self.routes.get(process.handle.replica, probe.path)
                if known != probe.path:
                    return Answer(status=404)
                return self.moods.get(process.handle.instance, Answer(status=200))
        return self.moods.get(str(endpoint.port), Answer(status=None, error="connection refused"))


LOADING = Answer(status=503, body=b"loading")
SILENT = Answer(status=None, error="no answer within 5s")
HOPELESS = Answer(status=500, body=b"out of memory")
NONSENSE = Answer(status=200, body=b"nonsense")


def declare(**instances: Mapping[str, object]) -> str:
    """A file; each instance is given by its settings, ``size`` and ``health`` meaning the options."""
    lines = ["instances:"]
    for name, given in instances.items():
        settings = dict(given)
        options: dict[str, object] = {"model": "m"}
        options.update((key, settings.pop(key)) for key in ("size", "health") if key in settings)
        kind = settings.pop("backend_type", "tiny")
        shown = ", ".join(f"{key}: {value}" for key, value in options.items())
        lines += [f"  {name}:", f"    backend_type: {kind}", f"    backend_options: {{{shown}}}"]
        lines += [f"    {key}: {value}" for key, value in settings.items()]
    return "\n".join(lines) + "\n"


class Room:
    """What outlives a daemon: the file, the state folder, the host."""

    def __init__(self, folder: Path, text: str, *, scripts: Mapping[str, Script] | None = None) -> None:
        self.file = folder / "llamactl.yaml"
        self.file.write_text(text)
        self.state = folder / "state"
        self.state.mkdir()
        self.clock = VirtualClock()
        self.host = FakeHost(self.clock, dict(scripts or {}))
        self.answers = Answers(self.host)
        self.environ: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def daemon(self, *, boot: str = "b1") -> AsyncIterator[Daemon]:
        """One daemon's life; the loop runs inside, the file is offered by :meth:`Daemon.save`."""
        runtime = FakeRuntime(self.host)
        await runtime.open()
        keeper = Keeper(folder=self.state, backends=BACKENDS, environ=self.environ, clock=self.clock)
        parts = make_parts(keeper, runtime, self.answers, self.clock, state=self.state, boot=boot)
        one = Daemon(self, parts, runtime)
        try:
            content = source.read(self.file)
            keeper.offer(await keeper.load(content), content, running=(), force=True)
        except Rejected as rejected:
            remembered = keeper.last_good(self.file)
            if remembered is None:
                raise
            keeper.offer(await keeper.load(remembered), remembered, running=(), force=True)
            keeper.refuse(rejected)
        one.controller.open()
        one.loop_task = asyncio.create_task(one.controller.loop.run())
        try:
            yield one
        finally:
            one.loop_task.cancel()
            (outcome,) = await asyncio.gather(one.loop_task, return_exceptions=True)
            await parts.probes.close()
            await runtime.close()
        assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome


def make_parts(
    keeper: Keeper, runtime: FakeRuntime, answers: Answers, clock: Clock, *, state: Path, boot: str = "b1"
) -> Parts:
    """What a controller works with."""
    histories = Histories(state / "history", boot=boot)
    histories.open()
    leases = Leases(clock)
    return Parts(
        runtime=runtime,
        backends=BACKENDS,
        keeper=keeper,
        histories=histories,
        leases=leases,
        events=EventLog(clock),
        clock=clock,
        probes=Probes(answers, clock, progress_at=leases.progress_at),
    )


@contextlib.asynccontextmanager
async def following_file(
    folder: Path, text: str, *, pace: Pace | None = None
) -> AsyncIterator[tuple[Path, Controller, Keeper]]:
    """A controller that follows a real file by the real clock; nothing is run."""
    clock = SystemClock()
    path, state = folder / "llamactl.yaml", folder / "state"
    state.mkdir()
    path.write_text(text)
    host = FakeHost(clock)
    keeper = Keeper(folder=state, backends=BACKENDS, environ={}, clock=clock)
    parts = make_parts(keeper, FakeRuntime(host), Answers(host), clock, state=state)
    content = source.read(path)
    keeper.offer(await keeper.load(content), content, running=(), force=True)
    controller = Controller(parts, path=path, about={}, pace=pace)
    task = asyncio.create_task(controller.follow_file())
    try:
        yield path, controller, keeper
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Daemon:
    """One daemon over a room."""

    loop_task: asyncio.Task[None]

    def __init__(self, room: Room, parts: Parts, runtime: FakeRuntime) -> None:
        self.room = room
        self.parts = parts
        self.runtime = runtime
        self.clock = room.clock
        self.controller = Controller(parts, path=room.file, about={})

    # ---- time ---------------------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], object], what: str, *, step: float = STEP_S) -> None:
        """Let virtual time pass until the condition holds."""
        end = time.monotonic() + PATIENCE_S
        await self.clock.settle()
        while not condition():
            assert time.monotonic() < end, f"waited in vain: {what}\n{self.dump()}"
            await asyncio.sleep(0.001)  # threads get to finish
            await self.clock.advance(step)

    async def let_pass(self, seconds: float, *, step: float = 0.25) -> None:
        """Let so many virtual seconds pass, and everything in them happen."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end - 1e-9:
            await self.clock.advance(min(step, end - self.clock.monotonic()))
            await asyncio.sleep(0.001)

    async def finished(self, work: Any) -> Any:
        """The result of a coroutine that needs time to pass."""
        task = asyncio.ensure_future(work)
        await self.until(task.done, "the call returns")
        return await task

    # ---- doing --------------------------------------------------------------------------------------------------

    async def save(self, text: str | bytes) -> None:
        """The user saves the file, and the watch has seen it."""
        data = text.encode() if isinstance(text, str) else text
        self.room.file.write_bytes(data)
        await self.finished(self.controller.offer(self.seen()))
        await self.clock.settle()

    def seen(self) -> Seen:
        """The file as the watch would hand it over now."""
        try:
            content = source.read(self.room.file)
        except Rejected as rejected:
            return Seen(identity=source.identify(self.room.file), content=rejected)
        return Seen(identity=content.identity, content=content)

    # ---- looking ------------------------------------------------------------------------------------------------

    def status(self) -> Any:
        """The whole status."""
        return self.controller.status()

    def of(self, name: str) -> Any:
        """One instance's status."""
        return self.controller.instance(name)

    def phase(self, name: str) -> str:
        """One instance's phase; ``gone`` when it has none."""
        return next((str(one["phase"]) for one in self.status()["instances"] if one["name"] == name), "gone")

    def condition(self, name: str, kind: str) -> Any:
        """One condition of an instance."""
        return next(one for one in self.of(name)["conditions"] if one["type"] == kind)

    def serials(self, name: str) -> list[int]:
        """Serials of the living replicas."""
        return [process.handle.serial for process in self.runtime.living(name)]

    def settled(self, *names: str) -> bool:
        """Ready, and everything of the present declaration carried out."""
        found = {one["name"]: one for one in self.status()["instances"]}
        return all(
            name in found and found[name]["ready"] and found[name]["observed_generation"] == found[name]["generation"]
            for name in names
        )

    async def ready(self, *names: str) -> None:
        """Until these are ready as declared."""
        await self.until(lambda: self.settled(*names), f"{names} ready")

    def told(self, kind: str | None = None) -> list[str]:
        """Messages of the events so far."""
        return [event.message for event in self.parts.events.since(0) if kind is None or event.kind == kind]

    def dump(self) -> str:
        """For a failing test: what is."""
        lines = [f"{one['name']}: {one['phase']} {one['conditions']}" for one in self.status()["instances"]]
        return "\n".join([*lines, *self.told()[-20:]])
