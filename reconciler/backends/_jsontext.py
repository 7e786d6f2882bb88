"""JSON values of a pasted command as values of the configuration file, so that the file means what the command meant.

The file expands ``${NAME}`` in values (never in keys) and has limits of its own; what it could not hold stays JSON text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from pydantic import JsonValue

from reconciler.backends._sizes import FACTORS, parts
from reconciler.backends._values import decode_json

_VARIABLE = re.compile(r"(?<!\$)\$\{")
_WHOLE = re.compile(r"[+-]?\d+(?:_\d+)*")
_LONGEST_NUMBER = 19
"""Characters of a number with a suffix: any that a server can use is shorter."""
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff\ud800-\udfff]")
_STANDS_IN = [chr(code) for code in range(0xE000, 0xF8FF)]
"""Characters of no meaning; a command has room for 128 Ki of them, so one is free unless it was made to hold them all."""
_INT64 = range(-(2**63), 2**63)
MOST_VALUES = 5_000
"""Keys and values of one option; the whole file takes 20,000 nodes."""
LONGEST_KEY = 1000
"""Characters of a key as JSON; YAML takes 1024 on one line."""
DEEPEST = 30
"""Levels of one option; the whole file takes 40."""


def read_json(text: str, read: Callable[[str], JsonValue]) -> JsonValue:
    """The value that ``read`` makes of a word of the command; the word itself where the file could not hold that value."""
    if _VARIABLE.search(text):  # read with the variables in it, which stand inside of texts, or kept as text
        value = read(text)
        return text if any("${" in key for key in _keys(value)) or not _fits(value) else value
    sign = next((sign for sign in _STANDS_IN if sign not in text), None)  # for a dollar that is no variable's
    if sign is None:
        return text
    literal = text.replace("$${", sign + "{")
    value = read(literal)
    if value == literal or not _fits(value):
        return text
    return _escaped(value, sign)


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
        if isinstance(one, dict) and any(len(json.dumps(key)) > LONGEST_KEY for key in one):
            return False
    return True


def _escaped(value: JsonValue, sign: str) -> JsonValue:
    """Its texts as the file writes them; only called for what fits."""
    if isinstance(value, str):
        return value.replace(sign, "$").replace("${", "$${")
    if isinstance(value, list):
        return [_escaped(item, sign) for item in value]
    if isinstance(value, dict):
        return {key.replace(sign, "$"): _escaped(item, sign) for key, item in value.items()}
    return value


def loose_json(text: str) -> JsonValue:
    """A dotted flag's value as vLLM reads it: JSON, else what Python takes for a whole number, else one with a suffix, else text."""
    if text == "null":
        return None
    value = decode_json(text)
    if value is not None:
        return value
    if _WHOLE.fullmatch(text) and len(text) <= _LONGEST_NUMBER:
        return int(text)
    human = parts(text)
    if human is None or len(text) > _LONGEST_NUMBER:
        return text
    number, suffix = human
    if suffix.isupper():
        return int(number) * FACTORS[suffix] if number.isdigit() else text
    return int(float(number) * FACTORS[suffix])
