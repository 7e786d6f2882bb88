"""``logs`` and ``events``: what comes in over time, passed on as it comes."""

from __future__ import annotations

import contextlib
import http.client
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import click

from reconciler.cli.answers import Node, decode
from reconciler.cli.client import Client, instance_path, reading
from reconciler.cli.connect import connect
from reconciler.cli.failure import Garbled, KeyRefused, Unreachable
from reconciler.cli.frame import Command, Session, daemon_options, output_option, session_of
from reconciler.cli.output import print_json_line
from reconciler.cli.pause import Deadline, pause
from reconciler.cli.terminal import note, out, plain
from reconciler.cli.waiting import RECONNECT_S

CHUNK = 64 * 1024
"""Bytes taken at once from a stream; what is there is passed on without waiting for more."""
LONGEST_LINE = 1024 * 1024
"""Bytes of one line of an event stream; a longer one is no event of ours."""
QUIET_S = 0.5
"""A past that has been told: silence of so many seconds ends ``events`` without ``-f`` where the daemon leaves the stream open."""


@click.command(cls=Command, short_help="Print what an instance wrote.")
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--tail", type=click.IntRange(min=0), default=None, metavar="N", help="Only the last N lines.")
@click.option("--previous", is_flag=True, help="Of the process before the present one.")
@daemon_options
@click.pass_context
def logs(ctx: click.Context, name: str, follow: bool, tail: int | None, previous: bool) -> None:
    """Print what an instance wrote, also after it crashed."""
    query = {}
    if tail is not None:
        query["tail"] = str(tail)
    if follow:
        query["follow"] = "1"
    if previous:
        query["previous"] = "1"
    client = connect(session_of(ctx))
    headers = {"Accept": "text/plain"}
    with (
        _quiet_end(follow),
        client.stream("GET", instance_path(name, "/logs"), query=query, headers=headers) as response,
    ):
        for chunk in chunks(response, "the log"):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()


@contextlib.contextmanager
def _quiet_end(follow: bool) -> Iterator[None]:
    """Ctrl-C is the ordinary end of following."""
    try:
        yield
    except KeyboardInterrupt:
        if not follow:
            raise


def chunks(response: http.client.HTTPResponse, what: str) -> Iterator[bytes]:
    """What comes, as it comes; Unreachable when it breaks before its end."""
    while True:
        with reading(what):
            chunk = response.read1(CHUNK)
            if not chunk and response.length:
                raise http.client.IncompleteRead(b"", response.length)
        if not chunk:
            return
        yield chunk


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event of a ``text/event-stream``."""

    id: str
    kind: str
    data: str


def server_events(response: http.client.HTTPResponse, what: str) -> Iterator[ServerEvent]:
    """The events of a stream, by the rules of the HTML standard; a last one without its empty line does not count."""
    event_id, kind, data = "", "", list[str]()
    while True:
        with reading(what):
            raw = response.readline(LONGEST_LINE)
        if not raw:
            return
        if len(raw) >= LONGEST_LINE:
            raise Garbled(f"cannot use {what}: a line of it is longer than {LONGEST_LINE} bytes")
        line = raw.decode(errors="replace").rstrip("\r\n")
        if not line:
            if data:
                yield ServerEvent(event_id, kind, "\n".join(data))
            kind, data = "", []
            continue
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "data":
            data.append(value)
        elif key == "event":
            kind = value
        elif key == "id":
            event_id = value


@click.command(cls=Command, short_help="Print what happened.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@output_option("text", "json")
@daemon_options
@click.pass_context
def events(ctx: click.Context, follow: bool, output: str) -> None:
    """Print what happened since the daemon started, as far as it remembers; one line (of JSON with -o json) each."""
    session = session_of(ctx)
    client = connect(session)
    if not follow:
        with contextlib.suppress(_Quiet):
            for event in _events(client, "0", follow=False):
                _print_event(event, output)
        return
    with _quiet_end(follow):
        _follow(session, client, output)


class _Quiet(Exception):
    """The past has been told."""


def _events(client: Client, after: str, *, follow: bool) -> Iterator[ServerEvent]:
    """Events after the one with this id; without ``follow`` only those that are there already."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": after}
    query = {"follow": "1" if follow else "0"}
    with client.stream("GET", "/api/v1/events", query=query, headers=headers, silence=None if follow else QUIET_S) as r:
        try:
            yield from server_events(r, "the events")
        except Unreachable:
            if not follow:
                raise _Quiet from None
            raise


def _follow(session: Session, client: Client, output: str) -> None:
    """Go on after a break, from the last event that was seen; give up when the daemon stays away."""
    last = "0"
    away: Deadline | None = None
    while True:
        try:
            for event in _events(client, last, follow=True):
                away = None
                last = event.id or last
                _print_event(event, output)
        except (Unreachable, KeyRefused) as failure:
            if last == "0" or (away is not None and away.passed):
                raise
            if isinstance(failure, KeyRefused) and not client.target.local:
                raise
        if away is None:
            away = Deadline(RECONNECT_S)
            note("the stream of events ended; waiting for the daemon to come back")
        elif away.passed:
            raise Unreachable(f"the daemon at {client.target.url} stays away")
        pause(0.5)
        with contextlib.suppress(Unreachable):
            again = connect(session)
            if again.target != client.target:
                client, last = again, "0"  # another run of the daemon counts its events from one


def _print_event(event: ServerEvent, output: str) -> None:
    try:
        node = Node(decode(event.data))
    except ValueError:
        raise Garbled("cannot understand the daemon: an event is not JSON") from None
    if output == "json":
        print_json_line(node.raw)
    else:
        who = f"{node.text('instance')}: " if node.text("instance") else ""
        out(plain(f"{node.text('at')}  {node.text('kind') or event.kind:<7} {who}{node.text('message')}"))
    sys.stdout.flush()
