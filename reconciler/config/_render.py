"""Values as YAML text: bare or quoted scalars, one line between brackets, or lines of block style; such that no program misreads it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

from reconciler.config._guard import BadScalar, resolve

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_OLD_YAML = re.compile(r"(?i:y|n|yes|no|on|off)|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
"""Text that YAML 1.1 takes for a boolean or a number in base 60; we do not, other people's tools do."""
_WIDE = 1 << 20
"""Columns; no line of the user's is ever folded."""


def quoted(text: str) -> str:
    """Text between double quotes; what cannot be seen is escaped."""
    return "".join(_escaped(character) for character in json.dumps(text, ensure_ascii=False))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def plain_text(value: str) -> str:
    """Text as YAML: bare where nobody can take it for anything else, quoted otherwise."""
    try:
        if _PLAIN.fullmatch(value) and not _OLD_YAML.fullmatch(value) and resolve(value) == value:
            return value
    except BadScalar:
        pass
    return quoted(value)


def key_text(name: str) -> str:
    """A key as YAML; one letter is no boolean to anybody when it stands before a colon."""
    return name if len(name) == 1 and _PLAIN.fullmatch(name) else plain_text(name)


def flow(value: JsonValue, *, as_json: bool = False) -> str:
    """The value on one line; ``as_json`` quotes all text, as JSON does."""
    match value:
        case str():
            return quoted(value) if as_json else plain_text(value)
        case dict():
            key = quoted if as_json else key_text
            return "{" + ", ".join(f"{key(name)}: {flow(item, as_json=as_json)}" for name, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(flow(item, as_json=as_json) for item in value) + "]"
        case _:
            return json.dumps(value)


def line(value: JsonValue) -> str:
    """The value on one line of block style, where text needs fewer quotes than between brackets."""
    if not isinstance(value, str) or "\n" in value:
        return flow(value)
    lines = block({"k": value}, 2)
    return lines[0].removeprefix("k: ") if len(lines) == 1 else quoted(value)


def _styled(value: JsonValue) -> Any:
    """A fresh copy for ruamel, which declares no types: quotes where YAML 1.1 programs would misread, lines for text of several lines."""
    match value:
        case dict():
            return {key if len(key) == 1 else _styled(key): _styled(item) for key, item in value.items()}
        case list():
            return [_styled(item) for item in value]
        case str():
            if is_lines(value):
                return LiteralScalarString(value)
            odd = _OLD_YAML.fullmatch(value) or not value.isprintable()
            return DoubleQuotedScalarString(value) if odd else value
        case _:
            return value


def is_lines(text: str) -> bool:
    """Text that is best shown as lines: each visible from its first to its last character."""
    lines = text.removesuffix("\n").split("\n")
    return len(lines) > 1 and all(line and line.isprintable() and line == line.strip() for line in lines)


def block(value: Mapping[str, JsonValue], step: int, *, dash: int | None = None) -> list[str]:
    """A mapping as lines of block style, unindented, without line ends; ``dash`` columns before a list's dashes (``step``)."""
    offset = step if dash is None else dash
    yaml = YAML(typ="rt", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = _WIDE
    yaml.indent(mapping=step, sequence=offset + 2, offset=offset)
    stream = io.StringIO()
    yaml.dump(_styled(dict(value)), stream)
    return stream.getvalue().removesuffix("\n").split("\n")
