"""``vocabulary``: the options of a server as the installed program itself tells them, and what the other commands say of such tables."""

from __future__ import annotations

import json
import shlex
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.failure import Code, Failure
from reconciler.cli.frame import Command, Session, file_option, output_option, session_of
from reconciler.cli.output import columns, print_json
from reconciler.cli.root import end_by_signals
from reconciler.cli.terminal import note, out, plain
from reconciler.core.errors import Problem, Rejected

if TYPE_CHECKING:
    from reconciler.core.options import OptionTable
    from reconciler.installed.known import Installed, Reading

NAMED_AT_MOST = 12
"""Options of each sort that a comparison names; more are counted."""
_HEADS = ("OPTION", "TAKES", "DEFAULT", "NEGATIVE", "DEPRECATED", "GROUP")
_WIDEST = 40
"""Characters of what an option takes, or of its default."""
_UNTOLD = frozenset({"help", "group"})
"""Fields of an option whose difference changes nothing that can be written."""


@click.command(cls=Command, short_help="Read an installed server's own options.")
@click.argument("backend", metavar="BACKEND")
@click.option("--executable", metavar="WORDS", help="The program, as in the file; default: what the file says.")
@file_option("Whose `backends` say which program it is; default: the one that `up` would use, if there is one.")
@click.option("--refresh", is_flag=True, help="Ask the program even if it was read before.")
@output_option("table", "json", "name")
@click.pass_context
def vocabulary(
    ctx: click.Context, backend: str, executable: str | None, file: Path | None, refresh: bool, output: str
) -> None:
    """Read the options of an installed server from the program itself.

    BACKEND is vllm, llama-cpp or mlx. What was read is kept in the state folder, and from then on `validate`, `plan` and
    the daemon check files against it, for as long as the program stays the same.

    A program that cannot be found is 66, one that does not answer in time is 124.
    """
    from reconciler import app
    from reconciler.installed import probe

    end_by_signals(signal.SIGTERM, signal.SIGHUP)
    session = session_of(ctx)
    known = app.installed(session.environ, session.state_dir, say=note)
    kind = known.kind_of(backend)
    if kind is None:
        names = ", ".join(known.readable()) or "none"
        raise Failure(f"there is no backend {backend!r} whose options can be read; known here: {names}", Code.USAGE)
    declared: Mapping[str, str | None] = {}
    if executable is not None and file is None:
        words = _split(executable)
    else:
        need = probe.needed(file, session.environ, known.backends)
        declared = need.backends.environment
        found = known.backends[kind].executable(None, need.backends)
        words = _split(executable) if executable is not None else found or ()
        others = sorted(shlex.join(own) for other, own in need.own if other == kind and own != words)
        if others:
            note(f"some instances name a program of their own: {', '.join(others)} (`validate --probe` reads them all)")
    began = time.monotonic()
    try:
        read = known.read(kind, words, refresh=refresh, declared=declared, tell=note)
    except Rejected as rejected:
        problem = rejected.problems[0]
        if executable is None:
            problem = probe.with_place(problem, known.backends[kind])
            problem = replace(problem, hint=f"{problem.hint}, this command as --executable")
        raise _failure(problem) from None
    _tell(read, known, time.monotonic() - began)
    if output == "json":
        print_json(dict(read.table))  # type: ignore[arg-type]  # it came from JSON
    elif output == "name":
        for option in _options(read.table):
            out(plain(str(option["name"])))
    else:
        for line in columns([_HEADS, *map(_row, _options(read.table))]):
            out(plain(line))


def _split(text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise Failure(f"cannot split --executable into words: {error}", Code.USAGE) from None
    if not words:
        raise Failure("--executable names no program", Code.USAGE)
    return words


def _failure(problem: Problem) -> Failure:
    """A program that is not there is 66, one that did not end is 124, one that cannot be understood is 1."""
    from reconciler.host.programs import NOT_FOUND
    from reconciler.host.reading import TIMED_OUT

    code = {NOT_FOUND: Code.NO_INPUT, TIMED_OUT: Code.TIMED_OUT}.get(problem.code, Code.FAILED)
    return Failure(plain(sentence(problem)), code)


def sentence(problem: Problem) -> str:
    """What is wrong with a program and what to do about it, without a place in a file."""
    first, *rest = problem.message.split("\n")
    return "\n".join([first if problem.hint is None else f"{first}; {problem.hint}", *rest])


def _tell(read: Reading, known: Installed, seconds: float) -> None:
    from reconciler.backends._vocabulary import packaged_json
    from reconciler.installed.probe import shortcomings

    note(source_of(read))
    if not read.cached:
        kept = f"; kept in {read.file}" if read.file is not None else ""
        note(f"read in {seconds:.1f} s{kept}")
    for text in shortcomings(read):
        note(text)
    if known.unreadable is not None:
        note(known.unreadable)
    packaged = packaged_json(read.kind)
    if packaged is not None:
        for line in differences(packaged, read.table):
            note(line)


def source_of(read: Reading) -> str:
    """Which version it is, and where its options come from."""
    how = f"from the cache, read {read.read_at} from" if read.cached else "read from"
    return f"options of {read.label}, {how} {read.path}"


def differences(packaged: OptionTable, table: OptionTable) -> Iterator[str]:
    """How a table differs from the one that comes with llamactl, in a few lines."""
    from reconciler.backends._reading import compared

    found = compared(packaged, table, but=_UNTOLD)
    listed = (("new", found.added), ("gone", found.gone), ("changed", tuple(found.changed)))
    if any(names for _, names in listed):
        counts = ", ".join(f"{len(names)} {what}" for what, names in listed)
        yield f"against the packaged {packaged.get('version')}: {counts}"
        for what, names in listed:
            if names:
                more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
                yield f"  {what}: {', '.join(names[:NAMED_AT_MOST])}{more}"
    else:
        yield f"{len(_options(table))} options, the same as in the packaged {packaged.get('version')}"


def _options(table: OptionTable) -> Sequence[Mapping[str, Any]]:
    options = table.get("options")
    return [one for one in options if isinstance(one, dict)] if isinstance(options, list) else []


def _row(option: Mapping[str, Any]) -> tuple[str, ...]:
    flags = [str(flag) for flag in option.get("flags") or [option["name"]]]
    own = "--" + str(option["name"]).replace("_", "-")
    default = option.get("default")
    return (
        own if own in flags else next((flag for flag in flags if flag.startswith("--")), flags[0]),
        _short(_takes(option)),
        "" if default is None else _short(json.dumps(default, ensure_ascii=False)),
        " ".join(map(str, option.get("negative") or ())),
        "removed" if option.get("removed") else "yes" if option.get("deprecated") else "",
        str(option.get("group") or ""),
    )


def _takes(option: Mapping[str, Any]) -> str:
    """How many values, and of what."""
    kind = option.get("kind")
    if kind == "switch":
        return "-"
    item = str(option.get("type"))
    choices = option.get("choices")
    if choices:
        item = "|".join(str(choice) for choice in choices)
    elif option.get("words"):
        item = "|".join([item, *map(str, option["words"])])
    forms = {
        "list": f"{item} ...",
        "append": f"{item}, repeated",
        "comma": f"{item},...",
        "tuple": f"{item} x{option.get('count')}",
    }
    return forms.get(str(kind), item)


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def installed_schema(session: Session, file: Path | None) -> dict[str, Any]:
    """The schema of the file with the options of the programs that are installed; what went in is told on stderr."""
    from reconciler import app
    from reconciler.installed import probe

    end_by_signals(signal.SIGTERM, signal.SIGHUP)
    known = app.installed(session.environ, session.state_dir, say=note)
    need = probe.needed(file, session.environ, known.backends)
    results = probe.read_default_programs(need.backends, known, note)
    labels = []
    for kind, result in results.items():
        if isinstance(result, Problem):
            note(f"{kind}: the packaged options, because: {sentence(result)}")
            continue
        labels.append(f"{result.label} ({result.path})")
        note(f"{kind}: {source_of(result)}")
        for text in probe.shortcomings(result):
            note(text)
    if known.unreadable is not None:
        note(known.unreadable)
    if not labels:
        where = f"`backends` in {need.file}" if need.file is not None else "LLAMACTL_..._EXECUTABLE or a file (-f)"
        raise Failure(
            f"cannot write a schema for installed versions: no program could be read; say where they are by {where}"
        )
    if need.own:
        own = ", ".join(sorted({shlex.join(words) for _, words in need.own}))
        note(f"not in it: programs that single instances name ({own}); `validate --probe` checks those")
    schema = probe.schema_here(need.backends, known)
    origin = f"Options of {', '.join(labels)}; the others are those of the versions packaged with llamactl."
    schema["$comment"] = f"{origin} {schema['$comment']}"
    return schema


def used_tables(known: Installed) -> list[dict[str, str | bool]]:
    """The tables that a load went by, for programs."""
    return [
        {"backend_type": one.kind, "version": one.used, "program": one.path, "outdated": one.outdated}
        for one in known.notes
    ]


def lines_about(known: Installed, said: Iterable[str]) -> tuple[str, ...]:
    """What a load went by, for people: what was said meanwhile, and the tables that were used."""
    return (*said, *(one.text for one in known.notes if not one.outdated))  # an outdated one was said
