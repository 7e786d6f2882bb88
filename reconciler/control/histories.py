"""Keeps each instance's ``History`` over daemon restarts, one small file per instance in the state folder.

Kept in memory, written by :meth:`Histories.save` off the event loop, whole or not at all. Monotonic times are stored beside the boot
they belong to, so that a restart of the daemon keeps a backoff and a reboot of the host forgets it. The file holds declared
environment values: it is private (0600).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reconciler.control.threads import whole
from reconciler.core.contracts import ExitRecord, Launch
from reconciler.core.observed import Failures, History
from reconciler.host import store

log = logging.getLogger("llamactl.histories")


class Histories:
    """All histories in memory, mirrored to ``folder``."""

    def __init__(self, folder: Path, *, boot: str) -> None:
        self._folder = folder
        self._boot = boot
        self._known: dict[str, History] = {}
        self._unsaved: set[str] = set()
        self._writing = asyncio.Lock()
        self.write_error: str | None = None
        """Why the last write failed, for status; None when all could be written."""

    def open(self) -> None:
        """Read what earlier daemons left; unreadable files are put aside and said. OSError when there can be no folder."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self._folder.glob("*.json")):
            try:
                data = store.read_json(path)
            except OSError as error:
                log.warning("cannot read %s: %s; counted as absent", path, error.strerror or error)
                continue
            if data is None:
                continue
            try:
                self._known[str(data["instance"])] = _from_json(data, same_boot=data.get("boot") == self._boot)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                store.quarantine(path, f"not a history: {error!r}")

    def all(self) -> Mapping[str, History]:
        """By instance; a snapshot."""
        return dict(self._known)

    def get(self, name: str) -> History:
        """The instance's history, empty when there is none."""
        return self._known.get(name) or History()

    def put(self, name: str, history: History) -> None:
        """Remember; :meth:`save` writes it."""
        if self._known.get(name) != history:
            self._known[name] = history
            self._unsaved.add(name)

    def drop(self, name: str) -> None:
        """The instance is gone for good."""
        if self._known.pop(name, None) is not None:
            self._unsaved.add(name)

    @property
    def unsaved(self) -> bool:
        """Whether :meth:`save` has something to do."""
        return bool(self._unsaved)

    async def save(self, name: str | None = None) -> None:
        """Write what changed, of one instance or of all, in a thread. What cannot be written is said in status and tried again."""
        async with self._writing:
            failed = False
            for one in sorted(self._unsaved if name is None else self._unsaved & {name}):
                history = self._known.get(one)
                try:
                    await whole(self._write, one, history)
                except (OSError, TypeError, ValueError) as error:  # the latter: something in it is not data
                    failed = True
                    why = (error.strerror if isinstance(error, OSError) else None) or error
                    self._failed(f"cannot write {self._folder / one}.json: {why}")
                    continue
                if self._known.get(one) is history:
                    self._unsaved.discard(one)
            if not failed and not self._unsaved:
                self.write_error = None

    def _failed(self, why: str) -> None:
        if self.write_error is None:
            log.warning("%s (STATE_WRITE_FAILED); trying again", why)
        self.write_error = why

    def _write(self, name: str, history: History | None) -> None:
        path = self._folder / f"{name}.json"
        if history is None:
            path.unlink(missing_ok=True)
        else:
            store.write_json(path, _to_json(name, history, boot=self._boot))


def _to_json(name: str, history: History, *, boot: str) -> dict[str, object]:
    return {
        "version": 1,
        "instance": name,
        "boot": boot,
        "next_serial": history.next_serial,
        "failures": {revision: asdict(failures) for revision, failures in history.failures.items()},
        "restarts": history.restarts,
        "last_exit": asdict(history.last_exit) if history.last_exit is not None else None,
        "good": history.good.as_json() if history.good is not None else None,
        "restart_requested_at": history.restart_requested_at,
        "port": history.port,
    }


def _from_json(data: Mapping[str, Any], *, same_boot: bool) -> History:
    last_exit = data["last_exit"]
    failures = {str(revision): Failures(**value) for revision, value in data["failures"].items()} if same_boot else {}
    return History(
        next_serial=int(data["next_serial"]),
        failures=failures,
        restarts=int(data["restarts"]),
        last_exit=ExitRecord(**{**last_exit, "log_tail": tuple(last_exit["log_tail"])}) if last_exit else None,
        good=Launch.from_json(data["good"]) if data["good"] else None,
        restart_requested_at=data["restart_requested_at"] if same_boot else None,
        port=data["port"],
    )
