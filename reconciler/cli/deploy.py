"""``plan`` and ``apply``: what a file would change, and making it so."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import click

from reconciler.cli.answers import Node, quoted
from reconciler.cli.client import Client, Declined, Invalid
from reconciler.cli.connect import connect, find
from reconciler.cli.failure import Code, Failure
from reconciler.cli.frame import (
    Command,
    Duration,
    Session,
    daemon_options,
    file_option,
    output_option,
    session_of,
)
from reconciler.cli.output import print_json
from reconciler.cli.pause import Deadline
from reconciler.cli.problems import from_answer, show
from reconciler.cli.progress import reporter
from reconciler.cli.sources import Sent, read_single
from reconciler.cli.terminal import colored, note, out, plain
from reconciler.cli.views import StatusView, status_view
from reconciler.cli.waiting import GivenUp, Judge, Verdict, carried_on, explain, wait_until

YAML = {"Content-Type": "application/yaml"}
_MARKS = {
    "create": "+",
    "remove": "-",
    "replace": "~",
    "restart": "~",
    "start": ">",
    "stop": "|",
    "scale": "=",
    "policy": ".",
}
_COLORS = {"create": "green", "remove": "red", "replace": "yellow", "restart": "yellow", "stop": "red"}


@click.command(cls=Command, short_help="Show what would change and why.")
@file_option("File to plan for [LLAMACTL_CONFIG_PATH, ./llamactl.yaml; default: the daemon's own]; - is stdin.")
@click.option("--detailed-exitcode", is_flag=True, help="End with 2 when changes are pending.")
@output_option("text", "json")
@daemon_options
@click.pass_context
def plan(ctx: click.Context, file: Path | None, detailed_exitcode: bool, output: str) -> None:
    """Show what would change and why, without changing anything.

    Against the daemon that is named or runs here. With none named and none running here: against an empty host.
    """
    session = session_of(ctx)
    target = find(session)
    if target is None:
        if file == Path("-"):
            raise Failure("cannot plan for stdin without a daemon; write the text to a file", Code.USAGE)
        from reconciler.app import plan_offline

        note("no daemon runs here and none was named: this is the plan for an empty host")
        answer = Node(plan_offline(file, session.environ, session.state_dir), "the plan")
    else:
        answer = ask_for_plan(Client(target), _chosen(session, file))
    _print_plan(answer, output)
    if detailed_exitcode and answer.flag("pending"):
        ctx.exit(Code.CHANGES)


def _chosen(session: Session, file: Path | None) -> Sent | None:
    """The file that is meant; None for the daemon's own. The user's and the system's file are the daemon's affair."""
    if file is None and not session.environ.get("LLAMACTL_CONFIG_PATH") and not Path("llamactl.yaml").exists():
        return None
    return read_single(session, file)


def ask_for_plan(client: Client, sent: Sent | None) -> Node:
    """The daemon's plan for a file, or for its own file as it is on disk."""
    what = str(sent.path) if sent is not None else "the daemon's own file"
    note(f"plan for {what} against {client.target.url}")
    try:
        return client.ask("POST", "/api/v1/plan", body=sent.data if sent is not None else b"", headers=YAML)
    except Invalid as invalid:
        raise _shown(invalid, sent) from None


def _shown(invalid: Invalid, sent: Sent | None) -> Failure:
    """Print the problems under the name that the user knows the file by; what is left is the last line."""
    problems = from_answer(invalid.problems)
    if sent is not None:
        problems = tuple(replace(problem, file=str(sent.path)) for problem in problems)
    show(problems)
    if not problems:
        return invalid
    return Failure(
        f"the file is invalid ({len(problems)} problem{'s' * (len(problems) != 1)}); nothing was changed", Code.INVALID
    )


def _print_plan(answer: Node, output: str) -> None:
    show(from_answer(answer.nodes("warnings")))
    if output == "json":
        print_json(answer.raw)
        return
    for line in plan_lines(answer, color=colored(sys.stdout)):
        out(line)


def plan_lines(answer: Node, *, color: bool = False, steps: bool = True) -> Iterator[str]:
    """A plan for people: a line per instance with its cause, a line per changed field, the steps, a sum."""
    changes = list(answer.nodes("changes"))
    width = max((len(_subject(change)) for change in changes), default=0)
    for change in changes:
        kind = change.text("kind")
        fields = list(change.nodes("fields"))
        cause = "" if fields else f"  {change.text('cause')}"
        line = plain(f"{_MARKS.get(kind, '*')} {_subject(change).ljust(width)}  {kind}{cause}")
        yield click.style(line, fg=_COLORS.get(kind)) if color and kind in _COLORS else line
        for each in fields:
            before, after = quoted(each.raw.get("before")), quoted(each.raw.get("after"))
            yield plain(f"    {each.text('path')}: {before} -> {after}")
    actions = list(answer.nodes("steps")) if steps else []
    if actions:
        yield "steps:"
        yield from (plain(f"  {action.text('text')}") for action in actions)
    yield _sum(changes, pending=answer.flag("pending"))


def _subject(change: Node) -> str:
    """The instance, or what all have in common (``server``, ``auth``)."""
    return change.text("instance") or change.text("scope")


def _sum(changes: list[Node], *, pending: bool) -> str:
    if not changes:
        return "no instance changes; the steps above are on their way" if pending else "nothing to change"
    counts = Counter(change.text("kind") for change in changes)
    return plain(", ".join(f"{count} to {kind}" for kind, count in counts.items()))


@click.command(cls=Command, short_help="Hand a file to the daemon and wait until it is so.")
@file_option("File to apply [LLAMACTL_CONFIG_PATH, ./llamactl.yaml, ...]; - is stdin.")
@click.option("--no-wait", is_flag=True, help="End as soon as the daemon has accepted the file.")
@click.option("--timeout", type=Duration(), default="10m", show_default=True, help="Longest wait; 124 after it.")
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@daemon_options
@click.pass_context
def apply(ctx: click.Context, file: Path | None, no_wait: bool, timeout: float, dry_run: bool) -> None:
    """Hand a file to the daemon, which replaces its own file by it, and wait until every changed instance is ready.

    Ends with 1 when one is stalled, with its reason and last log lines. Instances that are on demand or disabled
    count once they are accepted. Ctrl-C stops the waiting, not the work.
    """
    session = session_of(ctx)
    sent = read_single(session, file)
    client = connect(session)
    deadline = Deadline(timeout)
    if dry_run:
        _print_plan(ask_for_plan(client, sent), "text")
        return
    before = status_view(client.get("/api/v1/status"))
    answer = _put(client, sent)
    show(from_answer(answer.nodes("warnings")))
    changed, removed = answer.texts("changed"), answer.texts("removed")
    for name in removed:
        note(f"{name}: removed from the file")
    generation = answer.number("generation")
    if before.config_hash == sent.content_hash:
        # Somebody saved the same text a moment ago: nothing is new for the daemon, but what it does is what was asked for.
        changed = tuple(name for name, view in before.instances.items() if view.state != "removed")
    summary = _summary(
        generation,
        changed=(*answer.texts("settings"), *answer.texts("changed")),
        removed=removed,
        new=generation > before.generation,
    )
    if not no_wait and (changed or removed):
        _wait(
            session,
            client,
            _judge(generation, before, changed, removed, same=before.config_hash == sent.content_hash),
            deadline,
        )
    out(summary)


def _put(client: Client, sent: Sent) -> Node:
    try:
        return client.ask("PUT", "/api/v1/config", body=sent.data, headers=YAML)
    except Invalid as invalid:
        raise _shown(invalid, sent) from None
    except Declined as declined:
        raise Failure(f"cannot apply {sent.path}: {declined.message}", declined.code) from None


def _summary(generation: int, *, changed: tuple[str, ...], removed: tuple[str, ...], new: bool) -> str:
    if not changed and not removed:
        return f"generation {generation} is in force" if new else f"nothing to change (generation {generation})"
    parts = [f"changed {', '.join(changed)}"] if changed else []
    parts += [f"removed {', '.join(removed)}"] if removed else []
    return plain(f"generation {generation}: {'; '.join(parts)}")


def _wait(session: Session, client: Client, judge: Judge, deadline: Deadline) -> None:
    try:
        with carried_on(), reporter() as shown:
            wait_until(session, client, judge, deadline=deadline, shown=shown)
    except GivenUp as given_up:
        explain(client, given_up)
        raise


def _judge(
    generation: int, before: StatusView, changed: tuple[str, ...], removed: tuple[str, ...], *, same: bool
) -> Judge:
    """Verdicts on what an apply changed; ``same`` when the daemon had this text already, so that no instance got a newer generation."""
    seen: set[str] = set()

    def one(status: StatusView, name: str) -> Verdict:
        view = status.instances.get(name)
        floor = before.instances[name].generation if same and name in before.instances else generation
        if view is None or view.generation < floor:
            if name in seen and view is None:
                return Verdict(text="removed meanwhile by a newer change of the file", failed=True)
            return Verdict(text="accepted, not looked at yet")
        seen.add(name)
        if view.state != "running":
            return Verdict(text=f"accepted ({view.state.replace('_', ' ')})", done=True)
        if view.current:
            return Verdict(text="ready", done=True)
        if view.stalled is not None:
            return Verdict(text=view.stalled, failed=True)
        return Verdict(text=view.brief)

    def gone(status: StatusView, name: str) -> Verdict:
        view = status.instances.get(name)
        return Verdict(text="gone", done=True) if view is None else Verdict(text=view.brief)

    def judge(status: StatusView) -> Mapping[str, Verdict]:
        return {name: one(status, name) for name in changed} | {name: gone(status, name) for name in removed}

    return judge
