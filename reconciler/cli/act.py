"""``start``, ``stop`` and ``restart``: asked of the daemon, which edits the file or replaces the processes."""

from __future__ import annotations

import click

from reconciler.cli.client import instance_path
from reconciler.cli.connect import connect
from reconciler.cli.frame import Command, daemon_options, output_option, session_of
from reconciler.cli.output import print_json
from reconciler.cli.terminal import out, plain
from reconciler.cli.views import instance_view


def _command(verb: str, *, short: str, text: str, done: str) -> click.Command:
    """The command that asks the daemon for ``POST .../verb``; ``done`` is said of the instance afterwards."""

    @click.command(verb, cls=Command, short_help=short, help=text)
    @click.argument("name")
    @output_option("text", "json")
    @daemon_options
    @click.pass_context
    def run(ctx: click.Context, name: str, output: str) -> None:
        answer = connect(session_of(ctx)).ask("POST", instance_path(name, f"/{verb}"))
        if output == "json":
            print_json(answer.raw)
            return
        view = instance_view(answer)
        out(plain(f"{view.name or name}: {done}; it is {view.brief}"))

    return run


start = _command(
    "start",
    short="Set `enabled: true` in the file.",
    text="Set `enabled: true` in the file, or take out what `stop` put there, comments kept; the daemon starts the instance.",
    done="enabled in the file",
)
stop = _command(
    "stop",
    short="Set `enabled: false` in the file.",
    text="Set `enabled: false` in the file, comments kept; the daemon stops the instance.",
    done="disabled in the file",
)
restart = _command(
    "restart",
    short="Replace the running processes of an instance.",
    text="Replace the running processes of an instance, by its update strategy. The file stays as it is.",
    done="restart asked for",
)
