"""``llamactl import``: another tool's file as a file of ours, and what is lost with it. Nothing is executed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.failure import Code, Failure
from reconciler.cli.frame import Command, Session, output_option, session_of
from reconciler.cli.output import print_json
from reconciler.cli.terminal import note, out, plain

if TYPE_CHECKING:
    from reconciler.config.importers.contract import Importer, Lost
    from reconciler.config.importers.write import Written
    from reconciler.installed.known import Installed

STDIN = "<stdin>"
SHOWN_CLASHES = 5
"""Names that a refusal lists."""


class ImportCommand(Command):
    """A command whose help lists the kinds, which are read only to show them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The kinds, above the options."""
        from reconciler.app import importers

        with formatter.section("Kinds"):
            formatter.write_dl([(kind, one.help) for kind, one in importers().items()])
        super().format_options(ctx, formatter)


@click.command(cls=ImportCommand, name="import", short_help="Turn another tool's file into a file of llamactl's.")
@click.argument("kind")
@click.argument("file", required=False)
@output_option("yaml", "json")
@click.option(
    "--write",
    "target",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Add the instances to FILE, comments kept.",
)
@click.pass_context
def import_(ctx: click.Context, kind: str, file: str | None, output: str, target: Path | None) -> None:
    """Turn another tool's file into a file of llamactl's.

    FILE may be - for stdin, or a folder where the tool keeps one. The YAML is on stdout, and valid where the variables that it names
    are set: secrets stay out of it, as ${NAME}. What could not be carried over is on stderr, each with its place, the reason and a
    cure; the last line there names the variables to set:

    llamactl import llama-swap config.yaml > llamactl.yaml

    Where not a single instance can be made, nothing is written and the exit code is 1.
    """
    from reconciler.app import import_instances, installed, programs

    importer = _importer(kind)
    session = session_of(ctx)
    known = installed(session.environ, session.state_dir)
    meant = programs(target, session.environ, known, say=lambda text: note(plain(f"note: {text}")))
    written = import_instances(importer.kind, _files(importer, file), session.environ, known, meant)
    origin = STDIN if file == "-" else file or importer.kind
    for lost in written.lost:
        note(plain(_line(lost, origin)))
    _conclude(written)
    if output == "json" and target is None:
        print_json(_json(written, origin))
    if not written.instances:
        raise Failure(f"nothing was imported from {plain(origin)}: no instance could be made of it", Code.FAILED)
    if target is not None:
        _add(session, target, written, known)
    elif output != "json":
        out(written.text, end="")
    if written.unset:
        note(f"set {', '.join(written.unset)} before you use it")


def _importer(kind: str) -> Importer:
    from reconciler.app import importers

    known = importers()
    if kind not in known:
        raise Failure(f"there is no kind {kind!r} to import; there are {', '.join(known)}", Code.USAGE)
    return known[kind]


def _files(importer: Importer, file: str | None) -> Mapping[str, bytes]:
    """What is read, by the name that messages use."""
    from reconciler.config import source

    if not importer.needs_file:
        if file is not None:
            raise Failure(f"{importer.kind} reads no file: leave {file} out", Code.USAGE)
        return {importer.kind: b""}
    if file is None:
        raise Failure(f"name the file to import as {importer.kind}, or - for stdin", Code.USAGE)
    if file == "-":
        data = sys.stdin.buffer.read(source.MAX_BYTES + 1) if sys.stdin is not None else b""
        if len(data) > source.MAX_BYTES:
            raise Failure(f"cannot read {STDIN}: larger than {source.MAX_BYTES // 1024} KiB", Code.INVALID)
        return {STDIN: data}
    path = Path(file)
    pattern = getattr(importer, "pattern", None)
    if not path.is_dir() or pattern is None:
        return {file: source.read(path).files[0].data if not path.is_dir() else _refuse_folder(importer, file)}
    found = sorted(one for one in path.glob(pattern) if not one.name.startswith("."))
    if not found:
        raise Failure(f"cannot read {file}: there is no {pattern} in this folder", Code.NO_INPUT)
    if len(found) > source.MAX_FILES:
        raise Failure(f"cannot read {file}: more than {source.MAX_FILES} files", Code.NO_INPUT)
    return {str(one): source.read(one).files[0].data for one in found}


def _refuse_folder(importer: Importer, file: str) -> bytes:
    raise Failure(f"cannot read {file}: this is a folder; name the file to import as {importer.kind}", Code.NO_INPUT)


def _line(lost: Lost, origin: str) -> str:
    place = [lost.file or origin, *(str(part) for part in (lost.line, lost.column) if part is not None)]
    cure = f" ({lost.cure})" if lost.cure else ""
    return f"{':'.join(place)}: {lost.what}: {lost.why}{cure}"


def _conclude(written: Written) -> None:
    count, lost = len(written.instances), len(written.lost)
    instances = f"{count} instance{'' if count == 1 else 's'}"
    note(
        f"{instances}, {lost} thing{'' if lost == 1 else 's'} could not be carried over as {'it is' if lost == 1 else 'they are'}"
    )


def _json(written: Written, origin: str) -> dict[str, Any]:
    lost: Sequence[Mapping[str, Any]] = [
        {
            "file": one.file or origin,
            "line": one.line,
            "column": one.column,
            "what": one.what,
            "why": one.why,
            "cure": one.cure,
        }
        for one in written.lost
    ]
    return {
        "instances": list(written.instances),
        "lost": list(lost),
        "variables": list(written.unset),
        "yaml": written.text,
    }


def _add(session: Session, target: Path, written: Written, known: Installed) -> None:
    """Add the instances to a file; it is untouched unless it is valid before and after, and has none of the names."""
    from reconciler.app import check_source
    from reconciler.config.rewrite import Taken, add_instances

    if target.is_dir():
        raise Failure(f"cannot write {target}: it is a folder; name the file in it that shall hold the instances")
    try:
        done = add_instances(
            target, written.instances, load=lambda content: check_source(content, session.environ, known)
        )
    except Taken as taken:
        more = ", …" if len(taken.names) > SHOWN_CLASHES else ""
        raise Failure(
            f"cannot add to {target}: it declares {', '.join(taken.names[:SHOWN_CLASHES])}{more} already; "
            "import to stdout and take over what you want"
        ) from None
    except OSError as error:
        raise Failure(f"cannot write {target}: {error.strerror or error}", Code.FAILED) from None
    for each in done.notes:
        note(plain(f"note: {each}"))
    for section in written.sections:
        note(f"{section}: was not added: only instances are; import to stdout to see it")
    note(plain(f"added {len(written.instances)} to {target}"))
