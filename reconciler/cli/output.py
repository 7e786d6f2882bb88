"""The forms of ``-o``: JSON as it came, YAML of the same data, and aligned columns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence

from reconciler.cli.answers import Json
from reconciler.cli.terminal import out, unicode_output

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_RESERVED = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
"""Words that some YAML reader takes for something else than text, in lower case."""


def print_json(value: Json) -> None:
    """Indented JSON; escaped where the stream cannot show everything, so that nothing is lost."""
    out(json.dumps(value, indent=2, ensure_ascii=not unicode_output()))


def print_json_line(value: Json) -> None:
    """JSON in one line, for streams of values."""
    out(json.dumps(value, ensure_ascii=not unicode_output()))


def print_yaml(value: Json) -> None:
    """Block style YAML 1.2."""
    out("\n".join(yaml_lines(value)))


def yaml_lines(value: Json) -> Iterator[str]:
    """JSON data as YAML: mappings and lists as blocks, everything that is not plainly a word in JSON's quotes (which are YAML's too)."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _entry(f"{_scalar(key)}:", item, inner="  ")
    elif isinstance(value, list) and value:
        for item in value:
            if isinstance(item, (dict, list)) and item:
                lines = list(yaml_lines(item))
                yield f"- {lines[0]}"
                yield from (f"  {line}" for line in lines[1:])
            else:
                yield f"- {_scalar(item)}"
    else:
        yield _scalar(value)


def _entry(head: str, item: Json, *, inner: str) -> Iterator[str]:
    if isinstance(item, (dict, list)) and item:
        yield head
        yield from (inner + line for line in yaml_lines(item))
    else:
        yield f"{head} {_scalar(item)}"


def _scalar(value: Json) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    text = json.dumps(value, ensure_ascii=False)
    return "".join(character if _shown(character) else _escape(ord(character)) for character in text)


def _shown(character: str) -> bool:
    return character == " " or "!" <= character <= "~" or (character.isprintable() and unicode_output())


def _escape(point: int) -> str:
    """YAML's escapes: one for each character, where JSON has pairs of surrogates; C1 controls must not stand as they are."""
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def columns(rows: Sequence[Sequence[str]], style: Callable[[int, int, str], str] | None = None) -> Iterator[str]:
    """Rows as aligned lines, two spaces between columns; ``style(row, column, padded)`` may colour a cell after it was padded."""
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        cells[-1] = cells[-1].rstrip()
        if style is not None:
            cells = [style(number, column, cell) for column, cell in enumerate(cells)]
        yield "  ".join(cells).rstrip()
