"""Waiting for instances: ``llamactl wait``, and the loop that ``apply`` waits with. Waiting changes nothing, so ending it ends no work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

import click

from reconciler.cli.client import Client, instance_path
from reconciler.cli.connect import connect
from reconciler.cli.failure import Code, Failure, KeyRefused, Unreachable
from reconciler.cli.frame import Command, Duration, Session, daemon_options, session_of
from reconciler.cli.pause import Deadline
from reconciler.cli.progress import Reporter, reporter
from reconciler.cli.terminal import note
from reconciler.cli.views import STOPPED, InstanceView, StatusView, status_view

POLL_S = 0.2
"""Pause between two looks at the status, seconds: a person sees no delay, and a look costs the daemon well under 1 ms per instance."""
RECONNECT_S = 20.0
"""How long a daemon may stay away while it is waited on, seconds: a restart takes one or two, an upgrade with imports a few more."""
TAKEN_UP_S = 10.0
"""How long the daemon may take to take a saved file up, seconds: a file that never rests is news after five, and a large one is read
in four."""
TAIL_LINES = 20
"""Log lines shown of an instance that is stalled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a look at one instance says about the wait for it."""

    text: str
    done: bool = False
    failed: bool = False
    """It will not happen by itself; ``text`` says why."""


Judge = Callable[[StatusView], Mapping[str, Verdict]]


def wait_until(session: Session, client: Client, judge: Judge, *, deadline: Deadline, shown: Reporter) -> None:
    """Return when every verdict is done. Failure: the first failed one (1), the deadline (124), the daemon stays away (69)."""
    away: Deadline | None = None
    while True:
        try:
            status = status_view(client.get("/api/v1/status"))
            away = None
        except (Unreachable, KeyRefused) as failure:
            # A local daemon has another port and key after a restart; a refused key elsewhere will not mend.
            if isinstance(failure, KeyRefused) and not client.target.local:
                raise
            if away is None:
                away = Deadline(RECONNECT_S)
                shown.say("the daemon does not answer; waiting for it to come back")
            if away.passed or deadline.passed:
                raise
            deadline.pause(POLL_S)
            with contextlib.suppress(Unreachable):
                client = connect(session)
            continue
        verdicts = judge(status)
        for name, verdict in verdicts.items():
            shown.update(name, verdict.text, done=verdict.done)
        for name, verdict in verdicts.items():
            if verdict.failed:
                raise GivenUp(name, verdict.text, status.instances.get(name))
        if all(verdict.done for verdict in verdicts.values()):
            return
        if deadline.passed:
            raise Failure(_late(verdicts, deadline), Code.TIMED_OUT)
        deadline.pause(POLL_S)


def _late(verdicts: Mapping[str, Verdict], deadline: Deadline) -> str:
    left = ", ".join(f"{name} is {verdict.text}" for name, verdict in verdicts.items() if not verdict.done)
    return (
        f"timed out after {deadline.seconds:g}s: {left}; "
        "the daemon carries on; see `llamactl status`, or wait longer with --timeout"
    )


class GivenUp(Failure):
    """An instance that is waited for will not get there by itself."""

    def __init__(self, name: str, why: str, view: InstanceView | None) -> None:
        super().__init__(f"cannot wait for {name}: {why}" if view is None else f"{name} is stalled: {why}")
        self.name = name
        self.view = view


def explain(client: Client, given_up: GivenUp) -> None:
    """The last log lines of the instance and what to do next, on stderr."""
    view = given_up.view
    tail = list(view.log_tail) if view is not None else []
    if not tail:
        with contextlib.suppress(Failure):
            query = {"tail": str(TAIL_LINES), "previous": "1"}
            body = client.fetch("GET", instance_path(given_up.name, "/logs"), query=query).body
            tail = body.decode(errors="replace").splitlines()
    if tail:
        note(f"last lines of {given_up.name}:")
        for line in tail[-TAIL_LINES:]:
            note(f"  | {line}")
    old = [replica.name for replica in view.replicas if replica.phase == "ready"] if view is not None else []
    if old:
        note(f"{', '.join(old)} of the last good revision keeps serving")
    note(f"next: read `llamactl logs {given_up.name} --previous`, correct the file, then `llamactl apply` again")


@contextlib.contextmanager
def carried_on() -> Iterator[None]:
    """Ctrl-C ends the waiting inside, and says that it ends nothing else."""
    try:
        yield
    except KeyboardInterrupt:
        raise Failure(
            "stopped waiting; the daemon carries on with the work, see `llamactl status`", Code.INTERRUPTED
        ) from None


class Goal(StrEnum):
    """What can be waited for."""

    READY = "ready"
    STOPPED = "stopped"
    DELETED = "deleted"


@click.command(cls=Command, short_help="Wait until an instance is ready, stopped or deleted.")
@click.argument("name")
@click.option(
    "--for", "goal", type=click.Choice([goal.value for goal in Goal]), required=True, help="What to wait for."
)
@click.option("--timeout", type=Duration(), default="10m", show_default=True, help="Longest wait; 124 after it.")
@daemon_options
@click.pass_context
def wait(ctx: click.Context, name: str, goal: str, timeout: float) -> None:
    """Wait until an instance is ready, stopped or deleted.

    Ready means: at its present declaration, a save of a moment ago included. Ends with 1 when the instance is stalled or does not exist.
    """
    session = session_of(ctx)
    client = connect(session)
    client.get("/api/v1/status")  # a daemon that is not there is said at once; one that goes away is waited for
    try:
        with carried_on(), reporter() as shown:
            wait_until(session, client, judge_one(name, Goal(goal)), deadline=Deadline(timeout), shown=shown)
    except GivenUp as given_up:
        if given_up.view is not None:
            explain(client, given_up)
        raise


def judge_one(name: str, goal: Goal) -> Judge:
    """The verdict on one instance for ``wait --for GOAL``; what was saved before counts, also when the daemon has not read it yet."""
    patience = Deadline(TAKEN_UP_S)

    def judge(status: StatusView) -> Mapping[str, Verdict]:
        return {name: one(status)}

    def one(status: StatusView) -> Verdict:
        view = status.instances.get(name)
        if status.pending and not patience.passed:
            return Verdict(text=f"{view.brief if view else 'not known yet'}; the daemon is reading the file")
        if view is None and goal is not Goal.DELETED and status.held is not None:
            return Verdict(text="not known yet; the file is held for a moment, see `llamactl status`")
        if view is None and goal is not Goal.DELETED and not status.config_valid:
            return Verdict(text="there is no such instance; the file is refused, see `llamactl status`", failed=True)
        return _judge(view, goal)

    return judge


def _judge(view: InstanceView | None, goal: Goal) -> Verdict:
    if view is None:
        if goal is Goal.DELETED:
            return Verdict(text="deleted", done=True)
        return Verdict(text="there is no such instance; see `llamactl status -o name`", failed=True)
    match goal:
        case Goal.READY:
            if view.current:
                return Verdict(text="ready", done=True)
            if view.stalled is not None:
                return Verdict(text=view.stalled, failed=True)
            return Verdict(text=view.brief + (" (disabled)" if view.state == "disabled" else ""))
        case Goal.STOPPED:
            return Verdict(text=view.brief, done=view.phase == STOPPED and not view.replicas)
        case Goal.DELETED:
            return Verdict(text=view.brief)
        case _:
            assert_never(goal)
