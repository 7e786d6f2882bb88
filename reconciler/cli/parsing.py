"""``llamactl parse``: a command line that somebody has today, as an instance of the file. Nothing is executed."""

from __future__ import annotations

import difflib
import re
import shlex
import sys
from collections.abc import Sequence
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
    from reconciler.installed.known import Installed

NAME_LIMIT = 63
"""Characters of an instance name."""
FORMS = ("yaml", "json")
VALUES = ("--backend", "--write", "--name", "--output", "-o")
"""Options of this command; each takes a value."""
_ASSIGNED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*=)(.*)", re.DOTALL)


class ParseCommand(Command):
    """Where the COMMAND begins, everything is its own, flags included, however much it looks like an option of llamactl."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As any command, once its own options are told from the words of the COMMAND."""
        ours, words = split_arguments(args)
        return super().parse_args(ctx, [*ours, "--", *words])


def split_arguments(args: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The options of ``llamactl parse``, and the words of the COMMAND.

    Its options stand before the COMMAND, behind one that is a single word (in quotes, or ``-``), or at the very end of one that
    is not. Behind ``--`` everything is the COMMAND's.
    """
    ours: list[str] = []
    at = 0
    while at < len(args):
        if args[at] == "--":
            return ours, args[at + 1 :]
        length = _own(args, at)
        if not length:
            break
        ours += args[at : at + length]
        at += length
    words = list(args[at:])
    if words and (words[0] == "-" or any(char.isspace() for char in words[0])):
        at, rest = 1, words
        words = rest[:1]
        while at < len(rest):
            length = _own(rest, at)
            (ours if length else words).extend(rest[at : at + max(length, 1)])
            at += max(length, 1)
        return ours, words
    while len(words) > 2 and _trails(words[-2], words[-1]):
        ours += words[-2:]
        words = words[:-2]
    return ours, words


def _own(args: Sequence[str], at: int) -> int:
    """How many words an option of llamactl has here; 0 for a word that is none. A slip of the pen counts as one: click says so."""
    name = args[at].partition("=")[0]
    if not name.startswith("-") or name == "-" or any(char.isspace() for char in name):
        return 0
    if name in ("-h", "--help"):
        return 1
    if name in VALUES:
        return min(1 if "=" in args[at] else 2, len(args) - at)
    if name.startswith(("-oy", "-oj")) or difflib.get_close_matches(name, VALUES, n=1, cutoff=0.85):
        return 1
    return 0


def _trails(option: str, value: str) -> bool:
    """Whether the last two words are an option of llamactl: no server that is read here has one of these names."""
    return option in VALUES and (value in FORMS or option not in ("-o", "--output"))


@click.command(cls=ParseCommand, short_help="Turn a server's command line into an instance of the file.")
@click.argument("command", nargs=-1, required=True)
@click.option("--backend", metavar="KIND", help="Which server it starts; default: told by its first words.")
@output_option(*FORMS)
@click.option("--write", "file", type=click.Path(path_type=Path), metavar="FILE", help="Add it to FILE, comments kept.")
@click.option("--name", metavar="N", help="Name of the instance; default: made from the model.")
@click.pass_context
def parse(
    ctx: click.Context, command: tuple[str, ...], backend: str | None, output: str, file: Path | None, name: str | None
) -> None:
    """Turn a server's command line into an instance of the file.

    COMMAND is the line in quotes, or its plain words, or - for stdin. Options of llamactl stand before it, or at the very end:

    llamactl parse "vllm serve Qwen/Qwen3-0.6B --max-model-len 8192" --name qwen

    llamactl parse --name qwen vllm serve Qwen/Qwen3-0.6B --max-model-len 8192

    It is read by the options of the program that the file (--write, else the one in use) or a variable names for its server.
    """
    from reconciler.app import installed, parse_command, programs
    from reconciler.config import document

    if name is not None:
        _check_name(name)
    text = _text(command)
    session = session_of(ctx)
    known = installed(session.environ, session.state_dir)
    meant = programs(file, session.environ, known, say=lambda said: note(plain(f"note: {said}")))
    parsed, snippet = parse_command(text, backend, session.environ, known, meant)
    if name is not None:
        parsed = replace(parsed, name=name)
        snippet = document.snippet(name, parsed.instance())
    for warning in (*parsed.warnings, *parsed.doubts):
        note(f"warning: {warning}")
    if file is not None:
        _write(session, file, parsed, known)
    elif output == "json":
        print_json(parsed.as_json(yaml=snippet))
    else:
        out(snippet, end="")


def _text(command: tuple[str, ...]) -> str:
    """The command line; several words are quoted so that they stay the words that the shell made of them."""
    if command == ("-",):
        text = sys.stdin.read() if sys.stdin is not None else ""
    else:
        text = command[0] if len(command) == 1 else " ".join(map(_quoted, command))
    if not text.strip():
        raise Failure("no command to parse: give it in quotes, or on stdin with -", Code.USAGE)
    return text


def _quoted(word: str) -> str:
    """A word as a shell would be given it; in an assignment only the value is quoted, or it would be none."""
    assigned = _ASSIGNED.fullmatch(word)
    return f"{assigned[1]}{shlex.quote(assigned[2])}" if assigned is not None and assigned[2] else shlex.quote(word)


def _check_name(name: str) -> None:
    from reconciler.core.spec import is_name

    if not is_name(name):
        raise Failure(
            f"cannot use the name {name!r}: letters, digits, '.', '_' and '-', first a letter or digit, "
            f"at most {NAME_LIMIT} characters, and not x-... (such keys are notes)",
            Code.USAGE,
        )


def _write(session: Session, file: Path, parsed: ParsedCommand, known: Installed) -> None:
    """Add the instance to the file; nothing is written unless the file is valid before and after."""
    from reconciler.app import check_source
    from reconciler.config.rewrite import Taken, add_instances

    if file.is_dir():
        raise Failure(f"cannot write {file}: it is a folder; name the file in it that shall hold the instance")
    try:
        done = add_instances(
            file, {parsed.name: parsed.instance()}, load=lambda content: check_source(content, session.environ, known)
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
