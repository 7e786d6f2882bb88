"""JSON values of a pasted command as values of the configuration file, so that the file means what the command meant.

The file expands ``${NAME}`` in values (never in keys) and has limits of its own; what it could not hold stays JSON text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pydantic import JsonValue

_VARIABLE = re.compile(r"(?<!\$)\$\{")
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff\ud800-\udfff]")
_INT64 = range(-(2**63), 2**63)
MOST_VALUES = 5_000
"""Keys and values of one option; the whole file takes 20,000 nodes."""
DEEPEST = 30
"""Levels of one option; the whole file takes 40."""


def read_json(text: str, read: Callable[[str], JsonValue]) -> JsonValue:
    """The value that ``read`` makes of a word of the command; the word itself where the file could not hold that value."""
    if _VARIABLE.search(text):  # read with the variables in it, which stand inside of texts, or kept as text
        value = read(text)
        return text if any("${" in key for key in _keys(value)) or not _fits(value) else value
    literal = text.replace("$${", "${")
    value = read(literal)
    if isinstance(value, str):
        return text if value == literal else value.replace("${", "$${")
    return _escaped(value) if _fits(value) else text


def _walk(value: JsonValue) -> Iterator[tuple[JsonValue, int]]:
    stack = [(value, 0)]
    while stack:
        one, depth = stack.pop()
        yield one, depth
        if isinstance(one, dict):
            stack.extend((key, depth + 1) for key in one)
            stack.extend((item, depth + 1) for item in one.values())
        elif isinstance(one, list):
            stack.extend((item, depth + 1) for item in one)


def _keys(value: JsonValue) -> Iterator[str]:
    for one, _ in _walk(value):
        if isinstance(one, dict):
            yield from one


def _fits(value: JsonValue) -> bool:
    """Whether a file can hold the value."""
    for number, (one, depth) in enumerate(_walk(value)):
        if number > MOST_VALUES or depth > DEEPEST:
            return False
        if isinstance(one, str) and _UNFIT.search(one):
            return False
        if isinstance(one, int) and one not in _INT64:
            return False
    return True


def _escaped(value: JsonValue) -> JsonValue:
    """Its texts as the file writes them; only called for what fits."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return value
