"""``llamactl status``: what runs, as a table or in the daemon's own JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import click

from reconciler.cli.answers import Json, Node
from reconciler.cli.client import Client, instance_path
from reconciler.cli.connect import connect
from reconciler.cli.failure import Unreachable
from reconciler.cli.frame import Command, daemon_options, output_option, session_of
from reconciler.cli.output import columns, print_json, print_json_line, print_yaml
from reconciler.cli.pause import pause, unix_now
from reconciler.cli.problems import errors, from_answer
from reconciler.cli.terminal import colored, is_terminal, note, out, phase_style, plain
from reconciler.cli.views import InstanceView, StatusView, instance_view, status_view

WATCH_S = 0.5
"""Pause between two looks of ``--watch``, seconds."""
_HEADER = ("NAME", "BACKEND", "STATE", "PHASE", "READY", "REPLICAS", "RESTARTS", "AGE", "PORT")
_WIDE = ("PIDS", "REVISION", "NEXT")
_PHASE = _HEADER.index("PHASE")


@click.command(cls=Command, short_help="Show what runs.")
@click.argument("name", required=False)
@output_option("table", "wide", "json", "yaml", "name")
@click.option("--watch", "-w", is_flag=True, help="Show it again at each change, until Ctrl-C.")
@daemon_options
@click.pass_context
def status(ctx: click.Context, name: str | None, output: str, watch: bool) -> None:
    """Show what runs: all instances, or the one called NAME.

    JSON and YAML are what the daemon answers; the table ends with a line per problem.
    """
    client = connect(session_of(ctx))
    if not watch:
        _show(_ask(client, name), name, output)
        return
    _watch(lambda: _ask(client, name), name, output)


def _ask(client: Client, name: str | None) -> Node:
    return client.get("/api/v1/status" if name is None else instance_path(name))


def _watch(ask: Callable[[], Node], name: str | None, output: str) -> None:
    """Print at each change; on a terminal in place. Ctrl-C is the ordinary end."""
    shown: Json = None
    moving = is_terminal(sys.stdout)
    try:
        while True:
            try:
                answer = ask()
            except Unreachable:
                if shown is None:
                    raise
                note("the daemon does not answer; waiting for it to come back")
                pause(WATCH_S * 4)
                continue
            if answer.raw != shown:
                if moving:
                    out("\x1b[H\x1b[2J", end="")
                elif shown is not None and output != "json":
                    out()
                if output == "json" and not moving:
                    print_json_line(answer.raw)
                else:
                    _show(answer, name, output)
                sys.stdout.flush()
                shown = answer.raw
            pause(WATCH_S)
    except KeyboardInterrupt:
        return


def _show(answer: Node, name: str | None, output: str) -> None:
    match output:
        case "json":
            print_json(answer.raw)
        case "yaml":
            print_yaml(answer.raw)
        case "name":
            names = [name] if name is not None else [each.text("name") for each in answer.nodes("instances")]
            for each in names:
                out(plain(each))
        case _:
            for line in _lines(answer, name, wide=output == "wide"):
                out(line)


def _lines(answer: Node, name: str | None, *, wide: bool) -> Sequence[str]:
    color = colored(sys.stdout)
    if name is not None:
        view = instance_view(answer)
        return [*table([view], wide=wide, color=color), *_remarks(view)]
    fleet = status_view(answer)
    views = list(fleet.instances.values())
    lines = table(views, wide=wide, color=color) if views else ["no instances"]
    for view in views:
        lines += _remarks(view)
    return lines + _about_the_file(fleet)


def table(views: Sequence[InstanceView], *, wide: bool, color: bool = False) -> list[str]:
    """Header and one row per instance, aligned."""
    header = _HEADER + (_WIDE if wide else ())
    rows = [header, *(_row(view, wide=wide) for view in views)]

    def style(row: int, column: int, cell: str) -> str:
        if row == 0:
            return click.style(cell, bold=True) if color else cell
        return phase_style(views[row - 1].phase, cell, color=color) if column == _PHASE else cell

    return list(columns(rows, style))


def _row(view: InstanceView, *, wide: bool) -> tuple[str, ...]:
    ready = sum(replica.phase == "ready" for replica in view.replicas)
    started = min((replica.started_at for replica in view.replicas if replica.started_at), default="")
    row: tuple[str, ...] = (
        view.name,
        view.backend,
        view.state,
        view.phase,
        "yes" if view.ready else "no",
        f"{ready}/{len(view.replicas)}" if view.replicas else "-",
        str(view.restarts),
        _age(started),
        _joined(replica.port for replica in view.replicas),
    )
    if wide:
        row += (_joined(view.pids), view.revision, view.next_action)
    return tuple(" ".join(plain(cell).split()) or "-" for cell in row)


def _joined(numbers: Iterable[int]) -> str:
    return ",".join(str(number) for number in numbers if number)


def _age(started_at: str) -> str:
    """Time since an RFC 3339 moment, in its largest unit: ``4s``, ``12m``, ``3h``, ``9d``."""
    try:
        started = datetime.fromisoformat(started_at).timestamp()
    except ValueError:
        return "-"
    seconds = max(0.0, unix_now() - started)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def _remarks(view: InstanceView) -> list[str]:
    """What the columns do not say."""
    lines = []
    if view.stalled is not None:
        lines.append(f"{view.name}: stalled: {view.stalled}; see `llamactl logs {view.name} --previous`")
    elif view.exit_reason and not view.ready and view.phase in ("backoff", "failed", "starting"):
        lines.append(f"{view.name}: last end: {view.exit_reason}")
    lines += [f"{view.name}: degraded: {what}" for replica in view.replicas for what in replica.degraded]
    return [plain(line) for line in lines]


def _about_the_file(fleet: StatusView) -> list[str]:
    problems = from_answer(fleet.problems)
    lines = []
    if not fleet.config_valid:
        count = len(errors(problems))
        lines.append(
            f"the file {fleet.config_file or 'of the daemon'} has {count} problem{'s' if count != 1 else ''}; "
            "the last good one stays in force:"
        )
    lines += [str(problem) for problem in problems]
    if fleet.held is not None:
        removes = ", ".join(fleet.held.texts("removes"))
        lines.append(f"held until {fleet.held.text('until')}: {fleet.held.text('reason')} (it removes {removes})")
    return [plain(line) for line in lines]
