"""``start``, ``stop`` and ``restart``: asked of the daemon, which edits the file or replaces the processes."""

from __future__ import annotations

import click

from reconciler.cli.client import instance_path
from reconciler.cli.connect import connect
from reconciler.cli.frame import Command, daemon_options, output_option, session_of
from reconciler.cli.output import print_json
from reconciler.cli.terminal import out, plain
from reconciler.cli.views import instance_view


def _post(ctx: click.Context, name: str, verb: str, output: str, done: str) -> None:
    answer = connect(session_of(ctx)).ask("POST", instance_path(name, f"/{verb}"))
    if output == "json":
        print_json(answer.raw)
        return
    view = instance_view(answer)
    out(plain(f"{view.name or name}: {done}; it is {view.brief}"))


@click.command(cls=Command, short_help="Set `enabled: true` in the file.")
@click.argument("name")
@output_option("text", "json")
@daemon_options
@click.pass_context
def start(ctx: click.Context, name: str, output: str) -> None:
    """Set `enabled: true` in the file, comments kept; the daemon starts the instance."""
    _post(ctx, name, "start", output, "enabled in the file")


@click.command(cls=Command, short_help="Set `enabled: false` in the file.")
@click.argument("name")
@output_option("text", "json")
@daemon_options
@click.pass_context
def stop(ctx: click.Context, name: str, output: str) -> None:
    """Set `enabled: false` in the file, comments kept; the daemon stops the instance."""
    _post(ctx, name, "stop", output, "disabled in the file")


@click.command(cls=Command, short_help="Replace the running processes of an instance.")
@click.argument("name")
@output_option("text", "json")
@daemon_options
@click.pass_context
def restart(ctx: click.Context, name: str, output: str) -> None:
    """Replace the running processes of an instance, by its update strategy. The file stays as it is."""
    _post(ctx, name, "restart", output, "restart asked for")
