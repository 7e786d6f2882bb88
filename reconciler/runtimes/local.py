"""Backends as processes of this host, each under a shim of its own that outlives the daemon.

The runtime answers from memory and decides nothing. Identity is the shim's lock and token: no pid that was read from a file is ever
signalled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGKILL

from reconciler.core.contracts import Handle, LogFile, ReplicaFacts, StartOrder
from reconciler.core.errors import Conflict, LlamactlError, Missing, Terminal, Transient
from reconciler.host.clock import Clock
from reconciler.runtimes._environment import backend_environment, find_executable
from reconciler.runtimes._folders import PROTOCOL, discard, folder_id, log_file, retire, serial_folders
from reconciler.runtimes._following import BURIAL_PAUSES_S, Following
from reconciler.runtimes._launcher import Launcher, ShimProcess
from reconciler.runtimes._link import Link
from reconciler.runtimes._ports import bindable, first_free, holder
from reconciler.runtimes._replica import Replica

logger = logging.getLogger("llamactl.runtime")

LOG_BYTES = 10 * 1024 * 1024
"""A log file is rotated at this size: a vLLM start prints under 1 MB, so a part holds days of ordinary life."""
LOG_FILES = 3
"""Parts kept per replica: at most 30 MiB each."""
START_TIMEOUT_S = 10.0
"""From the order to the shim's answer, seconds; milliseconds when measured. A later answer counts as unknown until it comes."""
SPARE_AFTER_S = 0.3
"""A new spare shim is made this long after a start, so that it does not compete with the backend's own first moments."""
_EXIT_SPEC, _EXIT_LOCKED, _EXIT_SETUP, _EXIT_PORT = 2, 3, 4, 5
"""Exit codes of a shim that started nothing."""


PORT_ATTEMPTS = 16
"""Ports that are tried in one start when other daemons of the host were quicker; each attempt takes milliseconds."""

STOP_PATIENCE = 2
"""Stop requests without an answer after which a shim is ended itself; each waits 5 s, and a live shim answers in a millisecond."""
PORT_PAUSE_S = 0.02
PORT_PATIENCE = 25
"""A pinned or preferred port is asked for so often, so many seconds apart: a supervisor is gone milliseconds after its backend."""


class _PortPromised(Transient):
    """Another daemon was quicker with this port."""


class LocalRuntime:
    """``Runtime`` for processes of this host. ``state`` is the state folder, whose one-daemon lock the caller holds."""

    def __init__(
        self,
        state: Path,
        *,
        clock: Clock,
        environ: Mapping[str, str],
        working_directory: Path | None = None,
        log_bytes: int = LOG_BYTES,
        log_files: int = LOG_FILES,
    ) -> None:
        """``environ`` is the daemon's own; ``working_directory`` is for launches that name none (the daemon's current one)."""
        self._root = state.absolute() / "replicas"
        self._clock, self._environ = clock, dict(environ)
        self._directory = str(working_directory if working_directory is not None else Path.cwd())
        self._log_bytes, self._log_files = log_bytes, log_files
        self._launcher = Launcher(environ)
        self._replicas = Following(self._root, clock=clock, launcher=self._launcher)
        self._promised: set[int] = set()
        self._spare_timer: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Take back what earlier daemons left; OSError when the folder cannot be used."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._replicas.open()
        self._launcher.prepare()

    async def close(self) -> None:
        """Let go; everything runs on."""
        if self._spare_timer is not None:
            self._spare_timer.cancel()
        await self._replicas.close()
        spare = self._launcher.release_spare()
        if spare is not None and await self._ending(spare) is None:
            self._launcher.end(spare)
        self._launcher.bury()

    async def _ending(self, pid: int) -> int | None:
        """A shim's exit code, waited for with patience; None when it lives on."""
        for pause in BURIAL_PAUSES_S:
            await self._clock.sleep(pause)
            code = self._launcher.ending(pid)
            if code is not None:
                return code
        return None

    def observe(self) -> Sequence[ReplicaFacts]:
        """All replicas, from memory."""
        return tuple(replica.facts() for replica in self._replicas)

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` after every change."""
        self._replicas.subscribe(wake)

    # -- actions

    async def start(self, order: StartOrder) -> ReplicaFacts:
        """Start one replica. A program that cannot be run is not an error here: the facts are those of an exited replica."""
        handle = order.handle
        folder = self._root / handle.instance / str(handle.serial)
        if self._replicas.get(handle.instance, handle.serial) is not None or folder.exists():
            raise Conflict(f"cannot start {handle.replica}: it exists already")
        refused: set[int] = set()
        patience = PORT_PATIENCE
        while True:
            port = await self._choose_port(order, refused)
            self._promised.add(port)
            try:
                shim, spec = self._prepare(order, folder, port)
                return await self._launch(order, folder, shim, spec)
            except _PortPromised:
                if port in (order.launch.port, order.preferred_port) and patience > 0:
                    patience -= 1  # its own predecessor may be on its last breath
                    await self._clock.sleep(PORT_PAUSE_S)
                    continue
                refused.add(port)
                if order.launch.port is not None or len(refused) >= PORT_ATTEMPTS:
                    raise
            finally:
                self._promised.discard(port)

    async def _choose_port(self, order: StartOrder, refused: set[int]) -> int:
        used = {port: replica for replica in self._replicas if (port := replica.port()) is not None}
        launch = order.launch
        if launch.port is None:
            avoid = {*used, *self._promised, *order.avoid_ports, *refused}
            return first_free(launch.host, order.ports, preferred=order.preferred_port, avoid=avoid)
        by = f"cannot start {order.handle.replica}: port {launch.port} is in use by"
        if launch.port in used:
            raise Transient(f"{by} {used[launch.port].handle.replica}, which is still there")
        if launch.port in self._promised:
            raise Transient(f"{by} another instance that is starting")
        if not bindable(launch.host, launch.port):
            who = await holder(launch.port)
            raise Transient(f"{by} {who}, which is not ours; try another port, or stop that one")
        return launch.port

    def _spec(self, order: StartOrder, folder: Path, port: int) -> dict[str, object]:
        """Everything the shim has to know. Terminal when no process could ever be started so."""
        launch, handle = order.launch, order.handle
        environment = backend_environment(self._environ, launch, keys=order.key_environment, token=handle.token)
        argv = order.command(launch.host, port)
        if not argv or not argv[0] or any("\0" in word for word in (*argv, *environment, *environment.values())):
            raise Terminal(f"cannot start {handle.replica}: an empty command, or a NUL character in it")
        if bad := [name for name in environment if not name or "=" in name]:
            raise Terminal(f"cannot start {handle.replica}: {bad[0]!r} cannot be the name of a variable")
        directory = os.path.join(self._directory, launch.working_directory or "")
        executable = find_executable(argv[0], environment=environment, directory=directory)
        refused = None
        if executable is None:
            where = environment.get("PATH", os.defpath)
            refused = (
                f"cannot run {argv[0]}: not found in PATH ({where}); try installing it, or its whole path as executable"
            )
        return {
            "version": PROTOCOL,
            "folder": str(folder),
            "folder_id": folder_id(folder),
            "token": handle.token,
            "boot": self._replicas.boot,
            "instance": handle.instance,
            "serial": handle.serial,
            "revision": order.revision,
            "host": launch.host,
            "port": port,
            "served_model": launch.served_model,
            "argv": list(argv),
            "executable": executable,
            "refused": refused,
            "environment": environment,
            "cwd": directory,
            "api_key": order.api_key,
            "stop_signal": order.stop.signal,
            "grace": order.stop.grace,
            "orphan_ttl": order.orphan_ttl,
            "log_bytes": self._log_bytes,
            "log_files": self._log_files,
        }

    def _prepare(self, order: StartOrder, folder: Path, port: int) -> tuple[ShimProcess, dict[str, object]]:
        """The replica's folder, a shim and its order; on failure nothing of them is left."""
        try:
            self._root.mkdir(parents=True, mode=0o700, exist_ok=True)  # somebody may have cleaned up
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            folder.mkdir(mode=0o700)
            spec = self._spec(order, folder, port)
            return self._launcher.take(), spec
        except BaseException as error:
            discard(folder)
            if isinstance(error, OSError):
                raise Transient(f"cannot start {order.handle.replica}: {error.strerror or error}") from None
            raise

    async def _launch(
        self, order: StartOrder, folder: Path, shim: ShimProcess, spec: Mapping[str, object]
    ) -> ReplicaFacts:
        """Hand the order to a shim and wait for its answer."""
        replica = Replica(handle=order.handle, folder=folder, boot=self._replicas.boot)
        self._spare_later()
        hello: Mapping[str, object] | None = None
        try:
            link = await Link.over(shim.sock, lambda state: self._replicas.heard(replica, state))
            try:
                await link.send_line(spec)
                hello = await link.greet(START_TIMEOUT_S)
                if "failed" not in hello and self._replicas.believe(replica, link, hello):
                    self._replicas.follow(replica)
                    return replica.facts()
            finally:
                if replica.link is None:
                    await link.close()
            refusal = await self._refusal(order.handle, shim, hello)
        except (OSError, TimeoutError):
            refusal = await self._refusal(order.handle, shim, None)
        except asyncio.CancelledError:
            self._replicas.follow(replica)  # it may have been started: it is looked for
            raise
        if refusal is not None:
            discard(folder)
            raise refusal
        self._replicas.follow(replica)
        return replica.facts()

    async def _refusal(
        self, handle: Handle, shim: ShimProcess, answer: Mapping[str, object] | None
    ) -> LlamactlError | None:
        """The error that a shim's early end means; None when it may have started something."""
        why = str(answer["failed"]) if answer is not None and "failed" in answer else None
        code = await self._ending(shim.pid)
        if answer is not None and isinstance(answer.get("status"), int):
            code = int(str(answer["status"]))  # its own word: whoever buried it first has taken the exit code along
        match code:
            case code if code == _EXIT_LOCKED:
                return Conflict(f"cannot start {handle.replica}: {why or 'another supervisor has it'}")
            case code if code == _EXIT_PORT:
                return _PortPromised(
                    f"cannot start {handle.replica}: {why or 'its port is promised to another daemon'}"
                )
            case code if code in (_EXIT_SPEC, _EXIT_SETUP):
                return Transient(f"cannot start {handle.replica}: {why or 'its supervisor did not get its order'}")
            case _:
                return None

    def _spare_later(self) -> None:
        if self._spare_timer is not None:
            self._spare_timer.cancel()
        self._spare_timer = asyncio.get_running_loop().call_later(SPARE_AFTER_S, self._launcher.prepare)

    def _of(self, handle: Handle, doing: str) -> Replica:
        replica = self._replicas.get(handle.instance, handle.serial)
        if replica is None:
            raise Missing(f"cannot {doing} {handle.replica}: there is no such replica")
        if replica.handle.token != handle.token:
            raise Conflict(f"cannot {doing} {handle.replica}: another one stands in its place")
        return replica

    async def _request(self, handle: Handle, doing: str, do: str, **arguments: object) -> None:
        replica = self._of(handle, doing)
        if replica.ended:
            raise Missing(f"cannot {doing} {handle.replica}: it has ended")
        if replica.link is None:
            raise Transient(f"cannot {doing} {handle.replica}: its supervisor does not answer")
        try:
            await replica.link.request(do, **arguments)
        except Transient as error:
            if replica.ended:
                raise Missing(f"cannot {doing} {handle.replica}: it has ended") from None
            raise Transient(f"cannot {doing} {handle.replica}: {error}") from None

    async def stop(self, handle: Handle, *, asked: str, signal: str | None = None) -> None:
        """The stop signal to the main process, once; a shim that knows no other takes its own."""
        await self._end(handle, "stop", patience=STOP_PATIENCE, asked=asked, signal=signal)

    async def kill(self, handle: Handle, *, asked: str) -> None:
        """Begin to kill everything that belongs to it; EXITED follows when nothing is left."""
        await self._end(handle, "kill", patience=1, asked=asked)

    async def _end(self, handle: Handle, do: str, *, patience: int, **arguments: object) -> None:
        """Ask the shim to end its replica; one that stays silent ``patience`` times is ended itself, and its backend with it."""
        replica = self._of(handle, do)
        try:
            await self._request(handle, do, do, **arguments)
        except Transient:
            replica.unanswered += 1
            if replica.unanswered < patience or not self._end_silent(replica):
                raise
        else:
            replica.unanswered = 0

    def _end_silent(self, replica: Replica) -> bool:
        """SIGKILL a shim that does not answer; the kernel ends the main process with it, the sweep ends the rest.

        Its pid is proven: it came over a connection that only the shim holds open, so while that is open the pid is not reused.
        """
        link, state = replica.link, replica.state
        if link is None or link.closed.is_set() or state is None or state.shim_pid is None:
            return False
        logger.warning("the supervisor of %s does not answer and is killed", replica.handle.replica)
        with contextlib.suppress(ProcessLookupError):  # it ended this very moment
            os.kill(state.shim_pid, SIGKILL)
        return True

    async def note_ready(self, handle: Handle, at: float) -> None:
        """Remembered by the shim; the first note counts."""
        await self._request(handle, "note readiness of", "note", ready_since=at)

    async def lease(self, handle: Handle, orphan_ttl: float) -> None:
        """A changed ``server.orphan_ttl`` for a replica that runs."""
        await self._request(handle, "set the lease of", "lease", orphan_ttl=orphan_ttl)

    async def forget(self, handle: Handle) -> None:
        """Drop an ended replica; its log stays while it is among the last of its instance."""
        replica = self._of(handle, "forget")
        if not replica.ended:
            raise Conflict(f"cannot forget {handle.replica}: something of it is still there")
        if replica.link is not None:  # it has not ended: perhaps it could not write its record
            with contextlib.suppress(Transient):
                await replica.link.request("leave")
        self._replicas.drop(replica)
        with contextlib.suppress(OSError):  # found again, and forgotten again, by the next daemon
            await asyncio.to_thread(retire, replica.folder)

    def logs(self, instance: str) -> Sequence[LogFile]:
        """The instance's log files, oldest replica first; small reads of the folder."""
        found: list[LogFile] = []
        for folder in serial_folders(self._root / instance):
            replica = self._replicas.get(instance, int(folder.name))
            started = replica.state.started_at if replica is not None and replica.state is not None else None
            log = log_file(folder, live=replica is not None and not replica.ended, started_at=started)
            if log is not None:
                found.append(log)
        return found
