"""Problems as people read them: place, message, the line with a caret under the spot, the cure. Pure text, no terminal library."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from reconciler.core.errors import Problem, Severity

WIDTH = 100
"""Columns of source shown; longer lines are cut around the spot."""
_TAB = 4
_FAR = 4 * WIDTH
"""Characters on each side of the spot that are considered: room for many that take no column."""
_RED, _YELLOW, _BOLD, _DIM, _OFF = "\x1b[31m", "\x1b[33m", "\x1b[1m", "\x1b[2m", "\x1b[0m"


def render(problems: Iterable[Problem], *, color: bool = False) -> str:
    """All problems as text, each ended by a newline; ``color`` adds terminal colours and nothing else."""
    return "".join(_one(problem, color) for problem in problems)


def _one(problem: Problem, color: bool) -> str:
    is_error = problem.severity is Severity.ERROR
    word, tint = ("error", _RED) if is_error else ("warning", _YELLOW)
    place, message = visible(problem.place()), visible(problem.message)
    path = f" [{visible(problem.path)}]" if problem.path else ""
    if color:
        head = f"{_BOLD}{place}:{_OFF} {tint}{word}:{_OFF} {_BOLD}{message}{_OFF}{_DIM}{path}{_OFF}\n"
    else:
        head = f"{place}: {word}: {message}{path}\n"
    parts = [head]
    if problem.source is not None and problem.column is not None:
        line, caret = _excerpt(problem.source, problem.column)
        parts.append(f"    {line}\n    {caret if not color else tint + caret + _OFF}\n")
    if problem.hint:
        parts.append(f"    {'hint' if is_error else 'note'}: {visible(problem.hint)}\n")
    parts.extend(f"    see also {visible(file)}:{line}:{column}\n" for file, line, column in problem.also)
    return "".join(parts)


def visible(text: str) -> str:
    """The text on one line with nothing in it that a terminal would obey: control and direction characters as ``\\x1b``."""
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn") and character != "\u200d":
        return character.encode("unicode_escape").decode()
    return character


def _columns(text: str) -> int:
    """Terminal columns: wide characters take two, combining ones none."""
    total = 0
    for character in text:
        if unicodedata.combining(character) or character == "\u200d":
            continue
        total += 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
    return total


def _excerpt(source: str, column: int) -> tuple[str, str]:
    """The line, cut around the spot where it is long, and a caret line of the same geometry."""
    spot = min(column - 1, len(source))
    left = max(spot - _FAR, 0)  # a line can be a whole file: what is far away is not even looked at
    near = source[left : spot + _FAR]
    is_cut_left, is_cut_right = left > 0, spot + _FAR < len(source)
    spot -= left
    pieces = [" " * _TAB if character == "\t" else _shown(character) for character in near]
    start, end = 0, len(pieces)
    if is_cut_left or is_cut_right or sum(map(_columns, pieces)) > WIDTH:
        start = _walk(pieces, spot, -1, WIDTH // 2)
        end = _walk(pieces, spot, 1, WIDTH - WIDTH // 2)
    head = "…" if is_cut_left or start > 0 else ""
    tail = "…" if is_cut_right or end < len(pieces) else ""
    before = _columns(head) + sum(map(_columns, pieces[start:spot]))
    return f"{head}{''.join(pieces[start:end])}{tail}", " " * before + "^"


def _walk(pieces: list[str], spot: int, step: int, room: int) -> int:
    """How far from the spot the room (terminal columns) reaches; an index for slicing."""
    index = spot
    while room > 0 and 0 <= index + (step if step < 0 else 0) < len(pieces):
        index += step
        room -= _columns(pieces[index] if step < 0 else pieces[index - 1])
    return index
