"""``validate`` and ``schema``: about files, without a daemon."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from reconciler.cli.answers import Json
from reconciler.cli.failure import Code, Failure
from reconciler.cli.frame import Command, Session, file_option, output_option, session_of
from reconciler.cli.output import print_json
from reconciler.cli.problems import code_of, errors, show
from reconciler.cli.root import end_by_signals
from reconciler.cli.terminal import note, out, plain
from reconciler.core.errors import Problem, Rejected


@click.command(cls=Command, short_help="Check files without a daemon.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@file_option("The same as FILE.")
@click.option("--probe", is_flag=True, help="Also read the options of every program that an instance runs.")
@output_option("text", "json")
@click.pass_context
def validate(ctx: click.Context, files: tuple[Path, ...], file: Path | None, probe: bool, output: str) -> None:
    """Check files (or folders of files) without a daemon; every problem of each is reported.

    Without FILE, the one that `llamactl up` would use. Options are those of the installed version where that was read
    (by --probe or `llamactl vocabulary`), else of the packaged one; with --probe a program that cannot be read is an error.
    """
    if probe:
        end_by_signals(signal.SIGTERM, signal.SIGHUP)  # the programs that are asked end with it
    wanted: list[Path | None] = [*files, *([file] if file is not None else [])]
    reports = [_check(each, session_of(ctx), probe=probe) for each in wanted or [None]]
    if output == "json":
        print_json(
            {"valid": all(not errors(one.problems) for one in reports), "files": [one.as_json() for one in reports]}
        )
    else:
        for report in reports:
            _tell(report)
    bad = [problem for one in reports for problem in errors(one.problems)]
    if bad:
        ctx.exit(code_of(bad))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    """What was found in one file."""

    name: str
    instances: int
    problems: tuple[Problem, ...]
    """Warnings included."""
    notes: tuple[str, ...]
    """What it was checked against, where that is not what comes with llamactl."""
    installed: Sequence[Mapping[str, str | bool]]

    def as_json(self) -> Json:
        return {
            "file": self.name,
            "valid": not errors(self.problems),
            "instances": self.instances,
            "problems": [problem.as_json() for problem in self.problems],
            "installed": [dict(one) for one in self.installed],
            "notes": list(self.notes),
        }


def _check(file: Path | None, session: Session, *, probe: bool) -> _Report:
    from reconciler import app
    from reconciler.cli.vocabulary import lines_about, used_tables
    from reconciler.config.source import find_file

    said: list[str] = []
    known = app.installed(session.environ, session.state_dir, say=said.append)
    name = str(file) if file is not None else "llamactl.yaml"
    try:
        path = find_file(file, session.environ)
        name = str(path)
        environ = session.environ
        fleet = app.check_probed(path, environ, known, note) if probe else app.check(path, environ, known)
    except Rejected as rejected:
        count, problems = 0, rejected.problems
    else:
        count, problems = len(fleet.instances), fleet.warnings
    if probe and known.unreadable is not None:
        said.append(known.unreadable)
    return _Report(
        name=name, instances=count, problems=problems, notes=lines_about(known, said), installed=used_tables(known)
    )


def _tell(report: _Report) -> None:
    show(report.problems, to_stdout=True)
    for text in report.notes:
        note(text)
    bad = len(errors(report.problems))
    if bad:
        out(plain(f"{report.name}: invalid, {bad} problem{'s' * (bad != 1)}"))
    else:
        out(plain(f"{report.name}: valid, {report.instances} instance{'s' * (report.instances != 1)}"))


@click.command(cls=Command, short_help="Print the JSON schema of the file.")
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write it there; default: stdout."
)
@click.option("--installed", is_flag=True, help="With the options of the installed programs, read from them.")
@file_option(
    "With --installed: whose `backends` say which programs; default: the one that `up` would use, if there is one."
)
@click.pass_context
def schema(ctx: click.Context, target: Path | None, installed: bool, file: Path | None) -> None:
    """Print the JSON schema of llamactl.yaml, for editors and checkers.

    Without --installed it is the same on every host: that of the packaged versions.
    """
    from reconciler.config.schema import as_text

    if file is not None and not installed:
        raise Failure("-f says whose programs are read: it goes with --installed", Code.USAGE)
    if installed:
        from reconciler.cli.vocabulary import installed_schema

        text = as_text(installed_schema(session_of(ctx), file))
    else:
        from reconciler import app

        text = as_text(app.schema(session_of(ctx).environ))
    if target is None or target == Path("-"):
        out(text.rstrip("\n"))
        return
    from reconciler.host.store import write_atomic

    try:
        write_atomic(target, text.encode(), 0o644)
    except OSError as error:
        raise Failure(f"cannot write {target}: {error.strerror or error}", Code.FAILED) from None
    note(f"wrote {target}")
