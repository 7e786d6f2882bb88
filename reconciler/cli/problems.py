"""Problems with what the user wrote, shown with place, line and caret, whether this process found them or a daemon did."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from reconciler.cli.answers import Node
from reconciler.cli.failure import Code
from reconciler.cli.terminal import colored, err, out, plain
from reconciler.core.errors import Problem, Severity


def from_answer(nodes: Iterable[Node]) -> tuple[Problem, ...]:
    """Problems as a daemon lists them."""
    return tuple(
        Problem(
            message=plain(node.text("message")),
            hint=plain(node.text("hint")) or None,
            code=node.text("code") or "CONFIG_INVALID",
            severity=Severity.WARNING if node.text("severity") == Severity.WARNING else Severity.ERROR,
            file=plain(node.text("file")) or None,
            line=node.optional_number("line"),
            column=node.optional_number("column"),
            path=plain(node.text("path")),
            source=plain(node.text("source")) or None,
        )
        for node in nodes
    )


def show(problems: Sequence[Problem], *, to_stdout: bool = False) -> None:
    """Print them for people."""
    if not problems:
        return
    from reconciler.config.report import render

    stream = sys.stdout if to_stdout else sys.stderr
    write = out if to_stdout else err
    write(render(problems, color=colored(stream)), end="")


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """Those that make a file unusable."""
    return [problem for problem in problems if problem.severity is Severity.ERROR]


def code_of(problems: Iterable[Problem]) -> Code:
    """Unreadable outranks invalid."""
    if any(problem.code == "CONFIG_NOT_READABLE" for problem in problems):
        return Code.NO_INPUT
    return Code.INVALID
