"""YAML text to a tree, strictly: YAML 1.2, one document, text keys, no tags, no duplicates, every limit of the guard.

The only reader of files. It listens to ruamel's parser events and builds the values itself, so that nothing is constructed that the
guard has not counted, and every key and value keeps its place. A new parser per file: ruamel's remembers ``%YAML`` directives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from reconciler.config._guard import MAX_PROBLEMS, BadScalar, Guard, check_text, decode, rejected, resolve
from reconciler.config._syntax import syntax_problem
from reconciler.config._tree import Entry, Node, Place, Scalar, Sequence, Table
from reconciler.core.errors import Problem, Rejected

EMPTY_MESSAGE = "no document; write `instances: {}` to mean none"
_MERGE = "<<"


class Built(NamedTuple):
    """A complete node, with its size and height once every alias is followed."""

    node: Node
    size: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One file, read."""

    name: str
    root: Table
    lines: tuple[str, ...]
    problems: tuple[Problem, ...]
    """Everything wrong that did not stop the reading: duplicate keys, tags, dates, keys that are not text."""


def split_lines(text: str) -> tuple[str, ...]:
    """Lines as the parser counts them."""
    return tuple(re.split(r"\r\n|\r|\n", text))


def safe_lines(data: bytes, name: str) -> tuple[str, ...]:
    """The lines for a caret display, whatever state the bytes are in; empty when they are not text at all."""
    try:
        return split_lines(decode(data, name))
    except Rejected:
        return split_lines(data.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}"))


def parse(data: bytes, *, name: str, guard: Guard | None = None) -> Document:
    """Read one document; Rejected for anything that stops the reading, with what was found wrong before it.

    ``guard`` is shared between the files of a folder. The one place where failures of the YAML library become ours.
    """
    text = decode(data, name)
    builder = _Builder(name=name, guard=guard or Guard(), text=text)
    try:
        root = builder.document()
    except Rejected as stop:
        raise Rejected(*builder.problems, *stop.problems) from None
    except YAMLError as error:
        raise Rejected(*builder.problems, syntax_problem(error, text, name, split_lines(text))) from None
    except (RecursionError, MemoryError):
        message = "too deeply nested or too large to read"
        raise rejected(Place(name, 1, 1), message, code="CONFIG_TOO_COMPLEX") from None
    except (ValueError, OSError) as error:  # UnicodeError is a ValueError
        raise Rejected(*builder.problems, *rejected(Place(name, 1, 1), f"not valid YAML: {error}").problems) from None
    return Document(name=name, root=root, lines=split_lines(text), problems=tuple(builder.problems))


def _after_colon(name: str, key: Any, value: Any) -> Place | None:
    """Where a value that was left out would stand; the parser reports it at whatever comes next."""
    if isinstance(value, ScalarEvent) and not value.value and value.implicit[0] and value.anchor is None:
        return Place(name, key.end_mark.line + 1, key.end_mark.column + 2)
    return None


@dataclass(slots=True)
class _Builder:
    """Turns one stream of events into one tree."""

    name: str
    guard: Guard
    text: str
    problems: list[Problem] = field(default_factory=list)
    anchors: dict[str, Built | None] = field(default_factory=dict)
    """None while the anchored value is still being read: an alias to it would contain itself."""
    events: Iterator[Any] = field(init=False)
    """ruamel's events; it declares no types for what they hold."""

    def __post_init__(self) -> None:
        self.events = YAML(typ="safe", pure=True).parse(self.text)

    def document(self) -> Table:
        """The one document's root."""
        start = self._next_document()
        if start is None:
            raise rejected(Place(self.name, 1, 1), EMPTY_MESSAGE, code="CONFIG_EMPTY")
        self._directives(start)
        root = self._value(next(self.events), 1).node
        second = self._next_document()
        if second is not None:
            raise rejected(self._place(second), "a second document in one file", hint="keep one; remove this `---`")
        if isinstance(root, Scalar) and root.value is None:
            raise rejected(Place(self.name, 1, 1), EMPTY_MESSAGE, code="CONFIG_EMPTY")
        if not isinstance(root, Table):
            raise rejected(root.place, "expected a mapping such as `instances: …` as the whole file")
        return root

    def _next_document(self) -> DocumentStartEvent | None:
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                return event
            if isinstance(event, StreamEndEvent):
                break
        return None

    def _directives(self, start: DocumentStartEvent) -> None:
        lines = split_lines(self.text)
        row = next((number for number, line in enumerate(lines, 1) if line.startswith("%")), 1)
        if start.version is not None and tuple(start.version) != (1, 2):
            version = ".".join(str(part) for part in start.version)
            raise rejected(
                Place(self.name, row, 1), f"%YAML {version} is not read here", hint="remove the line: YAML 1.2 it is"
            )
        if start.tags:
            raise rejected(Place(self.name, row, 1), "%TAG is not used here", hint="remove the line")

    def _place(self, event: Any) -> Place:
        mark = event.start_mark
        return Place(self.name, mark.line + 1, mark.column + 1)

    def _wrong(self, place: Place, message: str, hint: str | None = None, also: tuple[Place, ...] = ()) -> None:
        problem = Problem(
            message=message,
            hint=hint,
            file=place.file,
            line=place.line,
            column=place.column,
            also=also,
        )
        if problem in self.problems:
            return
        self.problems.append(problem)
        if len(self.problems) > MAX_PROBLEMS:
            raise rejected(place, f"more than {MAX_PROBLEMS} problems; the rest is not shown")

    def _value(self, event: Any, depth: int, place: Place | None = None) -> Built:
        place = place or self._place(event)
        self.guard.node(place, depth)
        if isinstance(event, AliasEvent):
            return self._alias(event, place)
        anchor = event.anchor
        if anchor is not None:
            self.anchors[anchor] = None
        if event.ctag is not None:
            self._wrong(place, "tags (`!…`) are not used here", "remove it; put text in quotes")
        if isinstance(event, ScalarEvent):
            built = Built(self._scalar(event, place), 1, 1)
        elif isinstance(event, SequenceStartEvent):
            built = self._sequence(place, depth)
        else:
            built = self._table(place, depth)
        if anchor is not None:
            self.anchors[anchor] = built
        return built

    def _alias(self, event: AliasEvent, place: Place) -> Built:
        self.guard.alias(place)
        if event.anchor not in self.anchors:
            self._wrong(
                place, f"*{event.anchor} refers to an anchor that is not defined above", f"define &{event.anchor} first"
            )
            return Built(Scalar(None, place), 1, 1)
        built = self.anchors[event.anchor]
        if built is None:
            raise rejected(place, f"*{event.anchor} contains itself", code="CONFIG_TOO_COMPLEX")
        return built

    def _scalar(self, event: ScalarEvent, place: Place) -> Scalar:
        text = event.value
        end = (event.end_mark.line + 1, event.end_mark.column + 1)
        try:
            is_plain = event.implicit[0]
            value = resolve(text) if is_plain else text
            return Scalar(check_text(value) if isinstance(value, str) else value, place, text, end=end)
        except BadScalar as bad:
            self._wrong(place, str(bad), bad.hint)
            return Scalar(None, place, text, end=end)

    def _sequence(self, place: Place, depth: int) -> Built:
        items: list[Node] = []
        size, height = 1, 0
        while not isinstance(event := next(self.events), SequenceEndEvent):
            built = self._value(event, depth + 1)
            items.append(built.node)
            size += built.size
            height = max(height, built.height)
            self.guard.grown(place, size, height + 1)
        return Built(Sequence(tuple(items), place), size, height + 1)

    def _table(self, place: Place, depth: int) -> Built:
        entries: dict[str, Entry] = {}
        merges: list[tuple[Place, Node]] = []
        size, height = 1, 0
        while not isinstance(event := next(self.events), MappingEndEvent):
            key_place = self._place(event)
            key = self._key(event, depth)
            value_event = next(self.events)
            value = self._value(value_event, depth + 1, _after_colon(self.name, event, value_event))
            size += 1 + value.size
            height = max(height, value.height)
            self.guard.grown(place, size, height + 1)
            if key is None:
                continue
            if key == _MERGE and isinstance(event, ScalarEvent) and event.implicit[0]:
                merges.append((self._place(value_event), value.node))
            elif key in entries:
                self._duplicate(key, key_place, entries[key].key_place)
            else:
                entries[key] = Entry(key_place, value.node)
        if len(merges) > 1:
            self._duplicate(_MERGE, merges[1][0], merges[0][0])
        for merge_place, merged in merges[:1]:
            self._merge(entries, merged, merge_place)
        return Built(Table(entries, place), size, height + 1)

    def _duplicate(self, key: str, place: Place, first: Place) -> None:
        self._wrong(place, f"`{key}` is given twice", f"the first one is at line {first.line}; keep one", also=(first,))

    def _key(self, event: Any, depth: int) -> str | None:
        """The key's text, or None (and a problem) for anything else."""
        place = self._place(event)
        if isinstance(event, (SequenceStartEvent, MappingStartEvent)):
            self._value(event, depth + 1)
            self._wrong(place, "a list or mapping cannot be a key", "keys are text")
            return None
        known = len(self.problems)
        node = self._value(event, depth + 1).node
        if isinstance(node, Scalar) and isinstance(node.value, str):
            return node.value
        if len(self.problems) == known:  # nothing said about it yet
            shown = node.raw if isinstance(node, Scalar) else ""
            self._wrong(place, "a key must be text", f'put it in quotes: "{shown}"' if shown else "give it a name")
        return None

    def _merge(self, entries: dict[str, Entry], merged: Node, place: Place) -> None:
        """``<<``: own keys win, then earlier tables over later ones."""
        tables = merged.items if isinstance(merged, Sequence) else (merged,)
        for table in tables:
            if not isinstance(table, Table):
                self._wrong(place, "`<<` takes a mapping, or a list of mappings", "write `<<: *anchor`")
                continue
            for key, entry in table.entries.items():
                entries.setdefault(key, entry)
