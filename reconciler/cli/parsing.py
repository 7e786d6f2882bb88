"""``llamactl parse``: a command line that somebody has today, as an instance of the file. Nothing is executed."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.failure import Code, Failure
from reconciler.cli.frame import Command, Session, output_option, session_of
from reconciler.cli.output import print_json
from reconciler.cli.terminal import note, out, plain

if TYPE_CHECKING:
    from reconciler.core.contracts import ParsedCommand

NAME_LIMIT = 63
"""Characters of an instance name."""


@click.command(
    cls=Command,
    short_help="Turn a server's command line into an instance of the file.",
    context_settings={"ignore_unknown_options": False},
)
@click.argument("command", nargs=-1, required=True)
@click.option("--backend", metavar="KIND", help="Which server it starts; default: told by its first words.")
@output_option("yaml", "json")
@click.option("--write", "file", type=click.Path(path_type=Path), metavar="FILE", help="Add it to FILE, comments kept.")
@click.option("--name", metavar="N", help="Name of the instance; default: made from the model.")
@click.pass_context
def parse(
    ctx: click.Context, command: tuple[str, ...], backend: str | None, output: str, file: Path | None, name: str | None
) -> None:
    """Turn a server's command line into an instance of the file.

    COMMAND is the line in quotes, or its words after --, or - for stdin:

    llamactl parse "vllm serve Qwen/Qwen3-0.6B --max-model-len 8192"
    """
    from reconciler.app import parse_command
    from reconciler.config import document

    if name is not None:
        _check_name(name)
    text = _text(command)
    parsed, snippet = parse_command(text, backend, session_of(ctx).environ)
    if name is not None:
        parsed = replace(parsed, name=name)
        snippet = document.snippet(name, parsed.instance())
    for warning in parsed.warnings:
        note(f"warning: {warning}")
    if file is not None:
        _write(session_of(ctx), file, parsed)
    elif output == "json":
        print_json(parsed.as_json(yaml=snippet))
    else:
        out(snippet, end="")


def _text(command: tuple[str, ...]) -> str:
    """The command line; several words are quoted so that they stay the words that the shell made of them."""
    if command == ("-",):
        text = sys.stdin.read() if sys.stdin is not None else ""
    else:
        text = command[0] if len(command) == 1 else shlex.join(command)
    if not text.strip():
        raise Failure("no command to parse: give it in quotes, or on stdin with -", Code.USAGE)
    return text


def _check_name(name: str) -> None:
    from reconciler.core.spec import is_name

    if not is_name(name):
        raise Failure(
            f"cannot use the name {name!r}: letters, digits, '.', '_' and '-', first a letter or digit, "
            f"at most {NAME_LIMIT} characters, and not x-... (such keys are notes)",
            Code.USAGE,
        )


def _write(session: Session, file: Path, parsed: ParsedCommand) -> None:
    """Add the instance to the file; nothing is written unless the file is valid before and after."""
    from reconciler.app import check_source
    from reconciler.config.rewrite import Taken, add_instances

    if file.is_dir():
        raise Failure(f"cannot write {file}: it is a folder; name the file in it that shall hold the instance")
    try:
        done = add_instances(
            file, {parsed.name: parsed.instance()}, load=lambda content: check_source(content, session.environ)
        )
    except Taken as taken:
        raise Failure(
            f"cannot add {parsed.name} to {file}: it declares {taken.names[0]} already; try another name with --name"
        ) from None
    except OSError as error:
        raise Failure(f"cannot write {file}: {error.strerror or error}", Code.FAILED) from None
    for each in done.notes:
        note(plain(f"note: {each}"))
    note(plain(f"added {parsed.name} to {file}"))
