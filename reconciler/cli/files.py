"""``validate`` and ``schema``: about files, without a daemon."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from reconciler.cli.answers import Json
from reconciler.cli.failure import Code, Failure
from reconciler.cli.frame import Command, file_option, output_option, session_of
from reconciler.cli.output import print_json
from reconciler.cli.problems import code_of, errors, show
from reconciler.cli.terminal import note, out, plain
from reconciler.core.errors import Problem, Rejected


@click.command(cls=Command, short_help="Check files without a daemon.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@file_option("The same as FILE.")
@output_option("text", "json")
@click.pass_context
def validate(ctx: click.Context, files: tuple[Path, ...], file: Path | None, output: str) -> None:
    """Check files (or folders of files) without a daemon; every problem of each is reported.

    Without FILE, the one that `llamactl up` would use.
    """
    wanted: list[Path | None] = [*files, *([file] if file is not None else [])]
    reports = [_check(each, session_of(ctx).environ) for each in wanted or [None]]
    if output == "json":
        print_json(
            {"valid": all(not errors(found) for _, _, found in reports), "files": [_json(*one) for one in reports]}
        )
    else:
        for report in reports:
            _tell(*report)
    bad = [problem for _, _, found in reports for problem in errors(found)]
    if bad:
        ctx.exit(code_of(bad))


_Report = tuple[str, int, tuple[Problem, ...]]


def _check(file: Path | None, environ: Mapping[str, str]) -> _Report:
    """Name, number of instances, problems (warnings included)."""
    from reconciler.app import check
    from reconciler.config.source import find_file

    try:
        path = find_file(file, environ)
        fleet = check(path, environ)
    except Rejected as rejected:
        return str(file) if file is not None else "llamactl.yaml", 0, rejected.problems
    return str(path), len(fleet.instances), fleet.warnings


def _json(name: str, instances: int, found: tuple[Problem, ...]) -> Json:
    return {
        "file": name,
        "valid": not errors(found),
        "instances": instances,
        "problems": [problem.as_json() for problem in found],
    }


def _tell(name: str, instances: int, found: tuple[Problem, ...]) -> None:
    show(found, to_stdout=True)
    bad = len(errors(found))
    if bad:
        out(plain(f"{name}: invalid, {bad} problem{'s' * (bad != 1)}"))
    else:
        out(plain(f"{name}: valid, {instances} instance{'s' * (instances != 1)}"))


@click.command(cls=Command, short_help="Print the JSON schema of the file.")
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write it there; default: stdout."
)
@click.pass_context
def schema(ctx: click.Context, target: Path | None) -> None:
    """Print the JSON schema of llamactl.yaml, for editors and checkers."""
    from reconciler import app
    from reconciler.config.schema import as_text

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
