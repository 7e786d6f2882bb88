"""How problems look: the place first, the caret under the spot whatever the characters, nothing that a terminal would obey."""

from __future__ import annotations

import re
import time

import pytest

from reconciler.config.report import WIDTH, render
from reconciler.core.errors import Problem, Severity
from tests.config.fakes import one, problems


def test_a_problem_is_shown_with_place_line_caret_and_cure() -> None:
    shown = render(problems(one(more="stat: running")))
    assert shown == (
        "f.yaml:5:5: error: unknown key `stat` [instances.a.stat]\n"
        "        stat: running\n"
        "        ^\n"
        "    hint: did you mean `state`?\n"
    )


def test_what_belongs_to_it_elsewhere_is_named() -> None:
    shown = render(problems("instances:\n  a: {backend_type: fake, backend_options: {model: m}}\n  a: {}\n"))
    assert "    see also f.yaml:2:3\n" in shown


def test_a_problem_without_a_place_is_one_line() -> None:
    assert render([Problem(message="cannot read: no such file", file="x.yaml")]) == (
        "x.yaml: error: cannot read: no such file\n"
    )


def test_a_warning_says_warning() -> None:
    problem = Problem(message="m", hint="h", severity=Severity.WARNING, file="f", line=1, column=1, source="a")
    assert render([problem]) == "f:1:1: warning: m\n    a\n    ^\n    note: h\n"


def _spot(source: str, column: int) -> tuple[str, str]:
    _, line, caret = render([Problem(message="m", file="f", line=1, column=column, source=source)]).splitlines()
    return line[4:], caret[4:]


@pytest.mark.parametrize(
    ("source", "column", "shown", "before"),
    [
        ("abc", 3, "abc", 2),
        ("\tabc", 2, "    abc", 4),
        ("日本: x", 5, "日本: x", 6),
        ("e\u0301a: x", 5, "e\u0301a: x", 3),
        ("a\x1b[31mb", 7, "a\\x1b[31mb", 9),
        ("abc", 4, "abc", 3),
        ("abc", 99, "abc", 3),
    ],
)
def test_the_caret_stands_under_the_spot(source: str, column: int, shown: str, before: int) -> None:
    line, caret = _spot(source, column)
    assert line == shown
    assert caret == " " * before + "^"


def test_a_line_that_is_a_whole_file_costs_no_more_than_what_is_shown() -> None:
    source = "x" * 1_000_000
    started = time.process_time()
    for column in range(1, 1_000_000, 10_000):
        _spot(source, column)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("column", [1, 50, 500, 990, 1000])
def test_a_long_line_is_cut_around_the_spot(column: int) -> None:
    source = "".join(str(index % 10) for index in range(1000))
    line, caret = _spot(source, column)
    assert len(line) <= WIDTH + 2
    assert line[len(caret) - 1] == source[column - 1]
    assert line.startswith("…") == (column > WIDTH // 2 + 1)


def test_terminal_escapes_in_the_users_text_are_shown_and_not_sent() -> None:
    problem = Problem(
        message="bad \x1b]0;owned\x07",
        hint="\u202egnp.exe",
        file="a\x1b[2J.yaml",
        line=1,
        column=1,
        source="\x9b31m",
        path="x\r",
    )
    shown = render([problem])
    assert "\\x1b]0;owned\\x07" in shown
    assert "\\u202e" in shown
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)


def test_color_adds_nothing_but_color() -> None:
    found = problems(one(more="stat: running\nreplicas: 0"))
    colored = render(found, color=True)
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[[0-9]*m", "", colored) == render(found)
