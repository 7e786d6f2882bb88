"""The one face of the control room to the server and the proxy: what is, what would be, and the changes that users ask for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from reconciler.config.source import Source, in_memory
from reconciler.control.edits import Edited, Edits, PreconditionFailed
from reconciler.control.keeper import Accepted, Keeper
from reconciler.control.loop import Loop, Parts
from reconciler.control.preview import preview, preview_json
from reconciler.control.publish import SCHEMA_VERSION, Snapshot, Transitions, instance_json, problem_json, routes
from reconciler.control.routes import Routes
from reconciler.control.watch import FileWatch
from reconciler.core.conditions import phase
from reconciler.core.contracts import LogFile
from reconciler.core.desired import Mode
from reconciler.core.errors import Missing, Rejected, Severity
from reconciler.core.observed import World
from reconciler.core.plan import Plan
from reconciler.core.spec import Fleet, OptionValue
from reconciler.host.clock import rfc3339

__all__ = ["Controller", "PreconditionFailed"]

log = logging.getLogger("llamactl.control")

TORN_READ_S = 0.1
"""Pause before a file that does not parse is looked at again, seconds: a writer in the middle of its work gets to finish."""


class Controller:
    """Owns the loop and the watch; everything it answers comes from the last pass."""

    def __init__(self, parts: Parts, *, path: Path, about: Mapping[str, object]) -> None:
        self._parts = parts
        self._path = path
        self._about = about
        self._transitions = Transitions(parts.clock)
        self._snapshot: Snapshot | None = None
        self._routes = Routes()
        self._routes_news = asyncio.Event()
        self._watch = FileWatch(path, parts.clock)
        self.loop = Loop(parts, publish=self._publish)
        self._edits = Edits(path=path, keeper=parts.keeper, accept=self._accept_edit)
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
        async for content in self._watch.changes():
            await self.offer(content)

    async def offer(self, content: Source | Rejected) -> None:
        """Put a content of the file in force, or say why not."""
        keeper = self._parts.keeper
        try:
            if isinstance(content, Rejected):
                raise content
            fleet = await keeper.load(content)
        except Rejected as rejected:
            await self.clock.sleep(TORN_READ_S)
            if not isinstance(content, Rejected) and await self._moved_on(content):
                return
            if rejected.problems != keeper.problems:
                self._say_refused(rejected)
            keeper.refuse(rejected)
        else:
            if keeper.problems:
                self.events.add("config", "the file is valid again")
            keeper.offer(fleet, content, running=self.loop.running())
        self.loop.wake()

    async def _moved_on(self, content: Source) -> bool:
        """Whether the file is no longer the one that was read: its next content is on its way."""
        try:
            return await asyncio.to_thread(self._watch.identity) != content.identity
        except Rejected:
            return False

    def _say_refused(self, rejected: Rejected) -> None:
        for problem in rejected.problems:
            log.error("%s", problem)
        first = rejected.problems[0]
        more = f" (and {len(rejected.problems) - 1} more)" if len(rejected.problems) > 1 else ""
        self.events.add("config", f"the file is refused, the last good one stays: {first}{more}")

    def _accept_edit(self, fleet: Fleet, content: Source) -> None:
        self._parts.keeper.offer(fleet, content, running=self.loop.running(), force=True)
        self.loop.wake()

    def look(self) -> None:
        """Look at the file now."""
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
        self._transitions.keep_only(frozenset(snapshot.names()))
        now = routes(snapshot, self.leases)
        if now != self._routes:
            self._routes = now
            news, self._routes_news = self._routes_news, asyncio.Event()
            news.set()

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
    def generation(self) -> int:
        """Of the accepted fleet; 0 before there is one."""
        accepted = self._parts.keeper.accepted
        return accepted.generation if accepted is not None else 0

    def status(self) -> dict[str, object]:
        """The whole status."""
        snapshot = self._snapshot
        instances = [self._instance(name) for name in snapshot.names()] if snapshot is not None else []
        settled = snapshot is not None and all(snapshot.situation(name).settled for name in snapshot.names())
        current = settled and snapshot is not None and snapshot.accepted.generation == self.generation
        return {
            "schema_version": SCHEMA_VERSION,
            "generation": self.generation,
            "observed_generation": self.generation if current else max(0, self.generation - 1),
            "config": self._config_json(),
            "daemon": dict(self._about),
            "instances": instances,
        }

    def _config_json(self) -> dict[str, object]:
        keeper = self._parts.keeper
        accepted, held = keeper.accepted, keeper.held
        errors = [problem for problem in keeper.problems if problem.severity is Severity.ERROR]
        warnings = accepted.fleet.warnings if accepted is not None and not errors else ()
        return {
            "valid": not errors,
            "file": str(self._path),
            "problems": [problem_json(problem) for problem in (*keeper.problems, *warnings)],
            "hash": accepted.fleet.content_hash if accepted is not None else None,
            "held": None
            if held is None
            else {
                "until": rfc3339(self.clock.now() + held.until - self.clock.monotonic()),
                "removes": list(held.removes),
                "reason": "the file would stop most of what runs; it counts if it stays as it is until then",
            },
            "write_errors": [e for e in (keeper.write_error, self._parts.histories.write_error) if e is not None],
        }

    def _instance(self, name: str) -> dict[str, object]:
        assert self._snapshot is not None
        return instance_json(self._snapshot, name, self.clock, self._transitions)

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
        waiting = [
            name
            for name, one in snapshot.accepted.desired.items()
            if one.mode is Mode.RUNNING and not snapshot.situation(name).ready
        ]
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
        accepted = keeper.accepted
        content = await self._content(text)
        fleet = await keeper.load(content)
        after = keeper.desired(fleet)
        changes, steps = preview(
            accepted.desired if accepted is not None else {},
            after,
            self.loop.world() if accepted is not None else World(),
            now=self.clock.monotonic(),
            limit=fleet.server.max_parallel_replacements,
        )
        return preview_json(changes, steps, after) | {"warnings": [problem_json(p) for p in fleet.warnings]}

    async def _content(self, text: bytes | None) -> Source:
        if text is None:
            return await asyncio.to_thread(self._watch.read)
        return in_memory(Path("<request>"), {"<request>": text})

    async def apply(self, text: bytes, *, if_match: str | None) -> dict[str, object]:
        """Make ``text`` the file and put it in force."""
        before = self._parts.keeper.accepted
        edited = await self._edits.apply(text, if_match=if_match)
        after = self._parts.keeper.accepted
        assert after is not None
        return {
            "generation": after.generation,
            "etag": edited.etag,
            "changed": _changed(before, after),
            "removed": sorted(set(before.desired if before else ()) - set(after.desired)),
            "warnings": [problem_json(problem) for problem in edited.after.warnings],
        }

    async def create(self, name: str, body: Mapping[str, OptionValue]) -> dict[str, object]:
        """Declare a new instance."""
        return await self._after(name, await self._edits.create(name, body))

    async def replace(self, name: str, body: Mapping[str, OptionValue]) -> dict[str, object]:
        """Declare an existing instance anew."""
        return await self._after(name, await self._edits.replace(name, body))

    async def delete(self, name: str) -> dict[str, object]:
        """Take an instance out of the file."""
        await self._edits.delete(name)
        return {"name": name, "removed": True}

    async def set_enabled(self, name: str, enabled: bool) -> dict[str, object]:
        """Switch an instance on or off."""
        return await self._after(name, await self._edits.set_enabled(name, enabled))

    async def restart(self, name: str) -> dict[str, object]:
        """Replace the running processes of an instance by its update strategy."""
        self.instance(name)
        self.loop.request_restart(name)
        await self._next_pass()
        return self._instance(name)

    async def _after(self, name: str, edited: Edited) -> dict[str, object]:
        del edited  # what counts is what the next pass makes of it
        await self._next_pass()
        return self.instance(name)

    async def _next_pass(self) -> None:
        """Until the loop has seen the change."""
        await self.loop.passed(after=self.loop.passes)


def _changed(before: Accepted | None, after: Accepted) -> list[str]:
    """Names whose own meaning is new in this generation."""
    old = before.generations if before is not None else {}
    return sorted(name for name, generation in after.generations.items() if old.get(name) != generation)


def plan_against_nothing(keeper: Keeper, fleet: Fleet) -> dict[str, object]:
    """The plan for an empty host."""
    after = keeper.desired(fleet)
    changes, steps = preview({}, after, World(), now=0.0, limit=fleet.server.max_parallel_replacements)
    return preview_json(changes, steps, after) | {"warnings": [asdict(problem) for problem in fleet.warnings]}
