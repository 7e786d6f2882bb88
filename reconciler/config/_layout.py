"""Where every key, value and mark of a YAML text stands, to the character: what an edit cuts and inserts by.

It knows places and nesting, not meanings; the strict reader (``_parse``) has accepted the text before. Indexes count characters of
the text, which has no byte order mark and ends with a line end.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.scanner import Scanner
from ruamel.yaml.tokens import BlockEntryToken, FlowEntryToken, KeyToken, ValueToken

_LINE_END = re.compile(r"\r\n|\r|\n")
_PROPERTY = re.compile(r"&[^\s,\[\]{}]+")
_FILL = re.compile(r"(?:\s+|#[^\r\n]*)*")
_BLANK = " \t\r\n"
_HEADER = re.compile(r"[|>][-+0-9]*")


class Kind(Enum):
    """What a node is."""

    SCALAR = auto()
    ALIAS = auto()
    MAPPING = auto()
    SEQUENCE = auto()


@dataclass(slots=True, eq=False)
class Node:
    """One value or key as it is written. Two nodes are the same when they are one object."""

    kind: Kind
    start: int
    """Of its anchor, if it has one."""
    body: int
    """Of the content behind the anchor."""
    end: int
    """Just after the last character of the content; comments and blank lines behind it are not in it, unless they are the value."""
    anchor: str | None = None
    flow: bool = False
    style: str = ""
    """Of a scalar: ``'``, ``"``, ``|``, ``>``, or empty for plain text."""
    text: str = ""
    """Of a scalar, unescaped and unresolved."""
    target: Node | None = None
    """Of an alias: the node with the anchor."""
    entries: list[Entry] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """A value that was left out; an anchor may stand in its place."""
        return self.kind is Kind.SCALAR and self.body == self.end

    @property
    def in_block(self) -> bool:
        """A collection without brackets."""
        return self.kind in (Kind.MAPPING, Kind.SEQUENCE) and not self.flow

    @property
    def literal(self) -> bool:
        """A scalar of whole lines below its header."""
        return self.style in ("|", ">")

    def walk(self) -> Iterator[Node]:
        """This node and all below it, in the order of the text; aliases are not followed."""
        yield self
        for entry in self.entries:
            if entry.key is not None:
                yield from entry.key.walk()
            yield from entry.value.walk()

    def entry(self, name: str) -> Entry | None:
        """The own entry with this key; keys that come in by a merge are not found."""
        return next((entry for entry in self.entries if entry.name == name), None)


@dataclass(slots=True, eq=False)
class Entry:
    """A pair of a mapping, or an item of a sequence."""

    start: int
    """Of the key, its ``?``, the item's dash, or the item itself between brackets."""
    mark: int
    """Just after the colon or the dash; where there is none, the end of the key or the start of the item."""
    key: Node | None
    value: Node

    @property
    def end(self) -> int:
        """Just after the last character of the entry."""
        return max(self.mark, self.value.end)

    @property
    def name(self) -> str | None:
        """The key's text; None for an item."""
        key = self.key.target or self.key if self.key is not None else None
        return key.text if key is not None else None


class Lines:
    """The lines of a text, however they end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._starts = [0, *(found.end() for found in _LINE_END.finditer(text))]
        if self._starts[-1] == len(text) and text:
            self._starts.pop()

    def start(self, index: int) -> int:
        """Where the line of this character begins."""
        return self._starts[bisect_left(self._starts, index + 1) - 1]

    def after(self, index: int) -> int:
        """Where the line after this character's begins; the text's end for the last one."""
        at = bisect_left(self._starts, index + 1)
        return self._starts[at] if at < len(self._starts) else len(self.text)

    def end(self, index: int) -> int:
        """Where this character's line ends, before its line end."""
        at = self.after(index)
        while at > index and self.text[at - 1] in "\r\n":
            at -= 1
        return at

    def number(self, index: int) -> int:
        """Counted from 1."""
        return bisect_left(self._starts, index + 1)

    def ending(self, index: int) -> str:
        """How the line before this index ends; as the first line of the text does where there is none before it."""
        before = self.text[max(index - 2, 0) : index]
        found = _LINE_END.search(before) if before.endswith(("\r", "\n")) else _LINE_END.search(self.text)
        return found[0] if found else "\n"

    def prefix(self, index: int) -> str:
        """What stands before this character on its line."""
        return self.text[self.start(index) : index]


class _Listening(Scanner):
    """A scanner that tells of every token the parser takes."""

    def __init__(self, loader: Any, *, mark: Callable[[Any], None]) -> None:
        super().__init__(loader=loader)
        self._mark = mark

    def get_token(self) -> Any:
        """The next token."""
        token = super().get_token()
        self._mark(token)
        return token


class Layout:
    """The layout of one document; ``root`` is None when there is only an empty one."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = Lines(text)
        self._colons: list[int] = []
        self._dashes: list[int] = []
        self._questions: list[int] = []
        self.commas: list[int] = []
        self._anchors: dict[str, Node] = {}
        self.uses: dict[int, list[Node]] = {}
        """By the identity of an anchored node: the aliases that mean it, in the order of the text."""
        self._events: Iterator[Any] = iter(self._listened())
        self.finish = len(text)
        """Where the document ends: at ``...``, or at the end of the text."""
        self.root = self._document()

    def _listened(self) -> list[Any]:
        """All events of the text, and on the way the places of its marks: the parser takes each token once, and shows it here too."""
        yaml = YAML(typ="safe", pure=True)
        yaml.Scanner = partial(_Listening, mark=self._mark)
        return list(yaml.parse(self.text))

    def _mark(self, token: Any) -> None:
        start = token.start_mark.index
        if isinstance(token, ValueToken):
            self._colons.append(start)
        elif isinstance(token, BlockEntryToken):
            self._dashes.append(start)
        elif isinstance(token, FlowEntryToken):
            self.commas.append(start)
        elif isinstance(token, KeyToken) and token.end_mark.index > start:
            self._questions.append(start)

    def _document(self) -> Node | None:
        root = None
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                root = self._node(next(self._events))
            elif isinstance(event, DocumentEndEvent) and event.explicit:
                self.finish = event.start_mark.index
        return None if root is None or root.empty else root

    def _node(self, event: Any) -> Node:
        start, end = event.start_mark.index, event.end_mark.index
        if isinstance(event, AliasEvent):
            target = self._anchors[event.anchor]
            node = Node(Kind.ALIAS, start, start, end, target=target)
            self.uses.setdefault(id(target), []).append(node)
            return node
        body = start
        if event.anchor is not None and (found := _PROPERTY.match(self.text, start)):
            filled = _FILL.match(self.text, found.end()) if end > found.end() else None
            body = filled.end() if filled else found.end()
        if isinstance(event, ScalarEvent):
            node = Node(Kind.SCALAR, start, body, end, style=event.style or "", text=event.value)
            self._trim(node)
        elif isinstance(event, MappingStartEvent):
            node = Node(Kind.MAPPING, start, body, end, flow=bool(event.flow_style))
            self._pairs(node)
        else:
            assert isinstance(event, SequenceStartEvent)
            node = Node(Kind.SEQUENCE, start, body, end, flow=bool(event.flow_style))
            self._items(node)
        node.anchor = event.anchor
        if node.anchor is not None:
            self._anchors[node.anchor] = node
        return node

    def _trim(self, node: Node) -> None:
        """Take what is not the value from a scalar's end."""
        if node.style in ("'", '"'):
            return
        if not node.literal:
            while node.end > node.body and self.text[node.end - 1] in _BLANK:
                node.end -= 1
            return
        header = _HEADER.match(self.text, node.body)
        assert header is not None
        rows: list[tuple[int, int]] = []
        at = self.lines.after(node.body)
        while at < node.end:
            following = self.lines.after(at)
            rows.append((at, len(self.text[at:following].rstrip("\r\n"))))
            at = following
        digits = [int(character) for character in header[0] if character.isdigit()]
        filled = [self.text[row : row + length] for row, length in rows if self.text[row : row + length].strip(" ")]
        indent = min((len(line) - len(line.lstrip(" ")) for line in filled), default=0)
        if not digits and "+" not in header[0]:
            while rows and not self.text[rows[-1][0] : sum(rows[-1])].strip(" ") and rows[-1][1] <= indent:
                rows.pop()
        elif "+" not in header[0]:
            while rows and rows[-1][1] == 0:
                rows.pop()
        node.end = sum(rows[-1]) if rows else self.lines.end(node.body)

    @staticmethod
    def _next(places: list[int], index: int) -> int | None:
        at = bisect_left(places, index)
        return places[at] if at < len(places) else None

    def _pairs(self, node: Node) -> None:
        while not isinstance(event := next(self._events), MappingEndEvent):
            key = self._node(event)
            value = self._node(next(self._events))
            colon = self._next(self._colons, key.end)
            limit = value.start if not value.empty or value.anchor else value.start - 1
            mark = colon + 1 if colon is not None and colon <= limit else key.end
            self._seat(value, mark)
            start = key.start
            question = bisect_left(self._questions, start) - 1
            if question >= 0 and not self.text[self._questions[question] + 1 : start].strip():
                start = self._questions[question]
            node.entries.append(Entry(start, mark, key, value))
        self._close(node, event)

    def _items(self, node: Node) -> None:
        while not isinstance(event := next(self._events), SequenceEndEvent):
            value = self._node(event)
            start = mark = value.start
            if not node.flow:
                start = self._dashes[bisect_left(self._dashes, value.start) - 1]
                mark = start + 1
                self._seat(value, mark)
            node.entries.append(Entry(start, mark, None, value))
        self._close(node, event)

    @staticmethod
    def _seat(value: Node, mark: int) -> None:
        """A value that was left out is where it would be; the parser reports it at whatever comes next."""
        if value.empty and value.anchor is None:
            value.start = value.body = value.end = mark

    @staticmethod
    def _close(node: Node, event: Any) -> None:
        if node.flow:
            node.end = event.end_mark.index
        elif node.entries:
            node.end = node.entries[-1].end

    def comma(self, start: int, end: int) -> int | None:
        """The first comma between two places in a flow collection."""
        found = self._next(self.commas, start)
        return found if found is not None and found < end else None

    def header(self, node: Node) -> int:
        """Just after the ``|`` or ``>`` of a scalar of whole lines, with its indicators."""
        found = _HEADER.match(self.text, node.body)
        assert found is not None
        return found.end()

    def anchor_end(self, node: Node) -> int:
        """Just after the node's anchor."""
        found = _PROPERTY.match(self.text, node.start)
        return found.end() if node.anchor is not None and found else node.start
