"""``up`` and ``down``: the daemon in the foreground, and the end of everything it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from reconciler.cli.client import Client
from reconciler.cli.connect import find
from reconciler.cli.failure import Code, Failure, KeyRefused, Unreachable
from reconciler.cli.frame import Command, Duration, Session, daemon_options, file_option, session_of, state_dir_option
from reconciler.cli.pause import Deadline
from reconciler.cli.progress import Reporter, reporter
from reconciler.cli.terminal import note, out
from reconciler.cli.views import status_view

POLL_S = 0.1
"""Pause between two looks at a daemon that is stopping, seconds."""


@click.command(cls=Command, short_help="Run the daemon: watch the file, reconcile, serve HTTP.")
@file_option("File or folder of files [LLAMACTL_CONFIG_PATH, ./llamactl.yaml, ~/.config/llamactl, /etc/llamactl].")
@state_dir_option()
@click.option("--host", metavar="ADDR", help="Address to listen on [LLAMACTL_HOST].")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on [LLAMACTL_PORT].")
@click.option("--simulate", is_flag=True, help="Run the built-in simulator in the place of every backend.")
@click.option("--insecure", is_flag=True, help="Serve off loopback without keys.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="Form of the log, on stderr.")
@click.pass_context
def up(
    ctx: click.Context,
    file: Path | None,
    host: str | None,
    port: int | None,
    simulate: bool,
    insecure: bool,
    log_format: Literal["text", "json"],
) -> None:
    """Run the daemon: watch the file, reconcile, serve HTTP.

    Ctrl-C stops every instance (a second one at once); SIGTERM leaves them running for the next daemon.
    """
    from reconciler import app

    session = session_of(ctx)
    sys.excepthook = sys.__excepthook__  # a daemon's crash belongs into its log whole
    options = app.UpOptions(
        file=file,
        state_dir=session.state_dir,
        host=host,
        port=port,
        simulate=simulate,
        insecure=insecure,
        log_format=log_format,
    )
    ctx.exit(app.run(options, session.environ))


@click.command(cls=Command, short_help="Stop every instance and the daemon.")
@click.option("--timeout", type=Duration(), default="5m", show_default=True, help="Longest wait; 124 after it.")
@daemon_options
@click.pass_context
def down(ctx: click.Context, timeout: float) -> None:
    """Stop every instance and the daemon, and wait until nothing is left.

    Without a running daemon: end what its state folder still owns.
    """
    session = session_of(ctx)
    deadline = Deadline(timeout)
    target = find(session)
    if target is None:
        _leftovers(session)
        return
    client = Client(target)
    if status_view(client.get("/api/v1/status")).systemd:
        raise Failure("cannot stop the daemon: systemd runs it and would start it again; use `systemctl stop llamactl`")
    count = client.ask("POST", "/api/v1/down").number("stopping")
    note(f"stopping {_instances(count)}")
    try:
        with reporter() as shown:
            _watch_it_end(session, client, deadline, shown)
    except KeyboardInterrupt:
        raise Failure("stopped waiting; the daemon goes on stopping", Code.INTERRUPTED) from None
    if target.local:
        _end_rest(session)
    out(f"stopped {_instances(count)} and the daemon")


def _instances(count: int) -> str:
    return f"{count} instance{'s' * (count != 1)}"


def _watch_it_end(session: Session, client: Client, deadline: Deadline, shown: Reporter) -> None:
    """Until the daemon has let go of its folder, or (from elsewhere) does not answer any more."""
    from reconciler.host.store import LOCK_NAME, is_locked

    lock = session.folder() / LOCK_NAME
    while True:
        try:
            for view in status_view(client.get("/api/v1/status")).instances.values():
                shown.update(view.name, view.brief, done=not view.replicas)
        except (Unreachable, KeyRefused):  # it closed its doors: a folder that is free, or nothing there, is the end
            if not client.target.local:
                return
        if client.target.local and not is_locked(lock):
            return
        if deadline.passed:
            raise Failure(
                f"timed out after {deadline.seconds:g}s: the daemon is still stopping; see `llamactl status`",
                Code.TIMED_OUT,
            )
        deadline.pause(POLL_S)


def _end_rest(session: Session) -> None:
    """What the daemon itself did not get to (it does; this is the proof)."""
    from reconciler.app import end_leftovers

    left = end_leftovers(session.state_dir, session.environ)
    if left:
        note(f"ended {_instances(left)} that the daemon had left behind")


def _leftovers(session: Session) -> None:
    folder = session.folder()
    if not folder.is_dir():
        out(f"nothing to stop: no daemon runs here and there is no state folder {folder}")
        return
    from reconciler.app import end_leftovers

    note("no daemon runs here; ending what its state folder still owns")
    count = end_leftovers(session.state_dir, session.environ)
    out(f"stopped {_instances(count)}" if count else f"nothing to stop: {folder} owns nothing")
