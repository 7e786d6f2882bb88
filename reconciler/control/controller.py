"""The one face of the control room to the server and the proxy: what is, what would be, and the changes that users ask for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from reconciler.config.source import Source, in_memory, read
from reconciler.control.edits import Edits, PreconditionFailed
from reconciler.control.keeper import HOLD_S, Accepted, Checked
from reconciler.control.loop import Loop, Parts
from reconciler.control.preview import not_listening, preview, preview_json, section_changes
from reconciler.control.publish import (
    SCHEMA_VERSION,
    Snapshot,
    Transitions,
    instance_json,
    routes,
    unknown_json,
)
from reconciler.control.routes import Routes
from reconciler.control.watch import FileWatch, Pace, Seen
from reconciler.core.conditions import phase
from reconciler.core.contracts import LogFile
from reconciler.core.desired import Mode
from reconciler.core.errors import Conflict, Missing, Problem, Rejected, Severity
from reconciler.core.observed import World
from reconciler.core.plan import Plan
from reconciler.core.spec import BackendsSpec, Fleet, OptionValue, ServerSpec
from reconciler.host.clock import rfc3339

__all__ = ["Controller", "PreconditionFailed"]

log = logging.getLogger("llamactl.control")

TORN_READ_S = 0.1
"""Pause before a file that does not parse is looked at again, seconds: a writer in the middle of its work gets to finish."""


class Controller:
    """Owns the loop and the watch; everything it answers comes from the last pass."""

    def __init__(
        self,
        parts: Parts,
        *,
        path: Path,
        about: Mapping[str, object],
        bound: tuple[str, int] | None = None,
        pace: Pace | None = None,
    ) -> None:
        """``bound`` is the host and port that the daemon listens on; None where nothing listens."""
        self._parts = parts
        self._path = path
        self._about = about
        self._bound = bound
        self._told_elsewhere: tuple[str, int] | None = None
        self._snapshot: Snapshot | None = None
        self._judged: Seen | None = None
        self._routes = Routes()
        self._routes_news = asyncio.Event()
        self._watch = FileWatch(path, parts.clock, pace if pace is not None else Pace(), whole=parts.keeper.source)
        self.loop = Loop(parts, publish=self._publish)
        self._transitions = Transitions(parts.clock, self.loop.faults)
        self._edits = Edits(path=path, keeper=parts.keeper, accept=self._accept_edit, refuse=self._refuse)
        self.clock = parts.clock
        self.events = parts.events
        self.leases = parts.leases
        self.backends = parts.backends

    def open(self) -> None:
        """Publish what is known before the first pass: the accepted fleet's names and keys."""
        accepted = self._parts.keeper.accepted
        assert accepted is not None, "the first fleet is accepted before the daemon serves"
        self._publish(Snapshot(accepted=accepted, world=self.loop.world(), plan=Plan(), external={}, faults={}))

    # ---- running ------------------------------------------------------------------------------------------------

    async def follow_file(self) -> None:
        """Offer each content of the file to the keeper, until cancelled."""
        async with contextlib.aclosing(self._watch.changes()) as changes:
            async for seen in changes:
                await self.offer(seen)

    async def offer(self, seen: Seen) -> None:
        """Put a content of the file in force, or say why not; one that the file does not have any more is passed over."""
        verdict = await self._verdict(seen.content)
        if isinstance(verdict, Rejected):
            await self.clock.sleep(TORN_READ_S)
        async with self._edits.lock:  # edits of our own wait meanwhile
            if not await asyncio.to_thread(self._watch.is_current, seen):
                self._watch.nudge()  # its next content is on its way, or was written by an edit of ours
            elif isinstance(verdict, Rejected):
                self._refuse(verdict)
                self._judged = seen
            else:
                self._offer(*verdict, force=False)
                self._judged = seen
        self.loop.wake()

    async def _verdict(self, content: Source | Rejected) -> tuple[Checked, Source] | Rejected:
        if isinstance(content, Rejected):
            return content
        try:
            return await self._parts.keeper.load(content), content
        except Rejected as rejected:
            return rejected

    def _refuse(self, rejected: Rejected) -> None:
        keeper = self._parts.keeper
        if rejected.problems != keeper.problems:
            self._say_refused(rejected)
        keeper.refuse(rejected)

    def _offer(self, checked: Checked, source: Source, *, force: bool) -> None:
        keeper = self._parts.keeper
        was_refused, was_held = bool(keeper.problems), keeper.held
        in_force = keeper.offer(checked, source, running=self.loop.running(), force=force)
        if was_refused:
            self.events.add("config", "the file is valid again")
        held = keeper.held
        if not in_force and held is not None and held is not was_held:
            self.events.add("config", f"the file is held for {HOLD_S:g}s: it would stop {', '.join(held.removes)}")
        elif in_force and was_held is not None:
            self.events.add("config", "the file is not held any more")

    def _say_refused(self, rejected: Rejected) -> None:
        for problem in rejected.problems:
            log.error("%s", problem)
        first = rejected.problems[0]
        more = f" (and {len(rejected.problems) - 1} more)" if len(rejected.problems) > 1 else ""
        self.events.add("config", f"the file is refused, the last good one stays: {first}{more}")

    def _accept_edit(self, checked: Checked, content: Source, force: bool) -> None:
        self._offer(checked, content, force=force)
        self._judged = Seen(identity=(), content=content)
        self.loop.wake()

    def look(self) -> None:
        """Look at the file now, and at the key files that it names."""
        self._watch.look()

    def begin_down(self) -> int:
        """Stop everything; the daemon ends when nothing is left. Answers how many instances run."""
        count = len(self.loop.running())
        self.events.add("daemon", f"everything is being stopped: {count} instances run")
        self.loop.end()
        return count

    # ---- telling ------------------------------------------------------------------------------------------------

    def _publish(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._transitions.record(snapshot)
        self._say_elsewhere(snapshot.accepted.fleet.server)
        now = routes(snapshot, self._routes, self.loop.faults)
        if now != self._routes:
            self._routes = now
            news, self._routes_news = self._routes_news, asyncio.Event()
            news.set()

    def _say_elsewhere(self, server: ServerSpec) -> None:
        wanted = (server.host, server.port)
        if wanted != self._told_elsewhere:
            self._told_elsewhere = wanted
            for problem in not_listening(self._bound, server, self._path):
                log.warning("%s", problem)

    @property
    def routes(self) -> Routes:
        """What the proxy may know, as of the last pass."""
        return self._routes

    async def routes_changed(self, seen: Routes, timeout: float) -> Routes:  # noqa: ASYNC109  # it is asyncio.timeout, named for the reader
        """Return as soon as the routes are not ``seen``; TimeoutError after ``timeout`` seconds."""
        async with asyncio.timeout(timeout):
            while self._routes is seen:
                await self._routes_news.wait()
        return self._routes

    @property
    def programs(self) -> BackendsSpec:
        """The accepted fleet's programs; the defaults before there is one."""
        accepted = self._parts.keeper.accepted
        return accepted.fleet.backends if accepted is not None else BackendsSpec()

    @property
    def generation(self) -> int:
        """Of the accepted fleet; 0 before there is one."""
        accepted = self._parts.keeper.accepted
        return accepted.generation if accepted is not None else 0

    def status(self) -> dict[str, object]:
        """The whole status."""
        snapshot = self._snapshot
        instances = [self._instance(name) for name in snapshot.names()] if snapshot is not None else []
        return {
            "schema_version": SCHEMA_VERSION,
            "generation": self.generation,
            "observed_generation": self._transitions.carried_out,
            "config": self._config_json(),
            "daemon": dict(self._about),
            "instances": instances,
        }

    async def file_pending(self) -> bool:
        """Whether the file holds what :meth:`status` does not tell of yet: a save not judged yet, or judged after the last pass."""
        snapshot, judged = self._snapshot, self._judged
        accepted = self._parts.keeper.accepted
        if judged is None or snapshot is None or accepted is None or snapshot.accepted.fleet is not accepted.fleet:
            return True
        return not await asyncio.to_thread(self._watch.is_current, judged)

    def _config_json(self) -> dict[str, object]:
        keeper = self._parts.keeper
        accepted, held = keeper.accepted, keeper.held
        errors = [problem for problem in keeper.problems if problem.severity is Severity.ERROR]
        warnings: tuple[Problem, ...] = ()
        if accepted is not None:
            own = accepted.fleet.warnings if not errors else ()
            warnings = (*own, *not_listening(self._bound, accepted.fleet.server, self._path))
        return {
            "valid": not errors,
            "file": str(self._path),
            "problems": [problem.as_json() for problem in (*keeper.problems, *warnings)],
            "hash": accepted.fleet.content_hash if accepted is not None else None,
            "held": None
            if held is None
            else {
                "until": rfc3339(self.clock.now() + held.until - self.clock.monotonic()),
                "removes": list(held.removes),
                "reason": "the file would stop most of what runs; it counts if it stays as it is until then",
            },
            "watch_error": self._watch.error,
            "write_errors": self.loop.books.errors(),
        }

    def _instance(self, name: str) -> dict[str, object]:
        assert self._snapshot is not None
        tell = partial(instance_json, self._snapshot, name, self.clock, self._transitions)
        told = self.loop.faults.attempt(name, "telling its status", tell, None)
        fault = self.loop.faults.by_instance().get(name)
        if told is None:
            return unknown_json(name, self.generation, fault or "")
        return told | {"fault": fault} if fault is not None else told

    def instance(self, name: str) -> dict[str, object]:
        """The status of one instance."""
        if self._snapshot is None or name not in self._snapshot.names():
            raise Missing(f"there is no instance {name}")
        return self._instance(name)

    def ready_report(self) -> tuple[bool, list[str]]:
        """Whether every ``running`` instance is ready, and the names of those that are not."""
        snapshot = self._snapshot
        if snapshot is None:
            return False, []
        wanted = [name for name, one in snapshot.accepted.desired.items() if one.mode is Mode.RUNNING]
        ready = partial(_is_ready, snapshot)
        attempt = self.loop.faults.attempt
        waiting = [name for name in wanted if not attempt(name, "telling its readiness", partial(ready, name), False)]
        return not waiting and not self.loop.ending, waiting

    def phase_of(self, name: str) -> str:
        """The instance's phase."""
        if self._snapshot is None or name not in self._snapshot.names():
            raise Missing(f"there is no instance {name}")
        return phase(self._snapshot.situation(name)).value

    def logs(self, name: str) -> Sequence[LogFile]:
        """Log files of an instance, oldest first."""
        files = self._parts.runtime.logs(name)
        if not files and (self._snapshot is None or name not in self._snapshot.names()):
            raise Missing(f"there is no instance {name}")
        return files

    # ---- changing -----------------------------------------------------------------------------------------------

    async def config(self) -> tuple[bytes, str]:
        """The file's bytes and their ETag."""
        return await self._edits.text()

    async def plan(self, text: bytes | None) -> dict[str, object]:
        """What a text, or the file as it is now, would change."""
        keeper = self._parts.keeper
        after = await keeper.load(await self._content(text))
        accepted = keeper.accepted
        changes, steps = await asyncio.to_thread(
            preview,
            accepted.desired if accepted is not None else {},
            after.desired,
            self.loop.world() if accepted is not None else World(),
            now=self.clock.monotonic(),
            limit=after.fleet.server.max_parallel_replacements,
        )
        settings = section_changes(accepted.fleet, after.fleet) if accepted is not None else ()
        answer = preview_json((*settings, *changes), steps, after.desired, meaning=after.meaning)
        return answer | {"warnings": self._warnings(after.fleet)}

    def _warnings(self, fleet: Fleet) -> Sequence[Mapping[str, object]]:
        problems = (*fleet.warnings, *not_listening(self._bound, fleet.server, self._path))
        return [problem.as_json() for problem in problems]

    async def _content(self, text: bytes | None) -> Source:
        if text is None:
            return await asyncio.to_thread(read, self._path)
        return in_memory(self._path, {"<request>": text})

    async def apply(self, text: bytes, *, if_match: str | None) -> dict[str, object]:
        """Make ``text`` the file and put it in force."""
        before = self._parts.keeper.accepted
        edited = await self._edits.apply(text, if_match=if_match)
        after = self._parts.keeper.accepted
        assert after is not None
        await self.loop.passed()
        return {
            "generation": after.generation,
            "etag": edited.etag,
            "changed": _changed(before, after),
            "removed": sorted(set(before.desired if before else ()) - set(after.desired)),
            "settings": [change.scope for change in section_changes(before.fleet, after.fleet)] if before else [],
            "warnings": self._warnings(edited.after),
        }

    async def create(self, name: str, body: Mapping[str, OptionValue]) -> dict[str, object]:
        """Declare a new instance."""
        await self._edits.create(name, body)
        return await self._after(name)

    async def replace(self, name: str, body: Mapping[str, OptionValue]) -> dict[str, object]:
        """Declare an existing instance anew."""
        await self._edits.replace(name, body)
        return await self._after(name)

    async def delete(self, name: str) -> dict[str, object]:
        """Take an instance out of the file."""
        await self._edits.delete(name)
        await self.loop.passed()
        return {"name": name, "removed": True}

    async def set_enabled(self, name: str, enabled: bool) -> dict[str, object]:
        """Switch an instance on or off."""
        await self._edits.set_enabled(name, enabled)
        return await self._after(name)

    async def restart(self, name: str) -> dict[str, object]:
        """Replace the running processes of an instance by its update strategy; Conflict where there can be none."""
        accepted = self._parts.keeper.accepted
        desired = accepted.desired.get(name) if accepted is not None else None
        if desired is None:
            raise Missing(f"there is no instance {name}")
        if desired.launch is None:
            raise Conflict(f"cannot restart {name}: it is external and not ours to start")
        if desired.mode is Mode.DISABLED:
            raise Conflict(f"cannot restart {name}: it is switched off (enabled: false); start it instead")
        self.loop.request_restart(name)
        return await self._after(name)

    async def _after(self, name: str) -> dict[str, object]:
        """The instance's status once the loop has seen the change."""
        await self.loop.passed()
        return self.instance(name)


def _is_ready(snapshot: Snapshot, name: str) -> bool:
    return snapshot.situation(name).ready


def _changed(before: Accepted | None, after: Accepted) -> list[str]:
    """Names whose own meaning is new in this generation."""
    old = before.generations if before is not None else {}
    return sorted(name for name, generation in after.generations.items() if old.get(name) != generation)
