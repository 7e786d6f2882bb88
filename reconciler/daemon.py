"""Wires the daemon: state folder, runtime, keeper, loop, server, signals. Nothing else knows concrete backends and runtimes.

Order matters. The lock is taken first, the file is checked before anything is touched, adopted replicas are known before the first
request is answered, and the port is bound before anything is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path

import uvloop
from aiohttp import web

from reconciler import __version__
from reconciler.app import UpOptions, simulated
from reconciler.backends import discover
from reconciler.config import source
from reconciler.control.controller import Controller
from reconciler.control.events import EventLog
from reconciler.control.histories import Histories
from reconciler.control.keeper import Accepted, Checked, Keeper
from reconciler.control.leases import Leases
from reconciler.control.loop import Loop, Parts
from reconciler.control.probes import Probes
from reconciler.control.watch import FileWatch
from reconciler.core.addresses import is_loopback
from reconciler.core.contracts import ASKED_STOP, Backend
from reconciler.core.errors import LlamactlError, Rejected, Terminal
from reconciler.core.spec import BackendsSpec, Fleet, ServerSpec
from reconciler.host.clock import Clock, SystemClock, rfc3339
from reconciler.host.keyfiles import EnvironWithFiles
from reconciler.host.logs import log_to_stderr
from reconciler.host.notify import Notifier
from reconciler.host.probe import Prober
from reconciler.host.store import StateFolder, state_dir
from reconciler.installed.known import Installed
from reconciler.proxy.auth import Authorizer
from reconciler.runtimes._folders import boot_id
from reconciler.runtimes.local import LocalRuntime
from reconciler.server.app import check_parser, make_app, make_runner

log = logging.getLogger("llamactl")

SERVER_CLOSE_S = 5.0
"""How long requests in flight may go on when the daemon hands over, seconds; their backends live on."""
KILL_AGAIN_S = 0.2
"""Pause between two rounds of killing after a second Ctrl-C, seconds."""
SWITCH_INTERVAL_S = 0.001
"""How long a thread may keep the interpreter while the event loop waits for it, seconds. A large file is read in a thread; with
Python's 5 ms the loop was 5.2 ms late in the median meanwhile, with this 1.2 ms."""
WATCHDOG_EVERY_S = 5.0
"""How often the service manager is told that the loop passes, seconds; a third of the unit's WatchdogSec or less."""


def run_daemon(options: UpOptions, environ: Mapping[str, str]) -> int:
    """Run until told to end."""
    log_to_stderr(options.log_format)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _open_many_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_daemon(options, environ))


def _open_many_files() -> None:
    """Raise the soft limit of open files to the hard one: each stream takes two, and 1024 is what most hosts begin with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        with contextlib.suppress(
            ValueError, OSError
        ):  # macOS refuses its own infinity; what we have is enough to start
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_leftovers(folder: Path | None, environ: Mapping[str, str]) -> int:
    """End what a state folder still owns."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_end_leftovers(folder, environ))


async def _daemon(options: UpOptions, environ: Mapping[str, str]) -> int:
    check_parser()
    clock = SystemClock()
    notifier = Notifier(environ)
    path = _file_to_follow(options, environ)
    overrides = dict(environ) | _overrides(options)
    folder = await StateFolder.take(state_dir(options.state_dir, environ), clock=clock)
    try:
        # a simulator knows no version but the packaged one
        backends = discover() if options.simulate else Installed(environ, folder.path).backends
        keeper = Keeper(
            folder=folder.path,
            backends=backends,
            environ=EnvironWithFiles(overrides),
            clock=clock,
            transform=simulated if options.simulate else None,
        )
        first = await _read_first(keeper, path, clock)
        key = secrets.token_urlsafe(32)
        async with _parts(folder.path, keeper, backends, environ, clock) as parts:
            running = {facts.handle.instance for facts in parts.runtime.observe()}
            fleet = await _first_fleet(keeper, first, path, running)
            _refuse_open_doors(fleet, insecure=options.insecure)
            about: dict[str, object] = {
                "pid": os.getpid(),
                "version": __version__,
                "started_at": rfc3339(clock.now()),
                "state_dir": str(folder.path),
                "systemd": notifier.active,
                "simulated": options.simulate,
            }
            bound = (fleet.server.host, fleet.server.port)
            controller = Controller(parts, path=path, about=about, bound=bound)
            controller.open()  # keys and names are in force before the first request can come
            runner = make_runner(make_app(controller, authorizer=Authorizer(key), names=(fleet.server.host,)))
            await runner.setup()
            try:
                url = await _listen(runner, fleet.server)
                folder.announce(url=url, key=key)
                log.info("serving %s; declared in %s: %s", url, path, ", ".join(fleet.instances) or "nothing")
                notifier.send("READY=1", f"STATUS=serving {url}")
                return await _serve(controller, parts, notifier)
            finally:
                notifier.send("STOPPING=1")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SERVER_CLOSE_S + 5.0):
                        await runner.cleanup()
    finally:
        folder.close()


async def _serve(controller: Controller, parts: Parts, notifier: Notifier) -> int:
    """Reconcile until everything is down (0) or a signal asks to hand over (0)."""
    handed_over = asyncio.Event()
    killed = asyncio.Event()
    _handle_signals(controller, handed_over, killed)
    tasks = [
        asyncio.create_task(controller.loop.run(), name="loop"),
        asyncio.create_task(controller.follow_file(), name="file"),
        asyncio.create_task(handed_over.wait(), name="hand-over"),
        asyncio.create_task(_feed_watchdog(controller, notifier), name="watchdog"),
        asyncio.create_task(_kill_all(parts, killed), name="kill"),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # a task that ended by a defect takes the daemon down, loudly; the backends live on
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    left = len(controller.loop.running())
    log.info("ending: %s", f"{left} instances run on and wait for the next daemon" if left else "nothing runs")
    return 0


def _handle_signals(controller: Controller, handed_over: asyncio.Event, killed: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        if controller.loop.ending:
            log.warning("interrupted again: killing what is left")
            killed.set()
        else:
            log.info("interrupted: stopping everything (again to kill at once)")
            controller.begin_down()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    loop.add_signal_handler(signal.SIGTERM, handed_over.set)
    loop.add_signal_handler(signal.SIGHUP, controller.look)


async def _kill_all(parts: Parts, killed: asyncio.Event) -> None:
    """Once ``killed`` is set: everything ends now, again and again until nothing is left."""
    await killed.wait()
    while True:
        for facts in parts.runtime.observe():
            with contextlib.suppress(LlamactlError):  # whatever one refuses, the others are still killed
                await parts.runtime.kill(facts.handle, asked=ASKED_STOP)
        await asyncio.sleep(KILL_AGAIN_S)


async def _feed_watchdog(controller: Controller, notifier: Notifier) -> None:
    """Tell the service manager that passes happen; a stuck loop stops telling and is restarted."""
    seen = -1
    while True:
        if controller.loop.passes != seen:
            seen = controller.loop.passes
            _, waiting = controller.ready_report()
            status = f"generation {controller.generation}, " + (
                f"waiting for {', '.join(waiting)}" if waiting else "all ready"
            )
            notifier.send("WATCHDOG=1", f"STATUS={status}")
        await asyncio.sleep(WATCHDOG_EVERY_S)


@contextlib.asynccontextmanager
async def _parts(
    folder: Path, keeper: Keeper, backends: Mapping[str, Backend], environ: Mapping[str, str], clock: SystemClock
) -> AsyncIterator[Parts]:
    """Everything the loop works with, opened and closed in order."""
    runtime = LocalRuntime(folder, clock=clock, environ=environ)
    histories = Histories(folder / "history", boot=boot_id())
    histories.open()
    leases = Leases(clock)
    async with Prober() as prober:
        probes = Probes(prober, clock, progress_at=leases.progress_at)
        await runtime.open()
        try:
            yield Parts(
                runtime=runtime,
                backends=backends,
                keeper=keeper,
                histories=histories,
                leases=leases,
                events=EventLog(clock),
                clock=clock,
                probes=probes,
            )
        finally:
            await probes.close()
            await runtime.close()


async def _end_leftovers(explicit: Path | None, environ: Mapping[str, str]) -> int:
    clock = SystemClock()
    folder = await StateFolder.take(state_dir(explicit, environ), clock=clock)
    try:
        keeper = Keeper(folder=folder.path, backends=discover(), environ=environ, clock=clock)
        nothing = Fleet(server=ServerSpec(), backends=BackendsSpec(), instances={})
        keeper.accepted = Accepted(fleet=nothing, desired={}, generation=0, generations={}, created={})
        async with _parts(folder.path, keeper, discover(), environ, clock) as parts:
            loop = Loop(parts, publish=lambda _: None)
            count = len(loop.running())
            loop.end()
            await loop.run()
            return count
    finally:
        folder.close()


def _file_to_follow(options: UpOptions, environ: Mapping[str, str]) -> Path:
    """Where the file is, or, when it was named and is missing now, where it has to come back: what ran by it may still run."""
    try:
        return source.find_file(options.file, environ).absolute()
    except Rejected:
        named = options.file or environ.get(source.PATH_VARIABLE)
        if not named:
            raise
        return Path(named).absolute()


async def _read_first(keeper: Keeper, path: Path, clock: Clock) -> tuple[Checked, source.Source] | Rejected:
    """The file once it is at rest; Rejected is raised when there is nothing else to go by, and answered when there is.

    A daemon may be started in the middle of somebody's save: a text that may be cut is waited for, as later ones are.
    """
    remembered = keeper.last_good(path)
    content = (await FileWatch(path, clock, whole=remembered).at_rest()).content
    try:
        if isinstance(content, Rejected):
            raise content
        return await keeper.load(content), content
    except Rejected as rejected:
        if remembered is None:
            raise
        return rejected


async def _first_fleet(
    keeper: Keeper, first: tuple[Checked, source.Source] | Rejected, path: Path, running: Collection[str]
) -> Fleet:
    """Put the file in force as an edit made while no daemon ran: refused or held like any other, on top of the last good content."""
    remembered = keeper.last_good(path)
    if remembered is not None and (running or isinstance(first, Rejected)):
        try:
            keeper.offer(await keeper.load(remembered), remembered, running=(), force=True)
        except Rejected as outdated:  # it may name a variable that is no longer set
            if isinstance(first, Rejected):
                raise first from outdated
            log.warning("the last good content of the file cannot be used any more: %s", outdated)
    if isinstance(first, Rejected):
        log.error("the file is refused; going on with its last good content:\n%s", first)
        keeper.refuse(first)
    else:
        keeper.offer(*first, running=running if keeper.accepted is not None else (), force=keeper.accepted is None)
    assert keeper.accepted is not None
    return keeper.accepted.fleet


def _refuse_open_doors(fleet: Fleet, *, insecure: bool) -> None:
    """Without keys only this host may call."""
    host = fleet.server.host
    if fleet.management_keys or is_loopback(host):
        return
    why = f"refusing to serve on {host} without management keys: whoever reaches it could start programs"
    if not insecure:
        raise Terminal(
            f"{why}; add auth.management_keys, listen on 127.0.0.1, or insist with --insecure (INSECURE_BIND)"
        )
    log.warning("serving on %s without management keys because of --insecure", host)


async def _listen(runner: web.AppRunner, server: ServerSpec) -> str:
    """Bind; Terminal with the cure when the port is taken."""
    site = web.TCPSite(runner, server.host, server.port, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        where = f"{server.host}:{server.port}"
        why = error.strerror or str(error)
        raise Terminal(
            f"cannot listen on {where}: {why}; choose another server.port, or end what listens there"
        ) from error
    host = f"[{server.host}]" if ":" in server.host else server.host
    reachable = "127.0.0.1" if server.host == "0.0.0.0" else "[::1]" if server.host == "::" else host
    return f"http://{reachable}:{server.port}"


def _overrides(options: UpOptions) -> dict[str, str]:
    """Flags of the command line as the variables they stand for; both win over the file."""
    found = {}
    if options.host is not None:
        found["LLAMACTL_HOST"] = options.host
    if options.port is not None:
        found["LLAMACTL_PORT"] = str(options.port)
    return found
