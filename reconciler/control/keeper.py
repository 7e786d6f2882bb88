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
from reconciler.core.contracts import Backend
from reconciler.core.desired import Desired, Mode, expand
from reconciler.core.errors import Problem, Rejected
from reconciler.core.spec import Fleet
from reconciler.host import store
from reconciler.host.clock import Clock

log = logging.getLogger("llamactl.config")

HOLD_S = 10.0
"""How long a file that stops most instances must stay unchanged before it counts, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """One accepted fleet with everything that follows from it alone."""

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

    fleet: Fleet
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
        self.accepted: Accepted | None = None
        self.problems: tuple[Problem, ...] = ()
        """Why the file as it is now is refused; empty when it is in force."""
        self.held: Held | None = None
        self.write_error: str | None = None

    async def load(self, source: Source) -> Fleet:
        """The fleet that a source declares; Rejected with every problem. Off the event loop: a large file takes a while."""
        return await asyncio.to_thread(self._load, source)

    def _load(self, source: Source) -> Fleet:
        fleet = load(source, backends=self._backends, environ=self._environ)
        if self._transform is not None:
            fleet = self._transform(fleet)
        self.desired(fleet)  # what cannot be launched (an executable that cannot be split) is refused with the rest
        return fleet

    def desired(self, fleet: Fleet) -> dict[str, Desired]:
        """Every declared instance, expanded."""
        return expand(fleet, self._backends, self._environ)

    def refuse(self, rejected: Rejected) -> None:
        """The file as it is now cannot be used; what was accepted stays."""
        self.problems = rejected.problems
        self.held = None

    def offer(self, fleet: Fleet, source: Source, *, running: Collection[str], force: bool = False) -> bool:
        """Accept a checked fleet, or hold it. True when it is in force now (also when its meaning is the one that already is)."""
        self.problems = ()
        removes = self._removals(fleet, running)
        if removes and not force:
            if self.held is None or self.held.source.content_hash != source.content_hash:
                self.held = Held(fleet=fleet, source=source, until=self._clock.monotonic() + HOLD_S, removes=removes)
                log.warning(
                    "the file would stop %d of %d running instances; held for %gs", len(removes), len(running), HOLD_S
                )
            return False
        self.held = None
        self._accept(fleet, source)
        return True

    def release(self) -> bool:
        """Accept what is held if its time is over."""
        if self.held is None or self._clock.monotonic() < self.held.until:
            return False
        held, self.held = self.held, None
        self._accept(held.fleet, held.source)
        return True

    def _removals(self, fleet: Fleet, running: Collection[str]) -> tuple[str, ...]:
        kept = {name for name, spec in fleet.instances.items() if spec.enabled}
        removes = tuple(sorted(set(running) - kept))
        return removes if len(removes) >= 2 and 2 * len(removes) > len(running) else ()

    def _accept(self, fleet: Fleet, source: Source) -> None:
        desired = self.desired(fleet)
        record = _Record.read(self._folder / "fleet.json")
        meanings = {name: _meaning(one) for name, one in desired.items()}
        whole = _digest([fleet.server.model_dump(mode="json"), sorted(meanings.items()), _keys(fleet)])
        generation = record.generation if whole == record.meaning else record.generation + 1
        generations, created = {}, {}
        for name, meaning in meanings.items():
            known = record.instances.get(name)
            generations[name] = known[0] if known and known[1] == meaning else generation
            created[name] = known[2] if known else int(self._clock.now())
        self.accepted = Accepted(
            fleet=fleet, desired=desired, generation=generation, generations=generations, created=created
        )
        after = _Record(generation, whole, {n: (generations[n], meanings[n], created[n]) for n in meanings})
        try:
            after.write(self._folder / "fleet.json")
            store.write_json(self._folder / "last-good.json", _remembered(source))
            self.write_error = None
        except OSError as error:
            self.write_error = f"cannot write to {self._folder}: {error.strerror or error}"
            log.warning("%s", self.write_error)

    def last_good(self, path: Path) -> Source | None:
        """The last accepted content of this very file, from an earlier daemon."""
        data = store.read_json(self._folder / "last-good.json")
        if data is None or data.get("root") != str(path.absolute()):
            return None
        return _recalled(data)


def has_changed(before: Accepted | None, after: Accepted) -> bool:
    """Whether the meaning changed."""
    return before is None or before.generation != after.generation


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
        data = store.read_json(path)
        if data is None:
            return cls(0, "", {})
        try:
            instances = {str(k): (int(g), str(m), int(c)) for k, (g, m, c) in dict(data["instances"]).items()}  # type: ignore[call-overload]  # checked by the except below
            return cls(int(str(data["generation"])), str(data["meaning"]), instances)
        except (KeyError, TypeError, ValueError) as error:
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
