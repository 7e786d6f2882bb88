"""Edits a YAML text by cutting and inserting characters where keys and values stand, so that every other byte stays as it was.

Works on mappings in block or flow style; what it cannot do safely raises :class:`Unsupported`. It proves nothing: the caller reads the
result again and compares meanings.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from reconciler.config._guard import BadScalar, resolve

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_OLD_YAML = re.compile(r"(?i:y|n|yes|no|on|off)|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
"""Text that YAML 1.1 takes for a boolean or a number in base 60; we do not, other people's tools do."""
_WIDE = 1 << 20
"""Columns; no line of the user's is ever folded."""


class Unsupported(Exception):
    """This construct cannot be edited by splicing."""


def plain_text(value: str) -> str:
    """Text as YAML: bare where nobody can take it for anything else, quoted otherwise."""
    try:
        if _PLAIN.fullmatch(value) and not _OLD_YAML.fullmatch(value) and resolve(value) == value:
            return value
    except BadScalar:
        pass
    return json.dumps(value, ensure_ascii=False)


def flow(value: JsonValue) -> str:
    """The value on one line: JSON is YAML."""
    return plain_text(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _quoted(value: JsonValue) -> Any:
    """A fresh copy, with quotes around text that YAML 1.1 programs would misread."""
    if isinstance(value, Mapping):
        return {key: _quoted(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_quoted(item) for item in value]
    if isinstance(value, str) and _OLD_YAML.fullmatch(value):
        return DoubleQuotedScalarString(value)
    return value


def block(value: Mapping[str, JsonValue], step: int) -> list[str]:
    """A mapping as lines of block style, unindented, without line ends."""
    yaml = YAML(typ="rt", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = _WIDE
    yaml.indent(mapping=step, sequence=step + 2, offset=step)
    stream = io.StringIO()
    yaml.dump(_quoted(dict(value)), stream)
    return stream.getvalue().removesuffix("\n").split("\n")


@dataclass(slots=True)
class Splicer:
    """One edit of one text: plan changes with the methods, then take :meth:`result`. The text must have passed the guard."""

    text: str
    root: Any = field(init=False)
    """ruamel's node graph; it declares no types."""
    newline: str = field(init=False)
    _changes: list[tuple[int, int, int, int, str]] = field(default_factory=list)
    """Start, end, minus the indentation (of lines put in at one place the deeper go first), order of planning, new text."""

    def __post_init__(self) -> None:
        self.root = YAML(typ="safe", pure=True).compose(self.text)
        self.newline = "\r\n" if "\r\n" in self.text else "\n"

    def result(self) -> str:
        """The text with all planned changes; Unsupported when two of them touch."""
        text, after = self.text, len(self.text) + 1
        for start, end, _, _, new in sorted(self._changes, reverse=True):
            if end > after:
                raise Unsupported("changes overlap")
            text, after = text[:start] + new + text[end:], start
        return text

    def _change(self, start: int, end: int, new: str, indent: int = 0) -> None:
        self._changes.append((start, end, -indent, len(self._changes), new))

    @staticmethod
    def pair(mapping: Any, key: str) -> tuple[Any, Any] | None:
        """The key's and the value's node, own keys only."""
        return next((pair for pair in mapping.value if isinstance(pair[0], ScalarNode) and pair[0].value == key), None)

    @staticmethod
    def is_alias(key: Any, value: Any) -> bool:
        """Whether the value is written elsewhere."""
        return bool(value.start_mark.index < key.end_mark.index)

    def has_merge(self, mapping: Any) -> bool:
        """Whether ``<<`` brings keys in."""
        return self.pair(mapping, "<<") is not None

    def step(self, mapping: Any) -> int:
        """Columns by which the file indents; looked up in the given mapping's first nested block."""
        if not mapping.flow_style and mapping.value:
            column = mapping.value[0][0].start_mark.column
            for key, value in mapping.value:
                if (
                    isinstance(value, MappingNode)
                    and not value.flow_style
                    and value.value
                    and not self.is_alias(key, value)
                ):
                    return max(int(value.value[0][0].start_mark.column) - int(column), 1)
        return 2

    def _colon(self, key: Any) -> int:
        found = re.compile(r"\s*:").match(self.text, key.end_mark.index)
        if found is None:
            raise Unsupported("a key without its colon on the same line")
        return found.end()

    def end(self, key: Any, value: Any) -> int:
        """Index just after the last character of the pair's value."""
        colon = self._colon(key)
        if self.is_alias(key, value):
            found = re.compile(r"\s*\*[^\s,\]}]+").match(self.text, colon)
            if found is None:
                raise Unsupported("an alias on another line")
            return found.end()
        if isinstance(value, ScalarNode):
            if value.start_mark.index == value.end_mark.index or (not value.value and value.style is None):
                return max(colon, value.end_mark.index if value.anchor else colon)
            return len(self.text[: value.end_mark.index].rstrip(" \t\r\n"))
        if value.flow_style or not value.value:
            return int(value.end_mark.index)
        return self.end(*value.value[-1]) if isinstance(value, MappingNode) else self._item_end(value)

    def _item_end(self, sequence: Any) -> int:
        """Index just after the last character of a block list's last item."""
        item = sequence.value[-1]
        if item.start_mark.index < sequence.start_mark.index:
            raise Unsupported("an alias as the last item")
        if isinstance(item, ScalarNode):
            end = len(self.text[: item.end_mark.index].rstrip(" \t\r\n"))
            if not item.value and item.style is None and self.text[end - 1] != "-":
                raise Unsupported("an item that was left out, with a comment behind it")
            return end
        if item.flow_style or not item.value:
            return int(item.end_mark.index)
        return self.end(*item.value[-1]) if isinstance(item, MappingNode) else self._item_end(item)

    def _line_start(self, index: int) -> int:
        return self.text.rfind("\n", 0, index) + 1

    def _line_end(self, index: int) -> int:
        """Index just after the line's end."""
        found = self.text.find("\n", index)
        return len(self.text) if found < 0 else found + 1

    def _column(self, key: Any) -> int:
        """The key's column, when nothing but blanks stands before it."""
        start = self._line_start(key.start_mark.index)
        if self.text[start : key.start_mark.index].strip(" "):
            raise Unsupported("a block key after other text")
        return int(key.start_mark.index) - start

    def _insert_lines(self, index: int, lines: list[str], indent: int) -> None:
        body = "".join(f"{' ' * indent}{line}".rstrip(" ") + self.newline for line in lines)
        if index == len(self.text) and self.text and not self.text.endswith(("\n", "\r")):
            body = self.newline + body
        self._change(index, index, body, indent)

    def add(self, mapping: Any, key: str, value: JsonValue, *, first: bool = False) -> None:
        """Put a pair at the end (or the beginning) of a mapping that is not empty."""
        if mapping.flow_style:
            self._add_flow(mapping, key, value, first=first)
            return
        column = self._column(mapping.value[0][0])
        start = mapping.value[0][0].start_mark.index
        at = self._line_start(start) if first else self._line_end(self.end(*mapping.value[-1]))
        self._insert_lines(at, block({key: value}, self.step(self.root)), column)

    def _add_flow(self, mapping: Any, key: str, value: JsonValue, *, first: bool) -> None:
        pair = f"{json.dumps(key) if self._is_json(mapping) else plain_text(key)}: {self._flow_like(mapping, value)}"
        opening, closing = mapping.start_mark.index, mapping.end_mark.index - 1
        if mapping.anchor:
            opening = self.text.index("{", opening)
        if not mapping.value:
            self._change(opening + 1, closing, pair)
        elif first:
            at = mapping.value[0][0].start_mark.index
            self._change(at, at, pair + ", ")
        else:
            at = self.end(*mapping.value[-1])
            self._change(at, at, ", " + pair)

    def _is_json(self, mapping: Any) -> bool:
        return bool(mapping.value) and all(key.style == '"' for key, _ in mapping.value)

    def _flow_like(self, mapping: Any, value: JsonValue) -> str:
        return json.dumps(value, ensure_ascii=False) if self._is_json(mapping) else flow(value)

    def remove(self, mapping: Any, key: str) -> None:
        """Take a pair out of a mapping that has others."""
        index = next(number for number, pair in enumerate(mapping.value) if pair[0].value == key)
        key_node, value = mapping.value[index]
        if mapping.flow_style:
            if index + 1 < len(mapping.value):
                self._change(key_node.start_mark.index, mapping.value[index + 1][0].start_mark.index, "")
            else:
                self._change(self.end(*mapping.value[index - 1]), self.end(key_node, value), "")
            return
        column = self._column(key_node)
        start = self._leading_comments(self._line_start(key_node.start_mark.index), column)
        stop = self._trailing_comments(self._line_end(self.end(key_node, value)), column)
        self._change(start, stop, "")

    def _leading_comments(self, start: int, column: int) -> int:
        """Start of the comment lines right above, if a blank line sets them off: then they speak of this key alone."""
        at = start
        while at:
            above = self._line_start(at - 1)
            line = self.text[above:at].rstrip("\r\n")
            if line.startswith(" " * column + "#"):
                at = above
            else:
                return at if not line.strip() else start
        return start

    def _trailing_comments(self, stop: int, column: int) -> int:
        """End of the comment lines right below that are indented deeper than the key: they belong to its value."""
        at = stop
        while at < len(self.text):
            end = self._line_end(at)
            line = self.text[at:end]
            if not line.strip():
                at = end
            elif line.lstrip(" ").startswith("#") and len(line) - len(line.lstrip(" ")) > column:
                at = stop = end
            else:
                break
        return stop

    def replace(self, mapping: Any, key_node: Any, value: Any, new: JsonValue) -> None:
        """Put another value at a key, in the mapping's own style."""
        colon, end = self._colon(key_node), self.end(key_node, value)
        alias = self.is_alias(key_node, value)
        is_scalar = not isinstance(new, (dict, list))
        if not alias and isinstance(value, ScalarNode) and is_scalar and end > colon and value.style not in ("|", ">"):
            self._change(value.start_mark.index, end, self._scalar_like(value, new, mapping))
            return
        inline = mapping.flow_style or is_scalar or not new or isinstance(new, list)
        in_block = not alias and isinstance(value, (MappingNode, SequenceNode)) and not value.flow_style and end > colon
        if inline:
            self._change(colon, colon if in_block else end, " " + self._flow_like(mapping, new))
            if in_block:
                self._change(self._line_end(colon), self._line_end(end), "")
            return
        if in_block:
            self._change(self._line_end(colon), self._line_end(end), "")
        else:
            self._change(colon, end, "")
        assert isinstance(new, dict)
        step = self.step(self.root)
        self._insert_lines(self._line_end(end), block(new, step), self._column(key_node) + step)

    def _scalar_like(self, old: Any, new: JsonValue, mapping: Any) -> str:
        """The new scalar with the old one's quotes, where it is text."""
        if isinstance(new, str) and old.style == "'" and new.isprintable():
            return "'" + new.replace("'", "''") + "'"
        if isinstance(new, str) and (old.style == '"' or self._is_json(mapping)):
            return json.dumps(new, ensure_ascii=False)
        if isinstance(new, str) and not mapping.flow_style:
            return block({"k": new}, 2)[0].removeprefix("k: ")
        return flow(new)
