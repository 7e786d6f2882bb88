"""What the YAML library says when it cannot read a text, in words that name the mistake and its place. Reads nothing of the values."""

from __future__ import annotations

import re
from contextlib import suppress

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, StreamMark, YAMLError
from ruamel.yaml.tokens import (
    FlowMappingEndToken,
    FlowMappingStartToken,
    FlowSequenceEndToken,
    FlowSequenceStartToken,
)

from reconciler.config._guard import rejected
from reconciler.config._tree import Place
from reconciler.core.errors import Problem

_CURES = (
    ("'\\t'", "a tab where YAML wants spaces", "indent with spaces"),
    ("mapping values are not allowed", "a second `:` in one value", "put text that has `: ` in it in quotes"),
    ("could not find expected ':'", "a key without its `:`", "write `key: value`"),
    ("expected <block end>", "this does not line up with what is above it", "check the indentation and open brackets"),
    ("expected ',' or", "a bracket or brace is not closed before this", "add the missing `,`, `]` or `}`"),
    ("found unexpected end of stream", "a quote is opened and never closed", "close it"),
    ("found ']'", "a `]` that closes nothing", "remove it, or open it with `[`"),
    ("found '}'", "a `}` that closes nothing", "remove it, or open it with `{`"),
    ("expected the node content", "no value where one must stand", "write a value, or put text in quotes"),
    ("'`'", "text may not begin with a backtick", "put it in quotes"),
    ("'@'", "text may not begin with @", "put it in quotes"),
    ("'%'", "text may not begin with %", "put it in quotes"),
)


def syntax_problem(error: YAMLError, text: str, name: str, lines: tuple[str, ...]) -> Problem:
    """A parser's complaint in our words, where we have better ones."""
    if not isinstance(error, MarkedYAMLError):
        return rejected(Place(name, 1, 1), f"not valid YAML: {error}").problems[0]
    mark = error.problem_mark or error.context_mark
    place = Place(name, mark.line + 1, mark.column + 1) if mark is not None else Place(name, 1, 1)
    said = str(error.problem or error.context or "cannot be read")
    line = lines[min(place.line, len(lines)) - 1]
    if "mapping values are not allowed" in said:
        told = _deeper(place, line, lines) or _no_colon(place, line, lines)
        if told is not None:
            return told
    at_the_end = not line[place.column - 1 :].strip() and not any(later.strip() for later in lines[place.line :])
    if at_the_end and (opened := _open_bracket(text)) is not None:
        mark_of, character = opened
        message = f"not valid YAML: this `{character}` is opened and never closed"
        missing = "add the missing `]`" if character == "[" else "add the missing `}`"
        return Problem(message=message, hint=missing, file=name, line=mark_of.line + 1, column=mark_of.column + 1)
    message = f"not valid YAML: {said}"
    hint: str | None = None
    for part, words, cure in _CURES:
        if part in said:
            message, hint = f"not valid YAML: {words}", cure
            break
    if "${" in line and "expected ',' or" in said:
        hint = "inside braces or brackets put ${…} in quotes"
    also: tuple[tuple[str, int, int], ...] = ()
    start = error.context_mark
    if start is not None and "unexpected end of stream" in said:  # the end says nothing; the open quote does
        return Problem(message=message, hint=hint, file=name, line=start.line + 1, column=start.column + 1)
    if start is not None and (start.line, start.column) != (place.line - 1, place.column - 1):
        also = ((name, start.line + 1, start.column + 1),)
    return Problem(message=message, hint=hint, file=name, line=place.line, column=place.column, also=also)


def _deeper(place: Place, line: str, lines: tuple[str, ...]) -> Problem | None:
    """A key that stands deeper than the ``key: value`` above it, which the parser takes for more of that value."""
    indent = len(line) - len(line.lstrip(" "))
    if ":" in line[: place.column - 1]:  # the second colon of this very line
        return None
    above = next(
        (at for at in range(place.line - 2, -1, -1) if lines[at].strip() and lines[at].strip()[0] != "#"), None
    )
    if above is None or ": " not in lines[above]:
        return None
    before = lines[above]
    wanted = len(before) - len(before.lstrip(" -"))
    if indent <= wanted:
        return None
    return Problem(
        message=f"not valid YAML: this line is indented deeper than line {above + 1}, which has its value already",
        hint=f"line it up with line {above + 1}: {wanted} spaces in place of {indent}",
        file=place.file,
        line=place.line,
        column=indent + 1,
        also=((place.file, above + 1, wanted + 1),),
    )


def _no_colon(place: Place, line: str, lines: tuple[str, ...]) -> Problem | None:
    """A line of words above a key, which the parser reads as one text with it: most likely a key that lacks its colon."""
    if ":" in line[: place.column - 1]:
        return None
    above = place.line - 2
    while above >= 0 and (not lines[above].strip() or lines[above].lstrip().startswith("#")):
        above -= 1
    before = lines[above] if above >= 0 else ""
    words = before.split()
    if len(words) != 2 or ":" in before or _SETTING.fullmatch(words[0]) is None:
        return None
    return Problem(
        message="not valid YAML: a key without its `:`",
        hint=f"write `{words[0]}: …`",
        file=place.file,
        line=above + 1,
        column=len(before) - len(before.lstrip(" ")) + 1,
    )


_SETTING = re.compile(r"(?=.{1,40}$)[a-z]+(?:[_-][a-z]+)*")
"""A word that may be a setting's name: it is repeated, so it may be no key of a service."""


def _open_bracket(text: str) -> tuple[StreamMark, str] | None:
    """The innermost bracket or brace that is still open where the text ends."""
    opened: list[tuple[StreamMark, str]] = []
    with suppress(YAMLError):
        for token in YAML(typ="safe", pure=True).scan(text):
            if isinstance(token, FlowSequenceStartToken | FlowMappingStartToken):
                opened.append((token.start_mark, "[" if isinstance(token, FlowSequenceStartToken) else "{"))
            elif isinstance(token, FlowSequenceEndToken | FlowMappingEndToken) and opened:
                opened.pop()
    return opened[-1] if opened else None
