"""Keeps the one accepted fleet. What is offered is checked whole and then takes its place in one step, or is refused and changes nothing.

Also decides what a change of the file may not do at once: an edit that would stop most of what runs is held while the file stays as it is.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.config.load import load
from reconciler.config.source import Source, SourceFile
from reconciler.control.threads import whole
from reconciler.core.contracts import Backend
from reconciler.core.desired import Desired, Mode, expand
from reconciler.core.errors import Problem, Rejected
from reconciler.core.spec import Fleet
from reconciler.host import store
from reconciler.host.clock import Clock

log = logging.getLogger("llamactl.config")

HOLD_S = 10.0
"""How long a file that stops most instances must stay unchanged before it counts, seconds."""
RECORD_NAME = "fleet.json"
LAST_GOOD_NAME = "last-good.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A valid fleet with everything that follows from it alone."""

    fleet: Fleet
    desired: Mapping[str, Desired]
    meaning: str
    """Digest of everything that matters: comments, order and formatting do not."""
    meanings: Mapping[str, str]
    """The same by instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """One accepted fleet."""

    fleet: Fleet
    desired: Mapping[str, Desired]
    generation: int
    """Rises by one with each accepted change of meaning, over daemon restarts too."""
    generations: Mapping[str, int]
    """By instance: the fleet's generation at which its own meaning last changed."""
    created: Mapping[str, int]
    """By instance: Unix time of its first acceptance, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A valid file that waits because of what it would stop."""

    checked: Checked
    source: Source
    until: float
    """Monotonic seconds."""
    removes: tuple[str, ...]


class Keeper:
    """The accepted fleet and the verdict on the file as it is now."""

    def __init__(
        self,
        *,
        folder: Path,
        backends: Mapping[str, Backend],
        environ: Mapping[str, str],
        clock: Clock,
        transform: Callable[[Fleet], Fleet] | None = None,
    ) -> None:
        self._folder = folder
        self._backends = backends
        self._environ = environ
        self._clock = clock
        self._transform = transform
        self._record: _Record | None = None
        self._unsaved: tuple[_Record, Source] | None = None
        self._writing = asyncio.Lock()
        self.accepted: Accepted | None = None
        self.source: Source | None = None
        """What the accepted fleet was read from."""
        self.problems: tuple[Problem, ...] = ()
        """Why the file as it is now is refused; empty when it is in force."""
        self.held: Held | None = None
        self.write_error: str | None = None
        """Why the last write failed, for status; None when all is written."""

    async def load(self, source: Source) -> Checked:
        """The fleet that a source declares; Rejected with every problem. Off the event loop: a large file takes a while."""
        return await asyncio.to_thread(self._load, source)

    def _load(self, source: Source) -> Checked:
        fleet = load(source, backends=self._backends, environ=self._environ)
        if self._transform is not None:
            fleet = self._transform(fleet)
        desired = expand(fleet, self._backends, self._environ)  # refuses what cannot be launched with the rest
        meanings = {name: _meaning(one) for name, one in desired.items()}
        whole = [fleet.server.model_dump(mode="json"), sorted(meanings.items()), _keys(fleet)]
        return Checked(fleet=fleet, desired=desired, meaning=_digest(whole), meanings=meanings)

    def refuse(self, rejected: Rejected) -> None:
        """The file as it is now cannot be used; what was accepted stays."""
        self.problems = rejected.problems
        self.held = None

    def offer(self, checked: Checked, source: Source, *, running: Collection[str], force: bool = False) -> bool:
        """Accept a checked fleet, or hold it. True when it is in force now (also when its meaning is the one that already is).

        ``running`` are the instances of which something runs; ``force`` accepts whatever it stops.
        """
        self.problems = ()
        removes = self._removals(checked.fleet, running)
        if removes and not force:
            if self.held is None or self.held.source.content_hash != source.content_hash:
                until = self._clock.monotonic() + HOLD_S
                self.held = Held(checked=checked, source=source, until=until, removes=removes)
                log.warning("the file would stop %d running instances; held for %gs", len(removes), HOLD_S)
            return False
        self.held = None
        self._accept(checked, source)
        return True

    def release(self) -> bool:
        """Accept what is held if its time is over."""
        if self.held is None or self._clock.monotonic() < self.held.until:
            return False
        held, self.held = self.held, None
        self._accept(held.checked, held.source)
        return True

    def _removals(self, fleet: Fleet, running: Collection[str]) -> tuple[str, ...]:
        """What it would stop, when that is more than half of what runs as declared, and at least two."""
        wanted = live_modes(self.accepted.desired) if self.accepted is not None else frozenset(running)
        serving = wanted & set(running)
        kept = {name for name, spec in fleet.instances.items() if spec.enabled}
        removes = tuple(sorted(serving - kept))
        return removes if len(removes) >= 2 and 2 * len(removes) > len(serving) else ()

    def _accept(self, checked: Checked, source: Source) -> None:
        before = self._record if self._record is not None else _Record.read(self._folder / RECORD_NAME)
        generation = before.generation if checked.meaning == before.meaning else before.generation + 1
        generations, created = {}, {}
        for name, meaning in checked.meanings.items():
            known = before.instances.get(name)
            generations[name] = known[0] if known and known[1] == meaning else generation
            created[name] = known[2] if known else int(self._clock.now())
        self.accepted = Accepted(
            fleet=checked.fleet,
            desired=checked.desired,
            generation=generation,
            generations=generations,
            created=created,
        )
        self._record = _Record(
            generation,
            checked.meaning,
            {name: (generations[name], meaning, created[name]) for name, meaning in checked.meanings.items()},
        )
        self.source = source
        self._unsaved = (self._record, source)

    @property
    def unsaved(self) -> bool:
        """Whether :meth:`save` has something to do."""
        return self._unsaved is not None

    async def save(self) -> None:
        """Write what was accepted last, in a thread, for a later daemon. What cannot be written is said in status and tried again."""
        async with self._writing:
            latest = self._unsaved
            if latest is None:
                return
            try:
                await whole(self._write, *latest)
            except OSError as error:
                why = f"cannot write to {self._folder}: {error.strerror or error}"
                if self.write_error is None:
                    log.warning("%s (STATE_WRITE_FAILED); trying again", why)
                self.write_error = why
                return
            self.write_error = None
            if self._unsaved is latest:
                self._unsaved = None

    def _write(self, record: _Record, source: Source) -> None:
        record.write(self._folder / RECORD_NAME)
        store.write_json(self._folder / LAST_GOOD_NAME, _remembered(source))

    def last_good(self, path: Path) -> Source | None:
        """The last accepted content of this very file, from an earlier daemon; None when there is none that can be read."""
        try:
            data = store.read_json(self._folder / LAST_GOOD_NAME)
        except OSError as error:
            log.warning("cannot read %s: %s", self._folder / LAST_GOOD_NAME, error.strerror or error)
            return None
        if data is None or data.get("root") != str(path.absolute()):
            return None
        return _recalled(data)


def live_modes(desired: Mapping[str, Desired]) -> frozenset[str]:
    """Names that are not switched off."""
    return frozenset(name for name, one in desired.items() if one.mode is not Mode.DISABLED)


@dataclass(frozen=True, slots=True)
class _Record:
    """What a later daemon must know to count on."""

    generation: int
    meaning: str
    instances: Mapping[str, tuple[int, str, int]]

    @classmethod
    def read(cls, path: Path) -> _Record:
        try:
            data = store.read_json(path)
        except OSError as error:
            log.warning("cannot read %s: %s; counting generations from 1 again", path, error.strerror or error)
            data = None
        if data is None:
            return cls(0, "", {})
        try:
            instances = {str(k): (int(g), str(m), int(c)) for k, (g, m, c) in dict(data["instances"]).items()}  # type: ignore[call-overload]  # checked by the except below
            return cls(int(str(data["generation"])), str(data["meaning"]), instances)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            store.quarantine(path, f"not a record of generations: {error!r}")
            return cls(0, "", {})

    def write(self, path: Path) -> None:
        store.write_json(
            path,
            {
                "generation": self.generation,
                "meaning": self.meaning,
                "instances": {name: list(value) for name, value in self.instances.items()},
            },
        )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _meaning(desired: Desired) -> str:
    return _digest([desired.spec.model_dump(mode="json"), desired.revision])


def _keys(fleet: Fleet) -> list[object]:
    return [
        [key.name, key.digest.hex(), sorted(key.instances) if key.instances is not None else None]
        for key in (*fleet.management_keys, *fleet.inference_keys)
    ]


def _remembered(source: Source) -> dict[str, object]:
    files = {file.name: base64.b64encode(file.data).decode() for file in source.files}
    return {"root": str(source.root.absolute()), "files": files, "content_hash": source.content_hash}


def _recalled(data: Mapping[str, Any]) -> Source | None:
    try:
        files = tuple(SourceFile(name=name, data=base64.b64decode(text)) for name, text in data["files"].items())
        return Source(root=Path(data["root"]), files=files, identity=(), content_hash=str(data["content_hash"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
