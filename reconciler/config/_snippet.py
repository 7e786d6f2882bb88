"""A new instance as lines of YAML, for showing and pasting: written directly, because ruamel needs 6 ms for forty settings.

It must mean what ruamel's lines (``_render.block``) mean; edits of a user's file are made with those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from reconciler.config._guard import BadScalar, resolve
from reconciler.config._render import flow, is_lines, key_text, plain_text

_STEP = 2
"""Columns of one level."""
_LONGEST_KEY = 1000
"""Characters; YAML takes 1024 before the colon, and more only behind a question mark."""
_SENTENCE = re.compile(r"[A-Za-z_][A-Za-z0-9_./=-]*(?: [A-Za-z0-9_./=-]+)+")
"""Words that stay bare: nothing in them means anything to YAML."""


def lines(value: Mapping[str, JsonValue], indent: int = 0) -> Iterator[str]:
    """A mapping in block style, without line ends."""
    pad = " " * indent
    for name, item in value.items():
        key = key_text(name)
        head = f"{pad}{key}:" if len(key) < _LONGEST_KEY else f"{pad}? {key}\n{pad}:"
        if isinstance(item, dict) and item:
            yield head
            yield from lines(item, indent + _STEP)
        elif isinstance(item, list) and item:
            yield head
            for one in item:
                yield f"{pad}{' ' * _STEP}- {_scalar(one)}"
        elif isinstance(item, str) and is_lines(item):
            yield f"{head} {'|' if item.endswith(chr(10)) else '|-'}"
            for line in item.removesuffix("\n").split("\n"):
                yield f"{pad}{' ' * _STEP}{line}"
        else:
            yield f"{head} {_scalar(item)}"


def _scalar(value: JsonValue) -> str:
    """One value on one line."""
    match value:
        case str():
            return value if _is_sentence(value) else plain_text(value)
        case float():
            mantissa, exponent, rest = repr(value).partition("e")
            return mantissa if not exponent else f"{mantissa if '.' in mantissa else mantissa + '.0'}e{rest}"
        case _:
            return flow(value)


def _is_sentence(text: str) -> bool:
    try:
        return _SENTENCE.fullmatch(text) is not None and resolve(text) == text
    except BadScalar:
        return False
