"""All replicas this runtime knows of, and what keeps that knowledge true: one connection and one task per replica.

Takes back what earlier daemons left, notices ends at once, and settles what became of a replica whose shim fell silent. It acts on
processes in one case only: leftovers of a dead shim, proven by their token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from reconciler.core.contracts import ExitRecord, Handle
from reconciler.host.carriers import SCAN_PAUSE_S
from reconciler.host.clock import Clock
from reconciler.host.store import quarantine
from reconciler.runtimes._folders import (
    CONTROL,
    PROTOCOL,
    STATE,
    FolderReport,
    Found,
    ShimState,
    boot_id,
    discard,
    look,
    replica_folders,
)
from reconciler.runtimes._launcher import Launcher
from reconciler.runtimes._link import CONNECT_TIMEOUT_S, Link
from reconciler.runtimes._replica import Replica
from reconciler.runtimes._sweep import CLEAN_SCANS, SCAN_LIMIT, kill_carriers

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 15.0
"""Longest wait for what earlier daemons left, seconds; what has not answered then is unknown."""
FIRST_RETRY_S, LAST_RETRY_S = 0.02, 5.0
"""Pauses between attempts to reach a shim that holds its lock and does not answer; doubling."""
UNKNOWN_FROM_S = 0.08
"""A pause of this length says that it is not just a shim on its way out: its replica is unknown from then on."""
BURIAL_PAUSES_S = (0.0, 0.005, 0.02, 0.1, 0.5, 2.0)
"""When to look for the exit status of a shim whose connection closed, seconds one after the other."""


class Following:
    """The one owner of the replicas in memory."""

    def __init__(self, root: Path, *, clock: Clock, launcher: Launcher) -> None:
        """``root`` holds one folder per instance; the launcher buries the shims that end."""
        self._root, self._clock, self._launcher = root, clock, launcher
        self.boot = boot_id()
        self._replicas: dict[tuple[str, int], Replica] = {}
        self._watchers: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._wakes: list[Callable[[], None]] = []

    def __iter__(self) -> Iterator[Replica]:
        """By instance and serial."""
        return (self._replicas[key] for key in sorted(self._replicas))

    def get(self, instance: str, serial: int) -> Replica | None:
        """The replica, if it is known."""
        return self._replicas.get((instance, serial))

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` after every change."""
        self._wakes.append(wake)

    def changed(self) -> None:
        """Tell everybody."""
        for wake in self._wakes:
            wake()

    async def open(self) -> None:
        """Take back what is there; returns when all of it is known or known to be unknown."""
        for folder in replica_folders(self._root):
            self._take_back(folder)
        waits = [asyncio.ensure_future(replica.settled.wait()) for replica in self]
        if waits:
            _, late = await asyncio.wait(waits, timeout=OPEN_TIMEOUT_S)
            for wait in late:
                wait.cancel()

    def _take_back(self, folder: Path) -> None:
        instance, serial = folder.parent.name, int(folder.name)
        try:
            report = look(folder, self.boot)
        except OSError as error:
            logger.warning("cannot read %s: %s; looking again", folder, error)
            report = FolderReport(found=Found.HELD, instance=instance, serial=serial, folder=folder)
        if report.found is Found.NOTHING:
            if not any(folder.iterdir()):
                discard(folder)
            return
        handle = Handle(instance=instance, serial=serial, token=report.token)
        # whatever the file says, nothing is believed before the shim or its exit record has confirmed it
        self.follow(
            Replica(handle=handle, folder=folder, boot=self.boot, state=report.state, adopted=True, unknown=True)
        )

    def follow(self, replica: Replica) -> None:
        """Know the replica from now on."""
        key = (replica.handle.instance, replica.handle.serial)
        self._replicas[key] = replica
        self._watchers[key] = asyncio.create_task(self._watch(replica), name=f"watch {replica.handle.replica}")

    def drop(self, replica: Replica) -> None:
        """Know it no longer."""
        key = (replica.handle.instance, replica.handle.serial)
        self._replicas.pop(key, None)
        self.changed()

    async def close(self) -> None:
        """Let go of all connections; everything runs on."""
        watchers = [watcher for watcher in self._watchers.values() if not watcher.done()]
        for watcher in watchers:
            watcher.cancel()
        if watchers:
            await asyncio.wait(watchers)
        self._watchers.clear()
        for replica in self._replicas.values():
            if replica.link is not None:
                await replica.link.close()
                replica.link = None

    async def _watch(self, replica: Replica) -> None:
        """Keep a connection to the replica's shim until nothing of the replica is left."""
        pause = FIRST_RETRY_S
        while replica.link is not None or not replica.ended:
            if replica.link is not None:
                await replica.link.closed.wait()
                replica.link, pause = None, FIRST_RETRY_S
            elif not await self._look_again(replica):
                if pause >= UNKNOWN_FROM_S:
                    self._unknown(replica)
                await self._clock.sleep(pause)
                pause = min(pause * 2, LAST_RETRY_S)
        replica.settled.set()
        for burial in BURIAL_PAUSES_S:
            await self._clock.sleep(burial)
            if self._launcher.bury():
                break
        key = (replica.handle.instance, replica.handle.serial)
        self._watchers.pop(key, None)

    def _unknown(self, replica: Replica, *problems: str) -> None:
        replica.settled.set()
        if not replica.unknown or (problems and problems != replica.problems):
            replica.unknown, replica.problems = True, problems
            self.changed()

    async def _look_again(self, replica: Replica) -> bool:
        """Find out what became of a replica that we have no connection to; False when that cannot be told now."""
        try:
            report = look(replica.folder, self.boot)
        except OSError as error:
            logger.warning("cannot look at %s: %s", replica.handle.replica, error)
            return False
        match report.found:
            case Found.HELD:
                return await self._connect(replica)
            case Found.ENDED:
                replica.state, replica.unknown = report.state, False
                replica.handle = Handle(instance=report.instance, serial=report.serial, token=report.token)
                self.changed()
                return True
            case Found.REBOOTED:
                self._lose(replica, "the host was restarted over it")
                return True
            case Found.LOST | Found.NOTHING:
                if not await self._sweep(replica):
                    self._unknown(replica, "TREE_KILL_INCOMPLETE")
                    return False
                self._lose(replica, "its supervisor was lost; what was left of it has been killed")
                return True

    def _lose(self, replica: Replica, error: str) -> None:
        asked = replica.state.asked if replica.state is not None else None
        replica.lost = ExitRecord(at=self._clock.now(), monotonic=self._clock.monotonic(), asked=asked, error=error)
        replica.unknown = False
        logger.warning("%s ended: %s", replica.handle.replica, error)
        self.changed()

    async def _sweep(self, replica: Replica) -> bool:
        """Kill what carries the replica's token until several scans in a row find nothing; False when it does not end."""
        token = replica.handle.token
        others = (other for other in self if other is not replica and not other.ended)
        if not token or any(other.handle.token == token for other in others):
            return True  # nothing that could be proven to belong to it
        clean = 0
        for _ in range(SCAN_LIMIT):
            clean = 0 if await asyncio.to_thread(kill_carriers, token) else clean + 1
            if clean == CLEAN_SCANS:
                return True
            await self._clock.sleep(SCAN_PAUSE_S)
        return False

    async def _connect(self, replica: Replica) -> bool:
        """Find the replica's shim by its control socket; False when it is not there or does not answer."""
        try:
            link = await Link.connect(replica.folder / CONTROL, lambda state: self.heard(replica, state))
        except TimeoutError:
            self._unknown(replica)
            return False
        except OSError:
            return False
        try:
            hello = await link.greet(CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError) as error:
            await link.close()
            if isinstance(error, TimeoutError):
                self._unknown(replica)
            return False
        if self.believe(replica, link, hello):
            return True
        await link.close()
        return False

    def believe(self, replica: Replica, link: Link, hello: Mapping[str, object]) -> bool:
        """Take the shim at its word; False when it speaks another language or for another replica."""
        if hello.get("hello") != PROTOCOL:
            self._unknown(replica, "SHIM_PROTOCOL_UNSUPPORTED")
            return False
        try:
            state = ShimState.model_validate(hello.get("state"))
        except ValidationError as error:
            logger.warning("cannot read what the supervisor of %s says: %s", replica.handle.replica, error)
            return False
        if (state.instance, state.serial) != (replica.handle.instance, replica.handle.serial):
            logger.warning("the supervisor in %s speaks for %s#%d", replica.folder, state.instance, state.serial)
            return False
        if replica.handle.token not in ("", state.token):
            quarantine(replica.folder / STATE, "its token is not the supervisor's")
        key = hello.get("api_key")
        replica.handle = Handle(instance=state.instance, serial=state.serial, token=state.token)
        replica.api_key = key if isinstance(key, str) else None
        replica.state, replica.link = state, link
        replica.unknown, replica.problems = False, ()
        replica.settled.set()
        self.changed()
        return True

    def heard(self, replica: Replica, message: Mapping[str, object]) -> None:
        """A state arrived over the connection."""
        try:
            state = ShimState.model_validate(message)
        except ValidationError as error:
            logger.warning("cannot read what the supervisor of %s says: %s", replica.handle.replica, error)
            return
        if state != replica.state and state.token == replica.handle.token:
            replica.state = state
            self.changed()
